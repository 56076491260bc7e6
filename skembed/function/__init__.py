"""Rows through a function of the user's: a client, a session, a lookup."""

from skembed._report import EmbeddingReport
from skembed.function._embedder import FunctionEmbedder

__all__ = ["EmbeddingReport", "FunctionEmbedder"]
