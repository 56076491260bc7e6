"""The text encoder: how texts become tokens and tokens batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from skembed._encoder import BatchPolicy, Fault, Prepared
from skembed._later import later
from skembed.acceleration import accelerate
from skembed.engine import BackboneEncoder
from skembed.exceptions import InvalidParameterError
from skembed.store import digest_of
from skembed.text._settings import NO_TOKENS, TextSettings

if TYPE_CHECKING:
    import torch
    from torch import nn

    from skembed.text._transformers import TransformerBackbone

__all__ = ["TextEncoder"]

_TOKENS_PER_BATCH = {"cpu": 4096, "cuda": 65_536, "mps": 8192}
"""Batch sizes that keep a device busy. CPU: measured on MiniLM, float32 and bfloat16 both peak
between 2,048 and 8,192 tokens; the larger sizes fall out of the second-level cache."""


_MOST_UNPACKED = 8
"""Times that a file may grow in memory: 4-bit weights, read as float32."""

_refuse_too_large = later("skembed.text._large", "check_room")


class TextEncoder(BackboneEncoder):
    """Encodes texts with a transformer."""

    backbone: TransformerBackbone
    n_few = 512

    def __init__(
        self, backbone: TransformerBackbone, settings: TextSettings, device: torch.device
    ) -> None:
        n_components = settings.n_components or backbone.n_components
        settings = replace(settings, n_components=n_components)
        super().__init__(backbone, settings, device)
        self.is_sharded = settings.is_sharded
        is_quantized = self.dtype == "int4" or (self.dtype == "int8" and device.type != "cpu")
        self.is_placed = self.is_sharded or is_quantized
        if self.is_placed and not getattr(backbone, "can_be_placed", False):
            wanted = "device='balanced'" if self.is_sharded else f"dtype={self.dtype!r}"
            raise InvalidParameterError(
                f"{wanted} needs a transformer in a folder or on the hub, and {backbone.name} is "
                f"read in another way ({type(backbone).__name__})."
            )
        if self.is_sharded:
            self.device = "balanced"
            self.model_key = digest_of({"kind": "sharded core", "core": self.model_key})
        self.in_chunks = settings.in_chunks
        self.limit = backbone.max_length
        self.cut_digest = digest_of({"limit": self.limit, "in_chunks": self.in_chunks})

    @property
    def policy(self) -> BatchPolicy:
        """How texts are put into batches; loads the model, whose layout decides it."""
        core: Any = self.core()
        return BatchPolicy(
            budget=_TOKENS_PER_BATCH[self.torch_device.type],
            layout=core.layout,
            # Chunks of long texts are all kept until they have run.
            n_ahead=256 if self.in_chunks else 2048,
        )

    def _load_core(self) -> nn.Module:
        self._check_room()
        if not self.is_placed:
            return super()._load_core()

        def load() -> nn.Module:
            where = self.torch_device, self.torch_dtype
            core = self.backbone.load_placed(*where, is_sharded=self.is_sharded)
            return accelerate(core, device=self.torch_device, dtype=self.torch_dtype)

        return self._loaded(load)

    def _check_room(self) -> None:
        """Refuse a model that does not fit, before it is read."""
        backbone, device, dtype = self.backbone, self.torch_device, self.torch_dtype
        if not hasattr(backbone, "n_bytes"):
            return  # no transformer, and small
        if device.type == "cpu" and not self.is_placed:  # it is converted after it has been read
            dtype = max(dtype, backbone.loaded_as(dtype), key=lambda each: each.itemsize)
        _refuse_too_large(
            backbone.name,
            lambda: backbone.n_bytes(dtype),
            at_most=_MOST_UNPACKED * backbone.source.n_bytes(),
            device=device,
            dtype=dtype,
            is_sharded=self.is_sharded,
        )

    def contents(self, items: Sequence[str]) -> Iterable[bytes]:
        """Return the texts in UTF-8."""
        return map(str.encode, items)

    def describe(self, item: str) -> str:
        """Return nothing: a text has no name."""
        return ""

    def prepare(self, items: Sequence[str]) -> list[Prepared | Fault]:
        """Tokenise texts; a part is an array of token ids, sizes count all tokens of a text."""
        ids = self.backbone.tokens.encode(items, is_parallel=self.torch_device.type == "cuda")
        return list(map(self._prepared, ids))

    def _prepared(self, ids: list[int]) -> Prepared | Fault:
        tokens = self.backbone.tokens
        size = tokens.size(ids)
        if not size:
            return Fault(NO_TOKENS)
        return Prepared(tokens.chunks(ids) if self.in_chunks else [tokens.cut(ids)], size)
