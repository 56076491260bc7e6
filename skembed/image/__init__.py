"""Images: `ImageEmbedder` and what it is made of."""

from skembed.image._embedder import ImageEmbedder, ImageReport

__all__ = ["ImageEmbedder", "ImageReport"]
