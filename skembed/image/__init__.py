"""Pictures: `ImageEmbedder` and its parts."""

from skembed.image._embedder import ImageEmbedder, ImageReport

__all__ = ["ImageEmbedder", "ImageReport"]
