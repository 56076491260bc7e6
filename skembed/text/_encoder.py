"""The text encoder: how texts become tokens and tokens batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from skembed._encoder import BatchPolicy, Fault, Prepared
from skembed.engine import BackboneEncoder
from skembed.store import digest_of
from skembed.text._settings import NO_TOKENS, TextSettings

if TYPE_CHECKING:
    import torch

    from skembed.text._transformers import TransformerBackbone

__all__ = ["TextEncoder"]

_TOKENS_PER_BATCH = {"cpu": 4096, "cuda": 65_536, "mps": 8192}
"""Batch sizes that keep a device busy. CPU: measured on MiniLM, float32 and bfloat16 both peak
between 2,048 and 8,192 tokens; the larger sizes fall out of the second-level cache."""


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
