"""Which embedder is best: side by side on one's own rows, and as MTEB takes them."""

from skembed.model_selection._compare import compare_embedders
from skembed.model_selection._comparison import Comparison
from skembed.model_selection._mteb import MTEBModel

__all__ = ["Comparison", "MTEBModel", "compare_embedders"]
