"""The nearest of distinct vectors: all are compared, or an index leads to them.

The index is voyager's, a hierarchical navigable small world (HNSW [1]_), and not one of faiss-cpu,
which is the faster library: on 100,000 of GloVe's vectors and one thread its HNSW takes 15 s to
build and 9 s to find 0.992 of the true neighbours of all rows, voyager's 16 s and 14 s; its
inverted lists take 1 s and 10 s for 0.966. But faiss-cpu brings an OpenMP of its own, and where
torch has brought another, as it has here, the process may crash on macOS
(https://github.com/faiss-wheels/faiss-wheels/issues/73). voyager has no dependency and no threads
but during a call, so that nothing is locked after a fork, takes a seed, and weighs 0.3 MB instead
of 19. Both are maintained and have wheels for Python 3.10 to 3.14 on Linux, macOS and Windows
(Apache-2.0, MIT). voyager's index cannot be pickled: its bytes are.

Knows vectors and Euclidean distances, not metrics, rows or estimators.

References
----------
.. [1] Y. Malkov and D. Yashunin, "Efficient and robust approximate nearest neighbor search using
   Hierarchical Navigable Small World graphs", arXiv:1603.09320.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from skembed._optional import import_optional

__all__ = ["Index", "Search", "put_first"]

Found = tuple[NDArray[np.int64], NDArray[np.float64]]

_AT_ONCE = 2**21
"""Numbers of differences held at a time."""


@dataclass(frozen=True)
class Index:
    """How an index is built: HNSW's own parameters, a seed, threads."""

    n_links: int
    ef_construction: int
    seed: int
    n_threads: int


class Search:
    """Find the nearest of `vectors`, which are distinct; `index` is None where all are compared."""

    def __init__(self, vectors: NDArray[Any], index: Index | None) -> None:
        self.vectors = vectors
        # Small distances between large numbers would drown: voyager's in float32, scikit-learn's
        # in the products that it takes them from.
        self._middle = vectors.mean(axis=0)
        scale = np.abs(vectors - self._middle).max()
        self._scale = vectors.dtype.type(scale if scale > 0 else 1)
        self._index: Any = None
        if index is None:
            return
        voyager = _voyager()
        self._index = voyager.Index(
            voyager.Space.Euclidean,
            num_dimensions=vectors.shape[1],
            M=index.n_links,
            ef_construction=index.ef_construction,
            random_seed=index.seed,
            max_elements=len(vectors),
        )
        self._index.add_items(_for_voyager(self._placed(vectors)), num_threads=index.n_threads)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if self._index is not None:
            state["_index"] = self._index.as_bytes()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._index is not None:
            self._index = _voyager().Index.load(io.BytesIO(state["_index"]))

    def nearest(self, queries: NDArray[Any], k: int, *, ef: int, n_threads: int) -> Found:
        """Return the numbers of the k nearest vectors of each query, and their squared distances.

        The distances are exact; of vectors at the same one the first come first.
        """
        if not len(queries):
            return np.empty((0, k), dtype=np.int64), np.empty((0, k))
        placed = self._placed(queries)
        if self._index is None:
            numbers = self._compared(placed, k)
        else:
            numbers = self._led_to(placed, k, max(ef, k), n_threads)
        distances = self._measure(queries, numbers)
        order = np.lexsort((numbers, distances))
        return np.take_along_axis(numbers, order, 1), np.take_along_axis(distances, order, 1)

    def nearest_of_each(self, k: int, *, ef: int, n_threads: int) -> Found:
        """Return the same of the vectors themselves, of which each is its own nearest."""
        numbers, distances = self.nearest(self.vectors, k, ef=ef, n_threads=n_threads)
        own = np.arange(len(numbers))
        is_missed = numbers[:, 0] != own  # the index did not lead to it
        numbers[is_missed] = put_first(numbers[is_missed], own[is_missed])
        distances[is_missed] = self._measure(self.vectors[is_missed], numbers[is_missed])
        return numbers, distances

    def _placed(self, vectors: NDArray[Any]) -> NDArray[Any]:
        """Return vectors around zero, within one of it."""
        placed: NDArray[Any] = (vectors - self._middle) / self._scale
        return placed.astype(self.vectors.dtype, copy=False)

    def _compared(self, placed: NDArray[Any], k: int) -> NDArray[np.int64]:
        brute = NearestNeighbors(algorithm="brute").fit(self._placed(self.vectors))
        found: NDArray[np.int64] = brute.kneighbors(placed, k, return_distance=False)
        return found

    def _led_to(self, placed: NDArray[Any], k: int, ef: int, n_threads: int) -> NDArray[np.int64]:
        """Ask the index; compare all for a query from which fewer than k vectors are reached."""
        asked = _for_voyager(placed)
        try:
            found = self._index.query(asked, k=k, num_threads=n_threads, query_ef=ef)[0]
            return np.asarray(found).astype(np.int64)
        except _voyager().RecallError:
            if len(placed) == 1:
                return self._compared(placed, k)
        middle = len(placed) // 2
        halves = (placed[:middle], placed[middle:])
        return np.concatenate([self._led_to(half, k, ef, n_threads) for half in halves])

    def _measure(self, queries: NDArray[Any], numbers: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return squared distances, each summed by itself, so that no other row changes it."""
        distances = np.empty(numbers.shape)
        n_rows = max(1, _AT_ONCE // max(1, numbers.shape[1] * self.vectors.shape[1]))
        for start in range(0, len(queries), n_rows):
            here = slice(start, start + n_rows)
            gaps = self.vectors[numbers[here]].astype(np.float64)
            gaps -= queries[here, None]
            np.einsum("nkd,nkd->nk", gaps, gaps, out=distances[here])
        return distances


def _for_voyager(placed: NDArray[Any]) -> NDArray[np.float32]:
    """Return vectors as voyager takes them: it reads any array as if its rows were in sequence."""
    return np.ascontiguousarray(placed, dtype=np.float32)


def put_first(numbers: NDArray[np.int64], own: NDArray[np.int64]) -> NDArray[np.int64]:
    """Move each row's own number to its front; where it is not there, the last makes room."""
    is_own = numbers == own[:, None]
    is_own[~is_own.any(axis=1), -1] = True
    others = numbers[~is_own].reshape(len(numbers), numbers.shape[1] - 1)
    return np.column_stack([own, others])


def _voyager() -> Any:
    return import_optional("voyager", extra="ann", purpose="An index of many vectors")
