"""Targets of rows: classes, several labels a row, or numbers; checked, encoded and weighed.

Knows labels, not rows or models. Does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import type_of_target

from skembed._inputs import CheckedRows, is_missing
from skembed.exceptions import (
    InvalidInputError,
    InvalidParameterError,
    InvalidRowsError,
    describe_rows,
)

__all__ = ["Targets", "check_targets"]


@dataclass(frozen=True, slots=True)
class Targets:
    """What rows are to be told by.

    `values` are class numbers (n,), int64; labels of 0 and 1 or numbers (n, outputs), float32;
    of "pairs" the places of their rows (n, sides), of "scores" the similarities of pairs (n,), of
    "views" the places of rows (n,).
    """

    kind: Literal["classes", "labels", "numbers", "pairs", "scores", "views"]
    values: NDArray[Any]
    weights: NDArray[np.float32]
    classes: NDArray[Any] | None = None

    @property
    def n_outputs(self) -> int:
        """Number of a head's outputs."""
        if self.kind == "classes":
            assert self.classes is not None
            return len(self.classes)
        return int(self.values.shape[1])

    def take(self, rows: Any) -> Targets:
        """Return the targets of some rows."""
        return Targets(self.kind, self.values[rows], self.weights[rows], self.classes)


def check_targets(
    y: Any,
    rows: CheckedRows,
    owner: str,
    *,
    loss: str = "auto",
    class_weight: Any = None,
    sample_weight: Any = None,
    classes: Any = None,
) -> Targets:
    """Check and encode the targets of good rows; messages call who needs them `owner`."""
    if y is None:
        raise InvalidInputError(
            f"{owner} learns from targets, and y is missing: pass one label or number per row, "
            "fit(X, y)."
        )
    array = _array_of(y)
    if len(array) != rows.n_rows:
        raise InvalidInputError(
            f"y: expected one target for each of {rows.n_rows:,} rows, got {len(array):,}."
        )
    weights = _check_weights(sample_weight, rows)
    array = array[rows.positions]
    _refuse_missing(array, rows)
    kind = _kind_of(array, loss, owner)
    if kind == "numbers":
        if class_weight is not None:
            raise InvalidParameterError(
                f"class_weight={class_weight!r}: y is made of numbers, which have no classes."
            )
        numbers = array.astype(np.float32).reshape(len(array), -1)
        return Targets(kind, numbers, weights)
    if kind == "labels":
        if class_weight is not None:
            weights = weights * compute_sample_weight(class_weight, array)
        return Targets(kind, array.astype(np.float32), weights.astype(np.float32))
    known = np.unique(array) if classes is None else np.unique(_array_of(classes))
    strange = np.flatnonzero(~np.isin(array, known))
    if len(strange):
        places, labels = rows.positions[strange].tolist(), array[strange].tolist()
        faults = dict(zip(places, map(repr, labels), strict=True))
        raise InvalidRowsError(
            f"y has classes that were not named at first:{describe_rows(faults, rows.labels)}\n"
            "Name all classes in the first partial_fit(X, y, classes=[...]), or fit again.",
            faults,
        )
    if len(known) < 2:
        raise InvalidInputError(f"y: expected at least two classes, got one: {known[:1].tolist()}.")
    if class_weight is not None:
        try:
            weights = weights * compute_sample_weight(class_weight, array)
        except ValueError as error:
            raise InvalidParameterError(f"class_weight={class_weight!r}: {error}") from None
    codes = np.searchsorted(known, array).astype(np.int64)
    return Targets("classes", codes, weights.astype(np.float32), known)


def _array_of(y: Any) -> NDArray[Any]:
    if hasattr(y, "to_numpy"):
        y = y.to_numpy()
    if hasattr(y, "toarray"):
        y = y.toarray()
    array = np.asarray(y)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim not in (1, 2):
        raise InvalidInputError(
            f"y: expected one target per row, (n,) or (n, outputs), got shape {array.shape}."
        )
    return array


def _refuse_missing(array: NDArray[Any], rows: CheckedRows) -> None:
    faults: dict[int, str] = {}
    for i, value in enumerate(array):
        values = value if array.ndim == 2 else [value]
        bad = next((v for v in values if is_missing(v) or _is_infinite(v)), None)
        if bad is not None or any(v is None for v in values):
            faults[int(rows.positions[i])] = f"missing ({bad!r})"
    if faults:
        raise InvalidRowsError(
            f"{len(faults):,} of {rows.n_rows:,} targets in y are missing or not finite:"
            f"{describe_rows(faults, rows.labels)}\nFix them, or drop these rows from X and y.",
            faults,
        )


def _is_infinite(value: Any) -> bool:
    return isinstance(value, (float, np.floating)) and not np.isfinite(value)


def _kind_of(array: NDArray[Any], loss: str, owner: str) -> Literal["classes", "labels", "numbers"]:
    is_number = array.dtype.kind in "fiub" or (
        array.dtype == object and all(isinstance(v, (int, float)) for v in array.flat)
    )
    if loss not in ("auto", "log_loss"):
        if not is_number:
            raise InvalidInputError(f"y: loss={loss!r} takes numbers, got {array.dtype} values.")
        return "numbers"
    if array.dtype == object:
        kinds = {str if isinstance(value, str) else type(value) for value in array.flat}
        if len(kinds) > 1 and str in kinds:
            names = ", ".join(sorted(kind.__name__ for kind in kinds))
            raise InvalidInputError(f"y: expected labels of one type, got {names}.")
    found = type_of_target(array if array.dtype != object else array.tolist(), input_name="y")
    if found in ("binary", "multiclass"):
        return "classes"
    if found == "multilabel-indicator":
        return "labels"
    if found.startswith("continuous") and loss == "auto":
        return "numbers"
    if found == "multiclass-multioutput" and loss == "auto" and is_number:
        return "numbers"
    raise InvalidInputError(
        f"y: expected classes, several labels a row (0 or 1), or numbers; {owner} cannot learn "
        f"from {found} targets with loss={loss!r}."
    )


def _check_weights(sample_weight: Any, rows: CheckedRows) -> NDArray[np.float32]:
    if sample_weight is None:
        return np.ones(len(rows.positions), dtype=np.float32)
    weights: NDArray[Any] = np.asarray(sample_weight, dtype=np.float64)
    if weights.shape != (rows.n_rows,):
        raise InvalidInputError(
            f"sample_weight: expected one for each of {rows.n_rows:,} rows, got shape "
            f"{weights.shape}."
        )
    weights = weights[rows.positions]
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum():
        raise InvalidInputError("sample_weight: expected finite numbers of at least 0, not all 0.")
    scaled: NDArray[np.float32] = (weights * (len(weights) / weights.sum())).astype(np.float32)
    return scaled
