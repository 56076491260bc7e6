"""Seeing embeddings: maps in two dimensions."""

from skembed.inspection._display import EmbeddingMapDisplay

__all__ = ["EmbeddingMapDisplay"]
