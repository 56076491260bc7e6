"""Rows of tables: dates, numbers, categories and words."""

from skembed.tabular._embedder import TabularEmbedder

__all__ = ["TabularEmbedder"]
