"""Rows of a table as arrays, cell by cell. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skembed._inputs import ArrayRows

__all__ = ["TableRows", "TableShape"]


@dataclass(frozen=True, eq=False)
class TableShape:
    """What the arrays of a table's rows hold.

    Attributes
    ----------
    bins : tuple of ndarray of shape (n_edges,), float32
        Edges of the bins of each number.
    cardinalities : tuple of int
        How many codes each category has.
    dense : tuple of int
        Widths of the columns that are vectors.
    """

    bins: tuple[NDArray[np.float32], ...]
    cardinalities: tuple[int, ...]
    dense: tuple[int, ...]

    @property
    def n_cells(self) -> int:
        """How many cells a row has."""
        return len(self.bins) + len(self.cardinalities) + len(self.dense)


class TableRows(ArrayRows):
    """Rows of a table, as three arrays.

    "numbers" (n, k), float32, NaN where missing; "codes" (n, m), int32; "dense" (n, w), float32,
    one column's values after the other's. "hidden" (n, cells), bool, if some are hidden.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]], shape: TableShape) -> None:
        super().__init__(arrays)
        self.shape = shape

    def _like(self, arrays: Mapping[str, NDArray[Any]]) -> TableRows:
        return TableRows(arrays, self.shape)

    def hiding(self, is_hidden: NDArray[np.bool_]) -> TableRows:
        """Return the rows with some cells hidden, (n, cells)."""
        return TableRows({**self.arrays, "hidden": is_hidden}, self.shape)

    def exchanged(self, others: TableRows, places: NDArray[np.int64]) -> TableRows:
        """Return the rows with each cell from another row at a place, (n, cells), or their own.

        A place is one of `others`, or -1 for the row's own cell.
        """
        k, m = len(self.shape.bins), len(self.shape.cardinalities)
        spread = np.repeat(places[:, k + m :], self.shape.dense, axis=1)
        found = {}
        for name, at in (
            ("numbers", places[:, :k]),
            ("codes", places[:, k : k + m]),
            ("dense", spread),
        ):
            own, theirs = self.arrays[name], others.arrays[name]
            found[name] = np.where(at < 0, own, np.take_along_axis(theirs, at.clip(0), 0))
        return TableRows(found, self.shape)
