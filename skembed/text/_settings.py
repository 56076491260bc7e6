"""What a user asks of a text model."""

from __future__ import annotations

from dataclasses import dataclass

from skembed._backbone import ModelSettings

__all__ = ["POOLINGS", "TextSettings"]

POOLINGS = ("mean", "cls", "max", "mean_sqrt_len", "weighted_mean", "last_token")


@dataclass(frozen=True)
class TextSettings(ModelSettings):
    """The estimator's parameters that decide vectors, as plain values; see `TextEmbedder`."""

    prompt: str | None = "auto"
    max_length: int | None = None
    in_chunks: bool = False
