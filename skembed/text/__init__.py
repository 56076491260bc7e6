"""Text in, vectors out."""

from skembed.text._embedder import TextEmbedder
from skembed.text._report import TextReport

__all__ = ["TextEmbedder", "TextReport"]
