"""What a map is asked to show: as many of each as there are rows, in a shape it can use."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skembed.exceptions import InvalidInputError, name_rows

__all__ = ["check_lengths", "check_places", "check_vectors"]


def check_lengths(n: int, unit: str = "rows", **given: Any) -> None:
    """Refuse collections that have not one for each of n rows; None is none."""
    for name, values in given.items():
        if values is None:
            continue
        if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
            raise InvalidInputError(
                f"{name}: expected one for each of the {n:,} {unit}, got a single "
                f"{type(values).__name__}."
            )
        if len(values) != n:
            raise InvalidInputError(
                f"{name}: expected one for each of the {n:,} {unit}, got {len(values):,}."
            )


def check_places(places: Any) -> NDArray[np.float32]:
    """Return places as an array of shape (n, 2) of finite numbers."""
    found = np.asarray(places, dtype=np.float32)
    if found.ndim != 2 or found.shape[1] != 2:
        raise InvalidInputError(f"places: expected shape (n, 2), got {found.shape}.")
    if bad := np.flatnonzero(~np.isfinite(found).all(axis=1)).tolist():
        raise InvalidInputError(f"places: expected finite numbers, got others in {name_rows(bad)}.")
    return found


def check_vectors(vectors: Any) -> NDArray[np.float32]:
    """Return vectors as an array of shape (n, n_features)."""
    found = np.asarray(vectors, dtype=np.float32)
    if found.ndim != 2:
        raise InvalidInputError(f"vectors: expected shape (n_rows, n_features), got {found.shape}.")
    return found
