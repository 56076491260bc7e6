"""The user's settings for text vectors, as plain values. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from skembed._backbone import ModelSettings

__all__ = ["NO_TOKENS", "POOLINGS", "TextSettings"]

NO_TOKENS = "no tokens: the model's tokenizer finds none in this text"

POOLINGS = ("mean", "cls", "max", "mean_sqrt_len", "weighted_mean", "last_token")


@dataclass(frozen=True)
class TextSettings(ModelSettings):
    """The estimator's parameters that decide vectors, as plain values; see `TextEmbedder`."""

    prompt: str | None = "auto"
    max_length: int | None = None
    in_chunks: bool = False
    tokenizer: Any = None
    attention: str = "auto"
    base_url: str | None = None
    is_sharded: bool = False  # over all devices
