"""What to do instead of embedding texts with a model that was made to write them."""

from __future__ import annotations

__all__ = ["advice_on_decoder"]

_HOW_WEAK = ""
"""A sentence with the numbers of a benchmark, beginning with a space: how weak, beside what."""


def advice_on_decoder(name: str) -> str:
    """Say that a plain decoder is a weak embedder, and what is better."""
    return (
        f"{name} is a decoder that was made to write texts, not to embed them: its vectors are "
        f"weak features.{_HOW_WEAK} Better is an embedding model (the default, or "
        "'Qwen/Qwen3-Embedding-0.6B'), or this one with attention='echo', or trained on your "
        "labels (training=FineTune('lora')). To keep it as it is, set pooling='last_token'. (Shown "
        "once.)"
    )
