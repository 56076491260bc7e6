"""Seeing embeddings: maps in two dimensions, and files for the Embedding Projector."""

from skembed.inspection._display import EmbeddingMapDisplay
from skembed.inspection._projector import export_projector

__all__ = ["EmbeddingMapDisplay", "export_projector"]
