"""The text encoder: how texts become tokens and tokens batches.

A row crosses N frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from skembed._encoder import BatchPolicy, Fault, Prepared
from skembed.engine import BackboneEncoder
from skembed.text._transformers import NO_TOKENS, TransformerBackbone

__all__ = ["TextEncoder"]

_TOKENS_PER_BATCH = {"cpu": 4096, "cuda": 65_536, "mps": 8192}
"""Batch sizes that keep a device busy. CPU: measured on MiniLM, float32 and bfloat16 both peak
between 2,048 and 8,192 tokens; the larger sizes fall out of the second-level cache."""


class TextEncoder(BackboneEncoder):
    """Encodes texts with a transformer.

    Parameters
    ----------
    backbone : TransformerBackbone
        The model.
    device : device
        Where it runs.
    dtype : str
        What it computes in, as the user asked.
    n_components : int or None
        Leading features that are kept; None is as the model's files say.
    normalize : bool or "auto"
        Whether vectors have unit length; "auto" is as the model's files say.
    in_chunks : bool
        Whether a text that is too long is embedded in chunks instead of cut.
    """

    backbone: TransformerBackbone

    def __init__(
        self,
        backbone: TransformerBackbone,
        device: torch.device,
        *,
        dtype: str,
        n_components: int | None,
        normalize: bool | str,
        in_chunks: bool,
    ) -> None:
        super().__init__(
            backbone,
            device,
            dtype=dtype,
            n_components=backbone.n_components if n_components is None else n_components,
            normalize=backbone.normalizes if normalize == "auto" else bool(normalize),
            settings={"in_chunks": in_chunks},
        )
        self.in_chunks = in_chunks

    @property
    def max_length(self) -> int | None:
        """Most tokens that the model reads at once."""
        return self.backbone.max_length

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

    def prepare(self, items: Sequence[str]) -> list[Prepared | Fault]:
        """Tokenise texts; a part is an array of token ids, sizes count all tokens of a text."""
        is_parallel = self.torch_device.type == "cuda"
        return list(
            map(self._prepared, self.backbone.tokens.encode(items, is_parallel=is_parallel))
        )

    def _prepared(self, ids: list[int]) -> Prepared | Fault:
        tokens = self.backbone.tokens
        size = tokens.size(ids)
        if not size:
            return Fault(NO_TOKENS)
        return Prepared(tokens.chunks(ids) if self.in_chunks else [tokens.cut(ids)], size)
