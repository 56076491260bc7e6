"""A table from any container: named columns, not yet looked into.

Knows containers; nothing of what a column holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import narwhals as nw
import numpy as np
import scipy.sparse
from sklearn.utils import check_array

from skembed._inputs import as_numpy, is_tensor, labels_of, shown, with_article
from skembed.exceptions import InvalidInputError, InvalidRowsError

__all__ = ["Table", "read_table"]

# A sparse matrix becomes a dense one.
_MOST_BYTES_OF_SPARSE = 2 << 30


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Table:
    """Columns side by side: Series of narwhals, 1-D arrays or lists.

    `names` is None where the container has none (arrays, lists, frames whose names are no strings),
    as in scikit-learn; `labels` are the names of rows in the user's index, for messages.
    """

    columns: list[Any]
    n_rows: int
    names: list[str] | None = None
    labels: Sequence[Any] | None = None

    @property
    def column_names(self) -> list[str]:
        """The names, or x0, x1, ... where there are none."""
        return self.names or [f"x{i}" for i in range(len(self.columns))]


def read_table(X: Any) -> Table:
    """Return the columns of a frame, a 2-D array, a list of rows or a sparse matrix.

    Parameters
    ----------
    X : frame, array, sparse matrix or list
        A frame of pandas, polars or Arrow (or another that narwhals knows and that is in memory),
        an array or tensor of shape (n_rows, n_columns), a list of rows, or a sparse matrix of SciPy
        of at most 2 GiB as a dense one.

    Raises
    ------
    InvalidInputError
        If X is no table, or two columns have one name.
    InvalidRowsError
        If X has another number of dimensions, or no columns; in scikit-learn's words.

    Examples
    --------
    >>> from skembed.columns import read_table
    >>> table = read_table([[1, "red"], [2, "blue"]])
    >>> table.n_rows, table.column_names
    (2, ['x0', 'x1'])
    """
    if isinstance(X, Table):
        return X
    if is_tensor(X):
        try:
            X = as_numpy(X)
        except TypeError as error:
            raise InvalidInputError(f"Expected a table, got {error}.") from None
    if scipy.sparse.issparse(X):
        return _of_array(_densify(X))
    if isinstance(X, (list, tuple)):
        return _of_rows(X)
    if not isinstance(X, np.ndarray):
        frame = _of_frame(X)
        if frame is not None:
            return frame
        if isinstance(X, (Mapping, str, bytes)) or not hasattr(X, "__array__"):
            _refuse(X)
    return _of_array(X if isinstance(X, np.ma.MaskedArray) else np.asarray(X))


def _densify(X: Any) -> Any:
    if X.dtype.kind == "c":
        raise InvalidRowsError("Complex data not supported")
    n_bytes = X.dtype.itemsize * int(np.prod(X.shape, dtype=object))
    if n_bytes > _MOST_BYTES_OF_SPARSE:
        raise InvalidInputError(
            f"Expected a sparse matrix of at most {_MOST_BYTES_OF_SPARSE >> 30} GiB as a dense "
            f"one, got one of shape {X.shape}, {n_bytes / (1 << 30):.1f} GiB. Reduce its columns "
            "first, for example with TruncatedSVD."
        )
    return X.toarray()


def _of_array(X: Any) -> Table:
    _check_shape(X)
    if X.dtype.kind in "SV":
        raise InvalidInputError(
            f"Expected an array of numbers, strings, dates or objects, got one of {X.dtype}. "
            "Decode bytes with X.astype(str)."
        )
    if isinstance(X, np.ma.MaskedArray):
        mask, X = np.ma.getmaskarray(X), X.astype(object).data
        X[mask] = None
    return Table([X[:, i] for i in range(X.shape[1])], X.shape[0])


def _check_shape(X: Any) -> None:
    """Refuse an array of other dimensions, or of complex numbers, in scikit-learn's words."""
    try:
        check_array(X, dtype=None, ensure_all_finite=False, ensure_min_samples=0)
    except ValueError as error:
        raise InvalidRowsError(str(error)) from None


def _of_rows(X: Sequence[Any]) -> Table:
    if any(issubclass(kind, Mapping) for kind in set(map(type, X))):
        raise InvalidInputError(
            "Expected a table, got a list of dicts. Make a frame of it: pandas.DataFrame(X)."
        )
    if any(map(is_tensor, X[:1])):
        X = [as_numpy(row) if is_tensor(row) else row for row in X]
    if set(map(type, X)) <= {np.ndarray} and len({row.shape for row in X}) <= 1:
        return _of_array(np.array(X))  # of no rows, too, which is one of no columns
    if not all(issubclass(kind, (list, tuple, np.ndarray)) for kind in set(map(type, X))):
        rows = np.empty(len(X), dtype=object)
        rows[:] = X
        _check_shape(rows)
    widths = Counter(map(len, X))
    if len(widths) > 1:
        usual = widths.most_common(1)[0][0]
        row = next(i for i, each in enumerate(X) if len(each) != usual)
        raise InvalidInputError(
            f"Expected rows of equal length, got {usual} values in most and {len(X[row])} in row "
            f"{row}."
        )
    if not X[0]:
        _check_shape(np.empty((len(X), 0)))
    return Table([list(column) for column in zip(*X, strict=True)], len(X))


def _of_frame(X: Any) -> Table | None:
    """Return the columns of a frame, or None if X is none."""
    if callable(getattr(X, "collect", None)):
        _refuse_lazy(X)
    names = list(getattr(X, "column_names", getattr(X, "columns", ())))
    n_of_name = Counter(name for name in names if isinstance(name, str))
    twice = [name for name, n in n_of_name.items() if n > 1]
    if twice:
        raise InvalidInputError(
            "Expected columns with names of their own, got more than one of: "
            f"{', '.join(map(shown, twice))}. Rename them."
        )
    has_names = bool(names) and all(isinstance(name, str) for name in names)
    labels = labels_of(X)
    if hasattr(X, "set_axis") and getattr(X, "ndim", 0) == 2 and not has_names:
        X = X.set_axis([f"x{i}" for i in range(len(names))], axis=1)
    frame = nw.from_native(X, pass_through=True, allow_series=True)
    if isinstance(frame, nw.Series):
        raise InvalidRowsError(
            f"Expected 2D array, got 1D array instead: {with_article(type(X).__name__)}. Pass a "
            "DataFrame containing a single row (i.e. single sample) or a single column (i.e. "
            "single feature) instead. Reshape your data: X.to_frame() if it is one column."
        )
    if isinstance(frame, nw.LazyFrame):
        _refuse_lazy(X)
    if not isinstance(frame, nw.DataFrame):
        return None
    if not frame.shape[1]:
        _check_shape(np.empty(frame.shape))
    return Table(list(frame.iter_columns()), len(frame), names if has_names else None, labels)


def _refuse_lazy(X: Any) -> NoReturn:
    raise InvalidInputError(
        f"Expected a table in memory, got {with_article(type(X).__name__)}. Use X.collect(), or "
        "what loads it in its library."
    )


def _refuse(X: Any) -> NoReturn:
    if isinstance(X, (str, int, float)):
        _check_shape(np.asarray(X))
    kind = X if X is None or isinstance(X, type) else with_article(type(X).__name__)
    hint = " Make a frame of it: pandas.DataFrame(X)." if isinstance(X, Mapping) else ""
    raise InvalidInputError(
        "Expected a table: a frame of pandas, polars or Arrow, a 2-D array, a list of rows or a "
        f"sparse matrix; got {kind}.{hint}"
    )
