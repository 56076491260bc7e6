"""What a user asks of a text model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["POOLINGS", "TextSettings"]

POOLINGS = ("mean", "cls", "max", "mean_sqrt_len", "weighted_mean", "last_token")


@dataclass(frozen=True)
class TextSettings:
    """The estimator's parameters that decide vectors, as plain values; see `TextEmbedder`."""

    model: str | Path
    revision: str | None
    trust_remote_code: bool
    pooling: str
    prompt: str | None
    max_length: int | None
    normalize: bool | str
    n_components: int | None
    in_chunks: bool
    dtype: str
