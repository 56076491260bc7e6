"""Text in, vectors out."""

from skembed.text._embedder import TextEmbedder, TextReport

__all__ = ["TextEmbedder", "TextReport"]
