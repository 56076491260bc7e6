"""What to do instead of embedding texts with a model that was made to write them."""

from __future__ import annotations

__all__ = ["advice_on_decoder"]

_HOW_WEAK = (
    " In our benchmark (text_sources.py) the last token of one of 135M parameters agrees with "
    "people on how similar documents are by a correlation of 0.06, the mean of its tokens by 0.50, "
    "and an encoder of 22M by 0.65."
)
"""How weak, beside what: Lee's documents."""


def advice_on_decoder(name: str) -> str:
    """Say that a plain decoder is a weak embedder, and what is better."""
    return (
        f"{name} is a decoder that was made to write texts, not to embed them: its last token is a "
        f"weak embedding.{_HOW_WEAK} Better is an embedding model (the default, or "
        "'Qwen/Qwen3-Embedding-0.6B'), or this one with pooling='mean', with attention='echo', or "
        "trained on your labels (training=FineTune('lora')). To keep it as it is, set "
        "pooling='last_token'. (Shown once.)"
    )
