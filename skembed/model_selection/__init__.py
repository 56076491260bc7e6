"""Choosing an embedder: side by side on one's own rows."""

from skembed.model_selection._compare import compare_embedders
from skembed.model_selection._comparison import Comparison

__all__ = ["Comparison", "compare_embedders"]
