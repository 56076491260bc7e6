"""Near duplicates and outliers among vectors, from the graph of their neighbours."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.neighbors import LocalOutlierFactor
from sklearn.utils import check_array

from skembed._inputs import labels_of
from skembed.exceptions import InvalidParameterError, SkembedWarning, warn_user
from skembed.neighbors._copies import Copies
from skembed.neighbors._transformer import ANNTransformer
from skembed.neighbors._vectors import comparable, find_distinct

__all__ = ["DuplicateGroup", "near_duplicates", "outliers"]

_MOST_TIMES = 32

_ROUNDING = 1e-6
"""Unit vectors of float32 that are equal may differ by as much."""


class DuplicateGroup(NamedTuple):
    """Rows that say the same.

    Attributes
    ----------
    rows : ndarray of int
        Positions, in order.
    cosines : ndarray of float
        Cosine of each to the first, which is 1 of itself.
    """

    rows: NDArray[np.int64]
    cosines: NDArray[np.float64]


def near_duplicates(
    X: Any,
    *,
    threshold: float = 0.95,
    n_neighbors: int = 10,
    n_jobs: int | None = None,
    random_state: Any = None,
) -> list[DuplicateGroup]:
    """Return the groups of rows whose vectors are equal or nearly so.

    Two rows whose cosine is at least `threshold` are in one group, and so are rows between which
    others make a chain of such pairs.

    Parameters
    ----------
    X : array-like of shape (n_rows, n_features)
        Vectors, such as an embedder gives.
    threshold : float, default=0.95
        Least cosine of near duplicates. Which one fits depends on the model: look at groups from
        around it.
    n_neighbors : int, default=10
        How many of the nearest vectors of each are looked at first, copies not counted. Where all
        of them are near duplicates it is doubled, up to 32 times as many; beyond, a warning says
        that a group may come in several parts.
    n_jobs, random_state
        As of `ANNTransformer`.

    Returns
    -------
    groups : list of DuplicateGroup
        Groups of at least two rows, in order of their first. To keep one row of each, drop the
        `rows[1:]`.

    See Also
    --------
    ANNTransformer

    Examples
    --------
    >>> import numpy as np
    >>> from skembed.neighbors import near_duplicates
    >>> X = np.array([[1, 0], [0, 1], [1, 0.01], [2, 0], [1, 1]])
    >>> [group.rows.tolist() for group in near_duplicates(X)]
    [[0, 2, 3]]
    """
    if not -1 <= threshold <= 1:
        raise InvalidParameterError(
            f"threshold={threshold!r}: expected a cosine, from -1 to 1, such as 0.95."
        )
    vectors = _vectors_of(X, "cosine", "near_duplicates")
    first, of = find_distinct(vectors)
    copies, distinct = Copies(of), vectors[first]
    search = ANNTransformer(metric="cosine", n_jobs=n_jobs, random_state=random_state)
    linked = _linked(search, distinct, n_neighbors, 1 - threshold + _ROUNDING)
    group_of = connected_components(linked, directed=False)[1]
    groups: list[DuplicateGroup] = []
    for numbers in _by_value(group_of):
        rows = np.sort(np.concatenate([copies.members(i) for i in numbers.tolist()]))
        if len(rows) > 1:
            products = vectors[rows].astype(np.float64) @ vectors[rows[0]].astype(np.float64)
            groups.append(DuplicateGroup(rows, np.minimum(products, 1.0)))
    return sorted(groups, key=lambda group: int(group.rows[0]))


def outliers(
    X: Any,
    *,
    n_neighbors: int = 20,
    metric: str = "cosine",
    n_jobs: int | None = None,
    random_state: Any = None,
) -> NDArray[np.float64]:
    """Return how much of an outlier each row is, by scikit-learn's `LocalOutlierFactor`.

    It compares how far a row is from its neighbours with how far these are from theirs. Equal rows
    count once: many copies of a row do not make it usual.

    Parameters
    ----------
    X : array-like of shape (n_rows, n_features)
        Vectors, such as an embedder gives.
    n_neighbors : int, default=20
        Neighbours of each row; of fewer different rows all others.
    metric : {"cosine", "euclidean"}, default="cosine"
        Distance between vectors.
    n_jobs, random_state
        As of `ANNTransformer`.

    Returns
    -------
    scores : ndarray of shape (n_rows,)
        As scikit-learn's `negative_outlier_factor_`: near -1 among others, and the lower the more
        of an outlier; `LocalOutlierFactor` calls those below -1.5 outliers.
        `np.argsort(scores)[:10]` are the ten most unusual rows.

    See Also
    --------
    ANNTransformer, sklearn.neighbors.LocalOutlierFactor

    Examples
    --------
    >>> import numpy as np
    >>> from skembed.neighbors import outliers
    >>> X = np.random.default_rng(0).normal([5, 0, 0], 0.5, size=(100, 3))
    >>> X[7] = [0, 0, 5]
    >>> int(outliers(X).argmin())
    7
    """
    vectors = _vectors_of(X, metric, "outliers")
    first, of = find_distinct(vectors)
    if len(first) < 2:
        return np.full(len(of), -1.0)  # nothing to compare with
    k = min(n_neighbors, len(first) - 1)
    graph = _graph(vectors[first], k, metric, n_jobs, random_state)
    factor = LocalOutlierFactor(n_neighbors=k, metric="precomputed").fit(graph)
    scores: NDArray[np.float64] = factor.negative_outlier_factor_[of]
    return scores


def _vectors_of(X: Any, metric: str, owner: str) -> NDArray[Any]:
    kinds = [np.float64, np.float32]
    checked = check_array(X, dtype=kinds, ensure_all_finite=False, ensure_min_samples=0)
    return comparable(checked, metric, owner=owner, labels=labels_of(X))


def _linked(search: ANNTransformer, vectors: NDArray[Any], k: int, most: float) -> csr_matrix:
    """Return the graph of vectors at most so far from each other."""
    n = len(vectors)
    links: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    rows, k, at_most = np.arange(n), min(k, n - 1), min(_MOST_TIMES * k, n - 1)
    if n > 1:
        search.fit(vectors)
    while n > 1 and len(rows):
        distances, found = search.kneighbors(vectors[rows], n_neighbors=k + 1)  # one is itself
        near = distances <= most
        links.append((np.repeat(rows, near.sum(axis=1)), found[near]))
        rows = rows[near.all(axis=1)]
        if k == at_most:
            break
        k = min(2 * k, at_most)
    if n > 1 and k < n - 1 and len(rows):
        warn_user(
            f"{len(rows):,} rows have more than {k:,} near duplicates each, so groups may come in "
            "several parts. Raise threshold or n_neighbors.",
            SkembedWarning,
        )
    if not links:
        return csr_matrix((n, n))
    begins, ends = (np.concatenate(part) for part in zip(*links, strict=True))
    return csr_matrix((np.ones(len(begins)), (begins, ends)), shape=(n, n))


def _graph(vectors: NDArray[Any], k: int, metric: str, n_jobs: Any, random_state: Any) -> Any:
    k = min(k, len(vectors) - 1)
    if len(vectors) < 2:
        return csr_matrix((len(vectors), len(vectors)))
    search = ANNTransformer(k, metric=metric, n_jobs=n_jobs, random_state=random_state)
    return search.fit_transform(vectors)


def _by_value(values: NDArray[Any]) -> list[NDArray[np.int64]]:
    """Return the positions of each value."""
    order = np.argsort(values, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(values[order])) + 1) if len(values) else []
