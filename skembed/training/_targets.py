"""Targets of rows: classes, several labels a row, or numbers; checked, encoded and weighed.

Knows labels, not rows or models. Does not import torch.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import type_of_target

from skembed._inputs import CheckedRows, is_missing
from skembed.exceptions import (
    InvalidParameterError,
    InvalidRowsError,
    InvalidTargetsError,
    TrainingWarning,
    describe_rows,
    warn_user,
)

__all__ = ["Targets", "check_targets"]


_MANY_CLASSES = 20
"""Floats that are whole numbers, and more than so many, are amounts."""

_SEVERAL = "Of several labels a row make columns of 0 and 1, with MultiLabelBinarizer()."


@dataclass(frozen=True, slots=True)
class Targets:
    """What rows are to be told by.

    `values` are class numbers (n,), int64; labels of 0 and 1 (n, outputs), float32; numbers
    (n, outputs), float64; of "pairs" the places of their rows (n, sides), of "scores" the
    similarities of pairs (n,), of "views" the places of rows (n,).
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
    has_steps: bool = True,
) -> Targets:
    """Check and encode the targets of good rows; messages call who needs them `owner`.

    `has_steps`: others may come in later calls of `partial_fit`.
    """
    if y is None:
        raise InvalidTargetsError(
            f"{owner} requires y to be passed, but the target y is None: give one label or number "
            "per row, fit(X, y)."
        )
    array = _array_of(y)
    if len(array) != rows.n_rows:
        raise InvalidTargetsError(
            f"y: expected one target for each of {rows.n_rows:,} rows, got {len(array):,}."
        )
    weights = _check_weights(sample_weight, rows)
    array = array[rows.positions]
    if not len(array):
        raise InvalidTargetsError(f"{owner} has no good rows to learn from.")
    _refuse_missing(array, rows)
    _refuse_mixed(array, rows)
    kind = _kind_of(array, loss, owner)
    if classes is None and loss == "auto" and _are_amounts(array, kind):
        kind = "numbers"
    if kind == "numbers":
        if class_weight is not None:
            raise InvalidParameterError(
                f"class_weight={class_weight!r}: y is made of numbers, which have no classes."
            )
        return Targets(kind, array.astype(np.float64).reshape(len(array), -1), weights)
    if class_weight is not None:
        weights = _with_class_weight(weights, class_weight, array, classes)
    if kind == "labels":
        return Targets(kind, array.astype(np.float32), weights)
    array = _plain(array)
    known = np.unique(array if classes is None else _plain(_array_of(classes)))
    strange = np.flatnonzero(~np.isin(array, known))
    if len(strange):
        places, labels = rows.positions[strange].tolist(), array[strange].tolist()
        faults = dict(zip(places, map(repr, labels), strict=True))
        raise InvalidRowsError(
            f"y has classes that were not named at first:{describe_rows(faults, rows.labels)}\n"
            "Name all classes in the first partial_fit(X, y, classes=[...]), or fit again. If they "
            "are amounts, set training__loss='squared_error' first.",
            faults,
        )
    if len(known) < 2:
        advice = (
            " If others come in later calls of partial_fit, name all in the first: "
            "partial_fit(X, y, classes=[...])."
        )
        raise InvalidTargetsError(
            f"y: expected at least two classes, got 1 class: {known.tolist()}."
            f"{advice if has_steps else ''}"
        )
    if classes is None and loss == "auto" and _may_be_amounts(known, len(array)):
        warn_user(
            f"y has {len(known):,} different whole numbers in {len(array):,} rows, which are taken "
            "for classes. If they are amounts, make them floats.",
            TrainingWarning,
        )
    return Targets(kind, np.searchsorted(known, array).astype(np.int64), weights, known)


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """Return labels that are objects, of one type, as an array of that type."""
    return array if array.dtype != object else np.array(array.tolist())


def _with_class_weight(
    weights: NDArray[np.float32], class_weight: Any, array: NDArray[Any], classes: Any
) -> NDArray[np.float32]:
    if isinstance(class_weight, dict) and array.ndim == 1:
        _check_class_weight(class_weight, _plain(array), classes)
        of_classes = np.array([class_weight.get(label, 1.0) for label in _plain(array).tolist()])
    else:
        try:
            of_classes = compute_sample_weight(class_weight, _plain(array))
        except ValueError as error:
            raise InvalidParameterError(f"class_weight={class_weight!r}: {error}") from None
    found: NDArray[np.float32] = (weights * of_classes).astype(np.float32)
    return found


def _check_class_weight(class_weight: dict[Any, Any], array: NDArray[Any], classes: Any) -> None:
    """Refuse weights that are none, and classes that y has not; `classes` are those of all steps.

    As in scikit-learn, y may lack classes if all that it has are named: a fold of rows lacks some.
    """
    known = np.unique(array if classes is None else _plain(_array_of(classes))).tolist()
    faults = [
        f"class_weight[{label!r}]={weight!r:.60}: expected a finite number of at least 0."
        for label, weight in class_weight.items()
        if not (isinstance(weight, Real) and 0 <= float(weight) < np.inf)
    ]
    strange = [label for label in class_weight if label not in known]
    unnamed = [label for label in known if label not in class_weight]
    if strange and unnamed:
        faults.append(
            f"class_weight: y has no class {', '.join(map(repr, strange))}. class_weight does not "
            f"name {', '.join(map(repr, unnamed))}, which y has."
        )
    if not faults and not unnamed and not any(class_weight[label] for label in known):
        faults.append("class_weight: expected a weight above 0 for some class of y.")
    if faults:
        raise InvalidParameterError("\n".join(faults))


def _array_of(y: Any) -> NDArray[Any]:
    """Return targets, or classes, as an array of one or two dimensions.

    Texts stand in arrays of objects: NumPy's own would turn numbers and gaps among them into texts.
    """
    if hasattr(y, "toarray"):
        y = y.toarray()
    try:
        array = np.asarray(y)
        if array.dtype.kind in "US":
            array = np.asarray(y, dtype=object)
    except ValueError:
        raise InvalidTargetsError(
            "y: expected one target per row, (n,) or (n, outputs), got rows of several lengths. "
            f"{_SEVERAL}"
        ) from None
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 0:
        raise InvalidTargetsError(
            f"y: expected one target per row, got a single {type(y).__name__}."
        )
    if array.ndim not in (1, 2) or (array.ndim == 2 and not array.shape[1]):
        raise InvalidTargetsError(
            f"y: expected one target per row, (n,) or (n, outputs), got shape {array.shape}."
        )
    return array


def _refuse_missing(array: NDArray[Any], rows: CheckedRows) -> None:
    """Refuse what is not there, or not finite, by row."""
    if array.dtype.kind in "biu":
        return
    if array.dtype.kind in "fc":
        is_bad = ~np.isfinite(array)
    else:
        is_bad = np.array([is_missing(v) or _is_infinite(v) for v in array.flat], dtype=bool)
    table = is_bad.reshape(len(array), -1)
    faults = {
        int(rows.positions[i]): f"{array.reshape(len(array), -1)[i, table[i].argmax()]!s}"
        for i in np.flatnonzero(table.any(axis=1))
    }
    if faults:
        raise InvalidRowsError(
            f"{len(faults):,} of {rows.n_rows:,} targets in y are missing or not finite:"
            f"{describe_rows(faults, rows.labels)}\nFix them, or drop these rows from X and y.",
            faults,
        )


def _is_infinite(value: Any) -> bool:
    return isinstance(value, (float, np.floating)) and not np.isfinite(value)


def _refuse_mixed(array: NDArray[Any], rows: CheckedRows) -> None:
    """Refuse texts among numbers, by row: the rows of the rarer kind."""
    if array.dtype != object:
        return
    is_text = np.array([isinstance(v, str) for v in array.flat], dtype=bool)
    is_text = is_text.reshape(len(array), -1)
    if is_text.all() or not is_text.any():
        return
    texts, others = is_text.any(axis=1), ~is_text.all(axis=1)
    rare = texts if texts.sum() <= others.sum() else others
    faults = {int(rows.positions[i]): repr(array[i]) for i in np.flatnonzero(rare)}
    raise InvalidRowsError(
        "y: expected labels of one type, got texts and others. The rarer are:"
        f"{describe_rows(faults, rows.labels)}\nMake all of them texts, or all numbers.",
        faults,
    )


def _kind_of(array: NDArray[Any], loss: str, owner: str) -> Literal["classes", "labels", "numbers"]:
    is_number = array.dtype.kind in "fiub" or (
        array.dtype == object and all(isinstance(v, (Real, np.bool_)) for v in array.flat)
    )
    if loss not in ("auto", "log_loss"):
        if not is_number:
            raise InvalidTargetsError(
                f"y: loss={loss!r} takes numbers, got {array.flat[0]!r:.60} for one."
            )
        return "numbers"
    with warnings.catch_warnings():  # that classes are many
        warnings.simplefilter("ignore", UserWarning)
        found = type_of_target(array if array.dtype != object else array.tolist(), input_name="y")
    if found in ("binary", "multiclass"):
        return "classes"
    if found == "multilabel-indicator":
        return "labels"
    is_table_of_numbers = found == "multiclass-multioutput" and is_number
    if loss == "auto" and (found.startswith("continuous") or is_table_of_numbers):
        return "numbers"
    if found == "multiclass-multioutput" and not is_number:
        raise InvalidTargetsError(
            f"y: expected one class per row, got {array.shape[1]} texts in each. {_SEVERAL}"
        )
    raise InvalidTargetsError(
        f"y: expected classes, several labels a row (columns of 0 and 1), or numbers; {owner} "
        f"cannot learn from {found} targets with loss={loss!r}."
    )


def _are_amounts(array: NDArray[Any], kind: str) -> bool:
    """Return whether whole numbers are floats that are too many for classes."""
    if kind != "classes" or (values := _plain(array)).dtype.kind != "f":
        return False
    return len(np.unique(values)) > _MANY_CLASSES


def _may_be_amounts(known: NDArray[Any], n_rows: int) -> bool:
    """Return whether integers are many, and have gaps or are mostly different."""
    if known.dtype.kind not in "iu" or len(known) <= _MANY_CLASSES:
        return False
    span = int(known[-1]) - int(known[0])
    return len(known) > n_rows // 2 or span > 2 * len(known)


def _check_weights(sample_weight: Any, rows: CheckedRows) -> NDArray[np.float32]:
    if sample_weight is None:
        return np.ones(len(rows.positions), dtype=np.float32)
    weights: NDArray[Any] = np.asarray(sample_weight, dtype=np.float64)
    if weights.shape != (rows.n_rows,):
        raise InvalidTargetsError(
            f"sample_weight: expected one for each of {rows.n_rows:,} rows, got shape "
            f"{weights.shape}."
        )
    weights = weights[rows.positions]
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum():
        raise InvalidTargetsError(
            "sample_weight: expected finite numbers of at least 0, not all 0."
        )
    scaled: NDArray[np.float32] = (weights * (len(weights) / weights.sum())).astype(np.float32)
    return scaled
