"""What a column holds, in one of eight forms that are the same for all containers.

Numbers are arrays, words are codes of the distinct ones, times are microseconds. Knows types of
values, not what is learned from them.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import chain, compress, repeat
from numbers import Complex, Real
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from skembed._inputs import is_missing, shown

__all__ = ["TRUTHS", "Values", "read_values", "word_of"]

TRUTHS = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
"""What words say, in lower case."""

_GAPS = ("NoneType", "NAType", "NaTType")
_MICROSECONDS = np.dtype("datetime64[us]")
_LISTS = (list, tuple, set, frozenset, np.ndarray)
_WHAT_TO_DO = "; make text, numbers, dates or lists of strings of them, or set the column to 'drop'"


@dataclass(frozen=True, slots=True, eq=False)
class Values:
    """One column.

    `data`, shape (n,), is by `form`: "number" and "boolean" an array, "words" which of `levels`
    each is (-1: missing), "date" microseconds since 1970 (in UTC where there is a time zone, and
    `local` is what the clock on the wall said), "time" and "duration" microseconds; of "lists"
    which of `levels` each item of any row is, and `rows` in which row. "missing": no value at all,
    each -1. `faults` are of rows that can't be used, `unread` of cells that are missing because
    they say no number or date.
    """

    form: str
    data: NDArray[Any]
    missing: NDArray[np.bool_]
    dtype: str
    levels: list[str] = field(default_factory=list)
    local: NDArray[Any] | None = None
    rows: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    is_category: bool = False
    is_mixed: bool = False
    faults: dict[int, str] = field(default_factory=dict)
    unread: dict[int, str] = field(default_factory=dict)


def read_values(column: Any) -> Values:
    """Return what a column holds; a ValueError says why that can't be known.

    Infinite numbers are faults of their rows, and missing.
    """
    if isinstance(column, list):
        return _of_objects(column)
    if isinstance(column, np.ndarray):
        return _of_array(column)
    return _of_series(column)


def _nothing(n_rows: int, dtype: str) -> Values:
    return Values("missing", np.full(n_rows, -1), np.ones(n_rows, dtype=bool), dtype)


def _of_array(column: NDArray[Any]) -> Values:
    kind, dtype = column.dtype.kind, str(column.dtype)
    missing = np.zeros(len(column), dtype=bool)
    if not len(column):
        return _nothing(0, dtype)
    if kind == "O":
        return _of_objects(column.tolist())
    if kind == "U":
        return _of_strings(column.tolist(), missing, "str")
    if kind == "b":
        return Values("boolean", column, missing, dtype)
    if kind in "iuf":
        return _of_numbers(column, missing, dtype)
    missing = np.isnat(column)
    if missing.all():
        return _nothing(len(column), dtype)
    if kind == "M":
        return Values("date", column.astype(_MICROSECONDS), missing, dtype)
    return _of_microseconds("duration", column, missing, dtype)


def _of_microseconds(
    form: str, column: NDArray[Any], missing: NDArray[np.bool_], dtype: str
) -> Values:
    return Values(form, column.astype("timedelta64[us]").astype(np.int64), missing, dtype)


def _of_numbers(column: NDArray[Any], missing: NDArray[np.bool_], dtype: str) -> Values:
    faults: dict[int, str] = {}
    if column.dtype.kind == "f":
        column = column.astype(np.float64) + 0.0  # no -0.0
        infinite = np.isinf(column) & ~missing
        missing = missing | ~np.isfinite(column)
        for row in np.flatnonzero(infinite).tolist():
            faults[row] = f"{column[row]}, expected no infinity"
    if missing.all() and not faults:
        return _nothing(len(column), dtype)
    return Values("number", column, missing, dtype, faults=faults)


def _of_series(column: Any) -> Values:
    dtype, name = column.dtype, str(column.dtype).lower().partition("(")[0]
    missing = column.is_null().to_numpy().astype(bool)
    if missing.all():
        return _nothing(len(missing), name)
    if dtype == nw.Boolean:
        return Values("boolean", column.fill_null(False).to_numpy().astype(bool), missing, name)
    if dtype.is_float() or dtype.is_integer():
        # NaN is not null in polars and Arrow, and no NumPy integer holds a null.
        if name.endswith("128"):  # of which NumPy has none
            column = column.cast(nw.Float64)
        numbers = (column.fill_null(0) if missing.any() else column).to_numpy()
        return _of_numbers(numbers, missing, name)
    if dtype == nw.String:
        codes, levels = _factorize(column)
        return Values("words", codes, missing, "str", levels)
    if dtype == nw.Categorical or dtype == nw.Enum:
        return _of_categories(column, missing)
    if dtype == nw.Date:
        return Values("date", column.cast(nw.Datetime("us")).to_numpy(), missing, name)
    if dtype == nw.Datetime:
        return _of_dates(column, missing, name)
    if dtype == nw.Duration:
        return _of_microseconds("duration", column.to_numpy(), missing, name)
    if name in ("object", "time", "decimal", "list", "array"):
        return _of_objects(column.to_list(), name)
    if name == "unknown":
        native = column.to_native()
        if hasattr(native, "sparse"):  # pandas
            return _of_series(nw.from_native(native.sparse.to_dense(), series_only=True))
        name = str(getattr(native, "dtype", None) or native.type)
    if name.startswith("complex"):
        raise ValueError("Complex data not supported")
    raise ValueError(f"of type {name}{_WHAT_TO_DO}")


def _of_dates(column: Any, missing: NDArray[np.bool_], name: str) -> Values:
    local = column.dt.replace_time_zone(None).to_numpy().astype(_MICROSECONDS)
    if column.dtype.time_zone is None:
        return Values("date", local, missing, name)
    instants = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None).to_numpy()
    return Values("date", instants.astype(_MICROSECONDS), missing, name, local=local)


def _factorize(column: Any) -> tuple[NDArray[np.int64], list[str]]:
    """Return which of the distinct strings each row has, and these as they appear."""
    native = column.to_native()
    if hasattr(native, "factorize"):  # pandas
        codes, levels = native.factorize()
        return codes.astype(np.int64), levels.tolist()
    if hasattr(native, "dictionary_encode"):  # Arrow
        native = native.combine_chunks()
        if not hasattr(native, "chunks"):  # as there are where 2 GiB do not hold all
            native = native.dictionary_encode()
            codes = native.indices.fill_null(-1).to_numpy(zero_copy_only=False)
            return codes.astype(np.int64), native.dictionary.to_pylist()
    levels = column.drop_nulls().unique(maintain_order=True).to_list()
    codes = column.replace_strict(levels, list(range(len(levels))), return_dtype=nw.Int64)
    return codes.fill_null(-1).to_numpy(), levels


def _of_categories(column: Any, missing: NDArray[np.bool_]) -> Values:
    native = column.to_native()
    if hasattr(native, "cat") and hasattr(native.cat, "categories"):  # pandas, of any type
        labels = list(map(word_of, native.cat.categories.tolist()))
        codes = native.cat.codes.to_numpy().astype(np.int64)
        codes, levels = _compact(codes, labels)
    else:
        codes, levels = _factorize(column.cast(nw.String))
    return Values("words", codes, missing, "category", levels, is_category=True)


def _compact(
    codes: NDArray[np.int64], labels: Sequence[str]
) -> tuple[NDArray[np.int64], list[str]]:
    """Leave out labels that no row has, and make equal ones one; in order of appearance."""
    used, first = np.unique(codes, return_index=True)
    used = used[np.argsort(first)]
    used = used[used >= 0]
    names = [labels[i] for i in used.tolist()]
    levels = list(dict.fromkeys(names))
    place = dict(zip(levels, range(len(levels)), strict=True))
    where = np.full(len(labels) + 1, -1, dtype=np.int64)  # the last is that of -1
    where[used] = [place[name] for name in names]
    return where[codes], levels


def word_of(value: Any) -> str:
    """Return the word for a value as a category: of 3 and 3.0 it is "3"."""
    if _is_number(type(value)) and not isinstance(value, int):  # True is an int, too
        value = float(value)
        value = int(value) if value.is_integer() and abs(value) < 2**53 else value
    return str(value)


def _of_strings(values: list[Any], missing: NDArray[np.bool_], dtype: str) -> Values:
    codes, distinct = _distinct(values, missing)
    return Values("words", codes, missing, dtype, list(map(str.__str__, distinct)))


def _distinct(values: list[Any], missing: NDArray[np.bool_]) -> tuple[NDArray[np.int64], list[Any]]:
    """Return which of the distinct values each row has, and these as they appear."""
    present = list(compress(values, ~missing))
    place = {value: i for i, value in enumerate(dict.fromkeys(present))}
    codes = np.full(len(values), -1, dtype=np.int64)
    codes[~missing] = np.fromiter(map(place.__getitem__, present), np.int64, len(present))
    return codes, list(place)


def _of_objects(values: list[Any], dtype: str = "object") -> Values:
    """Return Python's objects in the form that all of them have."""
    types = list(map(type, values))
    found = set(types)
    gaps = {kind for kind in found if kind.__name__ in _GAPS}
    missing = np.fromiter(map(gaps.__contains__, types), bool, len(types))
    found -= gaps
    floats = {kind for kind in found if issubclass(kind, (float, np.floating))}
    if floats and not all(map(_is_number, found)):
        where = np.flatnonzero(np.fromiter(map(floats.__contains__, types), bool, len(types)))
        are_nan = np.isnan(np.array([values[i] for i in where.tolist()], dtype=float))
        missing[where[are_nan]] = True
        if are_nan.all():
            found -= floats
    if not found:
        return _nothing(len(values), dtype)

    def all_are(*kinds: type) -> bool:
        return all(issubclass(kind, kinds) for kind in found)

    if all_are(str):
        return _of_strings(values, missing, "str")
    filled = np.empty(len(values), dtype=object)
    filled[:] = values
    if all_are(bool, np.bool_):
        filled[missing] = False
        return Values("boolean", filled.astype(bool), missing, dtype)
    if all(map(_is_number, found)):
        return _of_number_objects(filled, missing, dtype, all_are(int, np.integer, bool))
    if any(issubclass(kind, Complex) and not issubclass(kind, Real) for kind in found):
        raise ValueError("Complex data not supported")
    filled[missing] = None
    if all_are(datetime.date, np.datetime64):
        return _of_date_objects(filled, missing, dtype)
    if all_are(datetime.timedelta, np.timedelta64):
        return _of_microseconds("duration", filled.astype("timedelta64[us]"), missing, dtype)
    if all_are(datetime.time):
        return _of_times(values, missing)
    if all_are(*_LISTS):
        return _of_lists(values, missing, dtype)
    if all(_is_number(kind) or issubclass(kind, (str, np.bool_)) for kind in found):
        return _of_mixed(values, types, missing)
    names = ", ".join(sorted(kind.__name__ for kind in found))
    example = max(compress(values, ~missing), key=lambda x: not isinstance(x, (str, Real)))
    # The words of NumPy, which scikit-learn expects: "argument must be a string or a number".
    raise ValueError(
        f"each argument must be a string or a number, got {names}, such as {shown(example)}"
        + _WHAT_TO_DO
    )


def _is_number(kind: type) -> bool:
    return issubclass(kind, (Real, Decimal))


def _of_number_objects(
    filled: NDArray[Any], missing: NDArray[np.bool_], dtype: str, are_whole: bool
) -> Values:
    filled[missing] = 0
    try:
        return _of_numbers(filled.astype(np.int64 if are_whole else float), missing, dtype)
    except OverflowError:  # beyond 64 bits
        return _of_numbers(np.array([_float(value) for value in filled]), missing, dtype)


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def _of_date_objects(filled: NDArray[Any], missing: NDArray[np.bool_], dtype: str) -> Values:
    zones = set(map(getattr, filled[~missing], repeat("tzinfo"), repeat(None)))
    if zones == {None}:
        return Values("date", np.array(filled.tolist(), _MICROSECONDS), missing, dtype)
    if None in zones:
        raise ValueError("some dates have a time zone and some have none; give all of them one")
    wall = [each and each.replace(tzinfo=None) for each in filled]
    ahead = [each and each.utcoffset() for each in filled]
    local = np.array(wall, _MICROSECONDS)
    return Values("date", local - np.array(ahead, "timedelta64[us]"), missing, dtype, local=local)


def _of_times(values: list[Any], missing: NDArray[np.bool_]) -> Values:
    codes, distinct = _distinct(values, missing)
    zero = datetime.datetime.min
    since = [datetime.datetime.combine(zero, each.replace(tzinfo=None)) - zero for each in distinct]
    of_each = np.array([*since, datetime.timedelta()], "timedelta64[us]")
    return _of_microseconds("time", of_each[codes], missing, "time")


def _of_lists(values: list[Any], missing: NDArray[np.bool_], dtype: str) -> Values:
    lists = list(compress(values, ~missing))
    rows = np.repeat(np.flatnonzero(~missing), np.fromiter(map(len, lists), np.int64, len(lists)))
    items = list(chain.from_iterable(lists))
    are_gaps = np.zeros(len(items), dtype=bool)
    if not all(issubclass(kind, str) for kind in set(map(type, items))):
        are_gaps[:] = [is_missing(item) for item in items]
    others = {type(item) for item in compress(items, ~are_gaps) if not isinstance(item, str)}
    if others:
        names = ", ".join(sorted(kind.__name__ for kind in others))
        raise ValueError(
            f"lists of {names}, such as {shown(lists[0])}, expected lists of strings; give vectors "
            "as columns of their own, or set the column to 'drop'"
        )
    codes, distinct = _distinct(items, are_gaps)
    levels = list(map(str.__str__, distinct))
    return Values("lists", codes[~are_gaps], missing, dtype, levels, rows=rows[~are_gaps])


def _of_mixed(values: list[Any], types: list[type], missing: NDArray[np.bool_]) -> Values:
    codes, distinct = _distinct(list(zip(types, values, strict=True)), missing)
    codes, levels = _compact(codes, [word_of(value) for _, value in distinct])
    return Values("words", codes, missing, "object", levels, is_mixed=True)
