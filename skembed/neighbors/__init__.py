"""Which vectors are near each other: graphs of neighbours, near duplicates, outliers."""

from skembed.neighbors._near import DuplicateGroup, near_duplicates, outliers
from skembed.neighbors._transformer import ANNTransformer

__all__ = ["ANNTransformer", "DuplicateGroup", "near_duplicates", "outliers"]
