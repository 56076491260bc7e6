"""What a map is asked to show: as many of each as there are rows, in a shape it can use."""

from __future__ import annotations

from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skembed._inputs import shown, with_article
from skembed.exceptions import InvalidInputError, InvalidParameterError, name_rows

__all__ = ["check_file", "check_lengths", "check_places", "check_vectors"]


def check_file(path: Path, title: Any, **sizes: Any) -> None:
    """Refuse a file that cannot be written, and sizes that are no numbers above 0."""
    faults = []
    if not path.parent.is_dir() or path.is_dir():
        faults.append(f"path={str(path)!r}: expected a file in a folder that exists.")
    if not isinstance(title, str):
        faults.append(f"title={shown(title)}: expected a str.")
    for name, value in sizes.items():
        if not isinstance(value, Real) or not float(value) > 0:
            faults.append(f"{name}={shown(value)}: expected a number above 0.")
    if faults:
        raise InvalidParameterError("\n".join(faults))


def check_lengths(n: int, unit: str = "rows", **given: Any) -> None:
    """Refuse collections that have not one for each of n rows; None is none."""
    for name, values in given.items():
        if values is None:
            continue
        if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
            raise InvalidInputError(
                f"{name}: expected a list or column with one for each of the {n:,} {unit}, got "
                f"{with_article(type(values).__name__)}."
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
