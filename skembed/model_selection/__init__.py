"""Which model is best: embedders as MTEB takes them."""

from skembed.model_selection._mteb import MTEBModel

__all__ = ["MTEBModel"]
