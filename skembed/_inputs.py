"""Containers of rows, for every modality: lists, arrays, Series and one-column frames.

Knows containers, not what a row is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from skembed.exceptions import InvalidInputError

__all__ = [
    "ArrayRows",
    "CheckedRows",
    "array_of",
    "as_numpy",
    "check_matrix",
    "column_of",
    "is_missing",
    "is_tensor",
    "labels_of",
    "shown",
    "some_of",
    "take",
    "with_article",
]


@dataclass(frozen=True, slots=True)
class CheckedRows:
    """The good rows for the room's encoder, where each stood, and what is wrong with the others.

    Rows that are pairs have `n_sides` items each, one after the other. `notes` are of good rows of
    which not all could be used.
    """

    items: Sequence[Any]
    positions: NDArray[np.int64]
    n_rows: int
    faults: dict[int, str] = field(default_factory=dict)
    labels: Sequence[Any] | None = None  # the index of a Series or frame, for messages
    n_sides: int = 1
    notes: dict[int, str] = field(default_factory=dict)

    @property
    def noun(self) -> str:
        """What messages call one: "row", "pair" or "triplet"."""
        return ("row", "pair", "triplet")[self.n_sides - 1]


def take(rows: CheckedRows, where: NDArray[np.int64]) -> CheckedRows:
    """Return some of the good rows, which stay where they stood."""
    items = some_of(rows.items, where)
    return replace(rows, items=items, positions=rows.positions[where], faults={})


Rows = TypeVar("Rows", bound="ArrayRows")


class ArrayRows(Sequence[Any]):
    """Rows of arrays that have as many rows each.

    A slice is a view of the rows, and one row is `ArrayRows` of length 1.

    Parameters
    ----------
    arrays : mapping of str to array of shape (n_rows, ...)
        No objects: rows are compared by their bytes.

    Examples
    --------
    >>> import numpy as np
    >>> from skembed._inputs import ArrayRows
    >>> rows = ArrayRows({"codes": np.array([[1], [2], [1]], np.int32)})
    >>> len(rows[1:]), rows[-1].arrays["codes"].tolist()
    (2, [[1]])
    >>> a, b, c = rows.contents()
    >>> a == c, a == b
    (True, False)
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"expected arrays with as many rows each, got {lengths}")
        self.arrays = dict(arrays)
        self._n_rows = next(iter(lengths.values()))

    def __len__(self) -> int:
        return self._n_rows

    def __getitem__(self: Rows, where: Any) -> Rows:
        if not isinstance(where, slice):
            row = int(where) + self._n_rows * (where < 0)
            if not 0 <= row < self._n_rows:
                raise IndexError(f"row {where} of {self._n_rows} rows is out of bounds")
            where = slice(row, row + 1)
        return self._like({name: array[where] for name, array in self.arrays.items()})

    def _like(self: Rows, arrays: Mapping[str, NDArray[Any]]) -> Rows:
        return type(self)(arrays)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {array.shape[1:]}" for name, array in self.arrays.items())
        return f"<ArrayRows: {self._n_rows} rows of {shapes}>"

    def take(self: Rows, indices: Any) -> Rows:
        """Return rows by their positions, in that order."""
        indices = np.asarray(indices, dtype=np.int64)
        return self._like({name: array[indices] for name, array in self.arrays.items()})

    def contents(self) -> list[bytes]:
        """Return the bytes of each row, all arrays one after the other."""
        rows = [
            np.ascontiguousarray(array).reshape(self._n_rows, -1).view(np.uint8)
            for array in self.arrays.values()
            if array.size
        ]
        if not rows:
            return [b""] * self._n_rows
        joined = np.ascontiguousarray(np.concatenate(rows, axis=1))
        contents: list[bytes] = joined.view(np.dtype((np.void, joined.shape[1]))).ravel().tolist()
        return contents

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return sum(array.nbytes for array in self.arrays.values())


def some_of(items: Sequence[Any], where: NDArray[np.int64]) -> Sequence[Any]:
    """Return the items at some places."""
    return items.take(where) if isinstance(items, ArrayRows) else [items[i] for i in where.tolist()]


def labels_of(X: Any) -> Sequence[Any] | None:
    """Return the index of a Series or frame of pandas, unless it only counts the rows."""
    index = X.index if hasattr(X, "iloc") else None
    is_count = getattr(index, "start", None) == 0 and getattr(index, "step", None) == 1
    return None if is_count else index


def column_of(X: Any, *, what: str, example: str) -> Sequence[Any]:
    """Return the rows of a list, 1-D array, Series or one-column frame, in order.

    `what` says what rows are ("texts"), `example` is a right argument, for messages.
    """
    if isinstance(X, (list, tuple)):
        return X
    expected = f"Expected a list, 1-D array, Series or one-column frame of {what}, like {example}"
    if isinstance(X, (str, bytes, bytearray)):
        raise InvalidInputError(f"{expected}; got a single {type(X).__name__}. Put it in a list.")
    if isinstance(X, np.ndarray):
        return _column_of_array(X, expected)
    n_columns = _n_columns(X)
    if n_columns is not None:
        if n_columns != 1:
            raise InvalidInputError(
                f"{expected}; got a {type(X).__name__} {_describe_columns(X, n_columns, what)}."
            )
        X = _first_column(X)
    for method in ("to_pylist", "to_list", "tolist"):  # Arrow, polars and pandas, other arrays
        convert = getattr(X, method, None)
        if callable(convert) and len(getattr(X, "shape", (0,))) == 1:
            rows: Sequence[Any] = convert()
            return rows
    if hasattr(X, "__array__") and getattr(X, "ndim", 0) == 1:  # of h5py, xarray, ...
        return _column_of_array(np.asarray(X), expected)
    if isinstance(X, Sequence):
        return X
    raise InvalidInputError(f"{expected}; got {_describe_other(X)}.")


def _column_of_array(X: NDArray[Any], expected: str) -> Sequence[Any]:
    if X.ndim == 2 and X.shape[1] == 1:
        X = X[:, 0]
    if X.ndim != 1:
        hint = " Choose one column, for example X[:, 0]." if X.ndim == 2 else ""
        raise InvalidInputError(f"{expected}; got an array of shape {X.shape}.{hint}")
    rows: Sequence[Any] = X.tolist()
    return rows


def _describe_columns(X: Any, n_columns: int, what: str) -> str:
    if not n_columns:
        return "without columns"
    names = list(getattr(X, "column_names", X.columns))  # Arrow's columns are arrays
    listed = ", ".join(map(shown, names[:5])) + ", ..." * (n_columns > 5)
    first, second = (f"X[{shown(name)}]" for name in names[:2])
    join = f', join them ({first} + " " + {second})' if what == "texts" else ""
    return (
        f"of {n_columns} columns ({listed}). Choose one, for example {first}{join}, or use "
        'ColumnTransformer([("name", embedder, "column"), ...]) for several'
    )


def _describe_other(X: Any) -> str:
    """Say what was given that is no collection of rows, and what to give instead."""
    if X is None or isinstance(X, type):
        return repr(X)
    kind = with_article(type(X).__name__)
    if isinstance(X, Mapping):
        return f"{kind}. If its values are the rows, use list(X.values())"
    if isinstance(X, (set, frozenset)):
        return f"{kind}, which has no order. Use sorted(X)"
    if callable(getattr(X, "collect", None)):  # a lazy frame of polars
        return f"{kind}. Use X.collect()"
    if hasattr(X, "toarray"):
        return f"{kind}, a sparse matrix. Pass the rows as they were before they became numbers"
    if isinstance(X, os.PathLike) or callable(getattr(X, "read", None)):
        return f"{kind}. Read the file and put its contents in a list"
    return f"{kind}. Use list(X)" if isinstance(X, Iterable) else kind


def with_article(kind: str) -> str:
    """Return the name of a class with "a" or "an" before it."""
    return f"a{'n' * (kind[0].lower() in 'aeiou')} {kind}"


def _n_columns(X: Any) -> int | None:
    """Return the number of columns of a frame, or None if X is not a frame."""
    shape = getattr(X, "shape", None)
    if isinstance(shape, tuple) and len(shape) == 2 and hasattr(X, "columns"):
        return int(shape[1])
    return None


def _first_column(X: Any) -> Any:
    """Return the first column of a pandas, polars or Arrow frame."""
    if hasattr(X, "iloc"):
        return X.iloc[:, 0]
    return X.to_series(0) if hasattr(X, "to_series") else X.column(0)


def shown(value: Any) -> str:
    """Return the beginning of a value's repr, for messages; its type if that fails."""
    try:
        return f"{value!r:.60}"
    except Exception:
        return f"<{type(value).__name__}>"


def is_missing(value: Any) -> bool:
    """Return whether a value stands for a missing row: None, NaN, NaT or pandas' NA."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, np.floating)) and bool(np.isnan(value))


def is_tensor(value: Any) -> bool:
    """Return whether a value is a torch tensor; imports no torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def as_numpy(tensor: Any) -> NDArray[Any]:
    """Return a tensor as an array; formats that NumPy lacks become float32.

    A TypeError says why NumPy cannot hold it (sparse, quantized, without data, ...).
    """
    try:
        tensor = tensor.detach().cpu()
        if tensor.dtype.is_floating_point and tensor.dtype.itemsize < 4:
            tensor = tensor.float()
        array: NDArray[Any] = tensor.numpy()
    except (TypeError, RuntimeError) as error:  # torch's NotImplementedError is one
        raise TypeError(
            f"a tensor that cannot become an array (layout {tensor.layout}, device "
            f"{tensor.device}, {tensor.dtype}): {error}"
        ) from None
    return array


def array_of(X: Any, *, what: str) -> NDArray[Any] | None:
    """Return a tensor, array or frame of several columns as an array; None for all else."""
    if is_tensor(X):
        try:
            return as_numpy(X)
        except TypeError as error:
            raise InvalidInputError(f"Expected {what}, got {error}.") from None
    if isinstance(X, np.ndarray):
        if X.dtype.kind == "S":
            raise InvalidInputError(
                f"Expected encoded {what} in a list or object array: NumPy's bytes type drops "
                "trailing zero bytes."
            )
        return X if isinstance(X, np.ma.MaskedArray) else np.asarray(X)  # not np.matrix
    if hasattr(X, "toarray"):
        raise InvalidInputError(
            f"Expected {what} as a dense matrix, got a {type(X).__name__}. Use X.toarray()."
        )
    n_columns = _n_columns(X)
    if n_columns is not None:
        return None if n_columns == 1 else _matrix_of_frame(X)
    has_array = hasattr(X, "__array__") and getattr(X, "ndim", 0) > 1  # of h5py, xarray, ...
    return np.asarray(X) if has_array else None


class _MatrixRows(Sequence[Any]):
    """Rows of one array, made into items when they are asked for."""

    def __init__(
        self, array: NDArray[Any], rows: NDArray[np.int64], make: Callable[[Any], Any]
    ) -> None:
        self._array, self._rows, self._make = array, rows, make

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return _MatrixRows(self._array, self._rows[i], self._make)
        return self._make(np.asarray(self._array[self._rows[i]]))


def check_matrix(
    array: NDArray[Any], faults: dict[int, str], make: Callable[[Any], Any]
) -> CheckedRows:
    """Return the rows of an array but those with faults, as what `make` gives for each."""
    positions = np.delete(np.arange(len(array), dtype=np.int64), list(faults))
    return CheckedRows(_MatrixRows(array, positions, make), positions, len(array), faults)


def _matrix_of_frame(X: Any) -> NDArray[Any]:
    """Return a frame's numbers, gaps masked: by their type, not by what other rows lack."""
    if not X.shape[1]:
        return np.empty(X.shape)
    if not hasattr(X, "to_numpy"):  # Arrow
        return _fill_gaps(X.columns)
    if hasattr(X, "get_columns"):  # polars
        return _fill_gaps(X.get_columns())
    array: NDArray[Any] = X.to_numpy()
    if array.dtype == object and all(getattr(each, "kind", "O") in "biuf" for each in X.dtypes):
        # pandas' nullable types mean what NumPy's of the same name mean.
        types = [getattr(each, "numpy_dtype", each) for each in X.dtypes]
        is_missing = X.isna().to_numpy()
        array = X.to_numpy(dtype=np.result_type(*types), na_value=0)
        return np.ma.masked_array(array, is_missing) if is_missing.any() else array
    return array


def _fill_gaps(columns: Sequence[Any]) -> NDArray[Any]:
    """Return columns of Arrow or polars side by side."""
    missing = [column.is_null().to_numpy() for column in columns]
    if not any(each.any() for each in missing):
        return np.column_stack([column.to_numpy() for column in columns])
    filled = [
        column.fill_null(0).to_numpy() if each.any() else column.to_numpy()
        for column, each in zip(columns, missing, strict=True)
    ]
    return np.ma.masked_array(np.column_stack(filled), np.column_stack(missing))
