"""Vectors as they are compared: checked, of unit length for cosine, each distinct one once.

Knows arrays, not how neighbours are found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skembed.exceptions import InvalidRowsError, describe_rows

__all__ = ["METRICS", "comparable", "find_distinct"]

METRICS = ("cosine", "euclidean")


def comparable(
    X: NDArray[Any], metric: str, *, owner: str, labels: Sequence[Any] | None
) -> NDArray[Any]:
    """Return vectors whose Euclidean distances are to be compared: for cosine, of unit length.

    Of unit vectors it orders as cosine does, and keeps the digits of small distances, which
    one minus a product loses. Zero is one number here: minus zero is gone.
    """
    faults = dict.fromkeys(np.flatnonzero(~np.isfinite(X).all(axis=1)).tolist(), "NaN or inf")
    peaks = np.abs(X).max(axis=1, keepdims=True)
    if metric == "cosine":
        zeros = np.flatnonzero(peaks[:, 0] == 0).tolist()
        faults |= dict.fromkeys(zeros, "all zeros, with which nothing has a cosine")
    if faults:
        raise InvalidRowsError(
            f"{owner}: expected vectors of finite numbers"
            f"{' that are not all zero' if metric == 'cosine' else ''}, got {len(faults):,} of "
            f"{len(X):,} rows that are none. Leave these rows out:{describe_rows(faults, labels)}",
            faults,
        )
    if metric == "euclidean":
        same: NDArray[Any] = X + X.dtype.type(0)
        return same
    scaled: NDArray[Any] = X / peaks  # squares of very large or small numbers are none
    lengths = np.sqrt(np.einsum("nd,nd->n", scaled, scaled, dtype=np.float64))
    scaled /= lengths[:, None].astype(X.dtype)
    scaled += 0
    return scaled


def find_distinct(vectors: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where each distinct vector stands first, and of each row the number of its vector."""
    numbers: dict[bytes, int] = {}
    of = np.empty(len(vectors), dtype=np.int64)
    for i, row in enumerate(np.ascontiguousarray(vectors)):
        of[i] = numbers.setdefault(hashlib.blake2b(row, digest_size=16).digest(), len(numbers))
    first: NDArray[np.int64] = np.unique(of, return_index=True)[1]
    return first, of
