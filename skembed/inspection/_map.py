"""From vectors to places on a map, and how far the map can be trusted.

Knows arrays only; draws nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, trustworthiness
from sklearn.neighbors import NearestNeighbors

from skembed._optional import import_optional
from skembed.exceptions import SkembedWarning, name_rows, warn_user

__all__ = [
    "METHODS",
    "MapQuality",
    "choose_rows",
    "find_places",
    "judge",
    "nearest_rows",
    "place_one_by_one",
]

METHODS = ("umap", "tsne", "pca")

N_NEIGHBORS = 10
_MOST_JUDGED = 2000
"""Trustworthiness takes all pairs of rows; of more, it is that of as many drawn at random."""

_PERPLEXITY = 30.0


@dataclass(frozen=True)
class MapQuality:
    """How far the neighbours on a map are those of the vectors.

    Attributes
    ----------
    trustworthiness : float
        From 0 to 1: how near, in the vectors' space, the rows are that the map shows as neighbours
        (`sklearn.manifold.trustworthiness`).
    knn_recall : float
        Share of each row's nearest neighbours that are among its nearest on the map.
    n_neighbors : int
        How many neighbours both look at.
    """

    trustworthiness: float
    knn_recall: float
    n_neighbors: int

    def __str__(self) -> str:
        return (
            f"trustworthiness {self.trustworthiness:.2f}; {self.knn_recall:.0%} of each row's "
            f"{self.n_neighbors} nearest neighbours are its nearest here"
        )


def choose_rows(
    vectors: NDArray[np.float32], max_rows: int, random_state: int | None
) -> NDArray[np.int64]:
    """Return the positions of the rows that are drawn, in their order: at most `max_rows`."""
    is_whole = np.isfinite(vectors).all(axis=1)
    bad = np.flatnonzero(~is_whole)
    if len(bad):
        warn_user(
            f"{len(bad):,} of {len(vectors):,} rows have no vector (NaN) and are left out "
            f"({name_rows(bad.tolist(), None)}).",
            SkembedWarning,
        )
    rows = np.flatnonzero(is_whole)
    if len(rows) > max_rows:
        rows = np.sort(np.random.default_rng(random_state).choice(rows, max_rows, replace=False))
    return rows


def find_places(
    vectors: NDArray[np.float32],
    method: str,
    *,
    metric: str,
    random_state: int | None,
    options: dict[str, Any],
) -> NDArray[np.float32]:
    """Return places on a map, shape (n, 2), found by one of `METHODS`."""
    n = len(vectors)
    if n < 3 or vectors.shape[1] < 2:  # nothing to lay out
        places = np.zeros((n, 2), dtype=np.float32)
        places[:, : vectors.shape[1]] = vectors[:, :2]
        return places
    reducer: Any
    own: dict[str, Any]
    if method == "umap":
        umap = import_optional("umap", extra="maps", purpose="A map by UMAP")
        own = {"n_neighbors": min(15, n - 1), "init": "spectral" if n > 12 else "random"}
        # With a seed it works in one thread, and warns of that unless it is told to.
        own |= {} if random_state is None else {"n_jobs": 1}
        reducer = umap.UMAP(**{**own, "metric": metric, "random_state": random_state, **options})
    elif method == "tsne":
        own = {"perplexity": min(_PERPLEXITY, (n - 1) / 3), "init": "pca"}
        reducer = TSNE(**{**own, "metric": metric, "random_state": random_state, **options})
    else:
        reducer = PCA(n_components=2, random_state=random_state, **options)
    with _torchs_threads_kept():
        found: NDArray[np.float32] = np.asarray(reducer.fit_transform(vectors), dtype=np.float32)
    return found


@contextmanager
def _torchs_threads_kept() -> Iterator[None]:
    """Give torch its number of threads back: UMAP's numba sets that of the OpenMP they share."""
    torch = sys.modules.get("torch")
    n_threads = None if torch is None else torch.get_num_threads()
    try:
        yield
    finally:
        if torch is not None:
            torch.set_num_threads(n_threads)


def judge(
    vectors: NDArray[np.float32], places: NDArray[np.float32], *, metric: str, seed: int
) -> MapQuality | None:
    """Return how far a map can be trusted, None of fewer rows than that takes."""
    n = len(vectors)
    k = min(N_NEIGHBORS, (n - 1) // 2)
    if k < 1:
        return None
    chosen = np.arange(n)
    if n > _MOST_JUDGED:
        chosen = np.sort(np.random.default_rng(seed).choice(n, _MOST_JUDGED, replace=False))
    trust = trustworthiness(
        vectors[chosen], places[chosen], n_neighbors=min(k, (len(chosen) - 1) // 2), metric=metric
    )
    near, near_here = (
        _neighbours(NearestNeighbors(n_neighbors=k + 1, metric=m).fit(each), each, chosen)
        for each, m in (_searchable(vectors, metric), (places, "euclidean"))
    )
    shared = [len(set(a) & set(b)) for a, b in zip(near, near_here, strict=True)]
    return MapQuality(float(trust), float(np.mean(shared)) / k, k)


def _neighbours(
    search: NearestNeighbors, points: NDArray[np.float32], chosen: NDArray[np.int64]
) -> list[list[int]]:
    """Return the neighbours of chosen points, themselves left out."""
    found = search.kneighbors(points[chosen], return_distance=False)
    return [
        [i for i in row if i != self_][: search.n_neighbors - 1]
        for row, self_ in zip(found.tolist(), chosen.tolist(), strict=True)
    ]


def _searchable(vectors: NDArray[np.float32], metric: str) -> tuple[NDArray[np.float32], str]:
    """Return vectors and a metric by which rows have the same neighbours, found fast."""
    if metric != "cosine":
        return vectors, metric
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    is_zero = norms == 0
    # In a column of their own zeros are at right angles to all, as scikit-learn has them.
    unit = np.hstack([vectors / np.where(is_zero, 1, norms), is_zero])
    return unit, "euclidean"  # many times faster than scikit-learn's cosine


def nearest_rows(vectors: NDArray[np.float32], *, metric: str) -> NDArray[np.uint32]:
    """Return the nearest others of each row, nearest first, shape (n, up to `N_NEIGHBORS`)."""
    vectors, metric = _searchable(vectors, metric)
    k = min(N_NEIGHBORS, len(vectors) - 1)
    found = NearestNeighbors(n_neighbors=k, metric=metric).fit(vectors).kneighbors()[1]
    nearest: NDArray[np.uint32] = found.astype("<u4")
    return nearest


def place_one_by_one(
    new: NDArray[np.float32],
    vectors: NDArray[np.float32],
    places: NDArray[np.float32],
    *,
    metric: str,
) -> NDArray[np.float32]:
    """Return places of new rows on a map: the mean of their nearest rows', by squared nearness.

    A row equal to one of the map lands on it. No row's place depends on the other new rows. Rows
    with NaN have places of NaN.
    """
    found = np.full((len(new), 2), np.nan, dtype=np.float32)
    is_whole = np.isfinite(new).all(axis=1)
    if not is_whole.any() or not len(vectors):
        return found
    k = min(N_NEIGHBORS, len(vectors))
    search = NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute").fit(vectors)
    distances, rows = search.kneighbors(new[is_whole])
    weights = 1 / np.maximum(distances, 1e-6) ** 2  # below it, rounding
    weights /= weights.sum(axis=1, keepdims=True)
    found[is_whole] = np.einsum("nk,nkd->nd", weights, places[rows])
    return found
