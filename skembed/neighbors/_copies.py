"""From neighbours among distinct vectors to neighbours among rows, of which several are copies.

Knows numbers of rows, not vectors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Copies"]


class Copies:
    """Which rows have each of the distinct vectors; `of` has the number of each row's vector."""

    def __init__(self, of: NDArray[np.int64]) -> None:
        self.of = of
        self._counts = np.bincount(of)
        self._begins = np.cumsum(self._counts) - self._counts
        self._rows = np.argsort(of, kind="stable")

    def spread(
        self, numbers: NDArray[np.int64], distances: NDArray[np.float64], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the k nearest rows: all rows of the nearest vector in order, then of the next."""
        if len(self._counts) == len(self.of):  # no copies
            return numbers[:, :k], distances[:, :k]
        ends = np.minimum(np.cumsum(self._counts[numbers], axis=1), k)
        n_taken = np.diff(ends, axis=1, prepend=0)
        flat = np.repeat(numbers, n_taken.ravel())
        place = np.tile(np.arange(k), len(numbers)) - np.repeat(ends - n_taken, n_taken.ravel())
        rows = self._rows[self._begins[flat] + place].reshape(-1, k)
        return rows, np.repeat(distances, n_taken.ravel()).reshape(-1, k)

    def members(self, number: int) -> NDArray[np.int64]:
        """Return the rows that have a vector, in order."""
        begin = self._begins[number]
        return self._rows[begin : begin + self._counts[number]]
