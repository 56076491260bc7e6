"""What a map is asked to show: as many of each as there are rows, in a shape it can use."""

from __future__ import annotations

from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import VALID_METRICS

from skembed._inputs import column_of, shown, with_article
from skembed.exceptions import (
    InvalidInputError,
    InvalidParameterError,
    did_you_mean,
    name_rows,
)
from skembed.inspection._map import METHODS

__all__ = [
    "check_choices",
    "check_classes",
    "check_file",
    "check_lengths",
    "check_places",
    "check_vectors",
    "hint_of_range",
    "items_of",
    "numbers_of",
]

_METRICS = sorted(set(VALID_METRICS["brute"]) - {"precomputed"})


def check_choices(method: Any, metric: Any, max_rows: Any) -> None:
    """Refuse parameters of a map before any work is done."""
    faults = []
    if method not in METHODS:
        expected = ", ".join(map(repr, METHODS))
        close = did_you_mean(method, METHODS)
        faults.append(f"method={shown(method)}: expected one of {expected}.{close}")
    if not callable(metric) and metric not in _METRICS:
        close = did_you_mean(metric, _METRICS) if isinstance(metric, str) else ""
        close = close or f" There are {', '.join(_METRICS)}."
        faults.append(f"metric={shown(metric)}: expected one of scikit-learn's metrics.{close}")
    if isinstance(max_rows, bool) or not isinstance(max_rows, Integral) or max_rows < 1:
        faults.append(f"max_rows={shown(max_rows)}: expected an int of at least 1.")
    if faults:
        raise InvalidParameterError("\n".join(faults))


def check_file(path: Path, title: Any, image_size: Any, **sizes: Any) -> None:
    """Refuse a file that cannot be written, and sizes that are no numbers above 0."""
    faults = []
    if not path.parent.is_dir() or path.is_dir():
        faults.append(f"path={str(path)!r}: expected a file in a folder that exists.")
    if not isinstance(title, str):
        faults.append(f"title={shown(title)}: expected a str.")
    if not isinstance(image_size, Integral) or image_size < 1:
        faults.append(f"image_size={shown(image_size)}: expected an int of at least 1.")
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
    found = numbers_of(places, "places")
    if found.ndim != 2 or found.shape[1] != 2:
        raise InvalidInputError(f"places: expected shape (n, 2), got {found.shape}.")
    if bad := np.flatnonzero(~np.isfinite(found).all(axis=1)).tolist():
        raise InvalidInputError(f"places: expected finite numbers, got others in {name_rows(bad)}.")
    return found


def check_vectors(vectors: Any) -> NDArray[np.float32]:
    """Return vectors as an array of shape (n, n_features)."""
    found = numbers_of(vectors, "vectors")
    if found.ndim != 2:
        raise InvalidInputError(f"vectors: expected shape (n_rows, n_features), got {found.shape}.")
    return found


def check_classes(y: Any) -> NDArray[Any] | None:
    """Return classes, clusters or numbers as an array of shape (n,); None is none."""
    if y is None:
        return None
    try:
        found = np.asarray(y)
    except ValueError as error:  # of ragged lists
        raise InvalidInputError(f"y: expected one value for each row, got {y!r:.100}.") from error
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim != 1:
        raise InvalidInputError(f"y: expected one value for each row, got shape {found.shape}.")
    return found


def numbers_of(X: Any, name: str) -> NDArray[np.float32]:
    """Return rows of numbers as an array of whatever shape."""
    if hasattr(X, "toarray"):
        raise InvalidInputError(
            f"{name}: expected dense vectors, got a sparse matrix ({type(X).__name__}). Use "
            f"{name}.toarray()."
        )
    try:
        with np.errstate(over="ignore"):  # what is too large is found to be infinite
            return np.asarray(X, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"{name}: expected rows of numbers, got {X!r:.100}: {error}"
        ) from error


def items_of(values: Any, what: str) -> Any:
    """Return pictures or sounds by position: a stack as it is, of others the column."""
    if getattr(values, "ndim", 1) > 1 and not hasattr(values, "columns"):
        return values
    return column_of(values, what=what, example="a list of paths")


def hint_of_range(why: str) -> str:
    """Say what helps where a fault names a parameter that only `ImageEmbedder` has."""
    if "value_range" not in why:
        return ""
    return " Here there is no value_range: scale arrays to 0..1, or to 0..255 as uint8."
