"""Pairs and triplets of rows, in lists, arrays and frames of two or three columns.

Knows containers, not what a row is. Does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Number
from typing import Any

import numpy as np

from skembed._inputs import CheckedRows, is_missing, labels_of
from skembed.exceptions import InvalidInputError, InvalidRowsError, describe_rows

__all__ = ["are_pairs", "check_pairs"]

_KINDS = {2: "pair", 3: "triplet"}
_SIDES = ("first", "second", "third")


def are_pairs(X: Any) -> bool:
    """Return whether rows are pairs or triplets: tuples or columns, and none of it a number."""
    columns = _columns_of(X)
    if columns is not None:
        first: Any = [next((v for v in each if not is_missing(v)), None) for each in columns]
    elif isinstance(X, (list, tuple)):
        first = next((row for row in X if not is_missing(row)), None)
    else:
        return False
    is_pair = isinstance(first, (list, tuple)) and len(first) in _KINDS
    return is_pair and not any(isinstance(side, Number) for side in first)


def check_pairs(
    X: Any, check: Callable[[Any], CheckedRows], *, drops_bad: bool = False
) -> CheckedRows:
    """Check pairs or triplets of rows, whose sides `check` takes as a list.

    The items of the good ones follow each other, pair by pair; positions are those of the pairs.
    Bad ones are left out if `drops_bad`, or refused.
    """
    faults: dict[int, str] = {}
    columns = _columns_of(X)
    if columns is None:
        columns = _columns_of_list(X, faults)
    checked = [check(column) for column in columns]
    n_pairs, kind = len(columns[0]), _KINDS[len(columns)]
    for side, rows in zip(_SIDES, checked, strict=False):
        for pair, why in rows.faults.items():
            faults[pair] = faults.get(pair) or f"{side} of the {kind}: {why}"
    places = [dict(zip(rows.positions.tolist(), rows.items, strict=True)) for rows in checked]
    good = [pair for pair in range(n_pairs) if pair not in faults]
    found = CheckedRows(
        items=[items[pair] for pair in good for items in places],
        positions=np.repeat(np.asarray(good, dtype=np.int64), len(columns)),
        n_rows=n_pairs,
        faults=dict(sorted(faults.items())),
        labels=labels_of(X),
        n_sides=len(columns),
    )
    if faults and not drops_bad:
        raise InvalidRowsError(
            f"{len(faults):,} of {n_pairs:,} {found.noun}s cannot be learned from:"
            f"{describe_rows(found.faults, found.labels)}\nFix or drop them (all are in this "
            "error's `faults`), or set on_error='nan' to leave them out.",
            found.faults,
        )
    return found


def _columns_of(X: Any) -> list[list[Any]] | None:
    """Return the two or three columns of a frame or an array of objects; None for all else."""
    shape = getattr(X, "shape", ())
    if not isinstance(shape, tuple) or len(shape) != 2 or shape[1] not in _KINDS:
        return None
    if isinstance(X, np.ndarray):
        if X.dtype.kind not in "OU":
            return None
        return [X[:, side].tolist() for side in range(shape[1])]
    if hasattr(X, "iloc"):
        return [X.iloc[:, side].tolist() for side in range(shape[1])]
    if hasattr(X, "get_columns"):  # polars
        return [X.to_series(side).to_list() for side in range(shape[1])]
    if hasattr(X, "column_names"):  # Arrow
        return [X.column(side).to_pylist() for side in range(shape[1])]
    return None


def _columns_of_list(X: Any, faults: dict[int, str]) -> list[list[Any]]:
    """Return the sides of a list of pairs; pairs that are none are in `faults` afterwards."""
    is_list = isinstance(X, (list, tuple)) or (isinstance(X, np.ndarray) and X.ndim > 1)
    rows: Sequence[Any] = list(X) if is_list else []
    sizes = [len(row) for row in rows if isinstance(row, (list, tuple, np.ndarray))]
    n_sides = next((size for size in sizes if size in _KINDS), None)
    if n_sides is None:
        raise InvalidInputError(
            "Expected pairs or triplets of rows, as a list of tuples, [(row, similar_row), ...], "
            f"or a frame of 2 or 3 columns; got a {type(X).__name__}."
        )
    kind = _KINDS[n_sides]
    for pair, row in enumerate(rows):
        if isinstance(row, (list, tuple, np.ndarray)) and len(row) == n_sides:
            continue
        if isinstance(row, (list, tuple, np.ndarray)):
            faults[pair] = f"expected a {kind}, got {len(row)} rows"
        else:
            faults[pair] = f"expected a {kind}, got {type(row).__name__}"
    filler = next(row for pair, row in enumerate(rows) if pair not in faults)
    whole = [filler if pair in faults else row for pair, row in enumerate(rows)]
    return [[row[side] for row in whole] for side in range(n_sides)]
