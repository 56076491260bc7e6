"""A table encoded: what was learned of each column, applied to rows.

Knows tables and arrays; nothing of the network that takes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skembed.columns._kinds import (
    KINDS,
    Decision,
    count_distinct,
    decide,
    numbers_of,
    read_as,
    strictly,
    words_of,
)
from skembed.columns._parts import Codes, Cycles, Numbers, Tags
from skembed.columns._rows import TableRows, TableShape
from skembed.columns._table import Table, read_table
from skembed.columns._texts import Embedded, Letters, errors_named
from skembed.columns._values import Values, read_values
from skembed.exceptions import (
    InvalidInputError,
    InvalidParameterError,
    InvalidRowsError,
    InvalidRowsWarning,
    describe_rows,
    did_you_mean,
    warn_user,
)
from skembed.store import digest_of

__all__ = ["Column", "TableEncoder"]


@dataclass(frozen=True, repr=False)
class Column:
    """What a column of the training table is.

    `why` says what decided it; `parts` are what rows have of it: "number", "code", the cycles of a
    date, or a vector.
    """

    name: str
    kind: str
    why: str
    n_distinct: int
    n_missing: int
    parts: tuple[str, ...]

    def __repr__(self) -> str:
        missing = f", {self.n_missing:,} missing" if self.n_missing else ""
        parts = f" -> {', '.join(self.parts)}" if self.parts else ""
        why = f"{self.why}; {self.n_distinct:,} distinct{missing}"
        return f"{self.name}: {self.kind} ({why}){parts}"


class _Learned:
    """What was learned of one column, and how its values become arrays."""

    def __init__(self, values: Values, decision: Decision, text: Any, random_state: Any) -> None:
        self.kind, self.form, self.why = decision.kind, decision.form, decision.why
        self.is_given = decision.is_given
        self.has_zone = values.local is not None
        self.number: Numbers | None = None
        self.codes: Codes | None = None
        self.dense: Any = None
        kind = self.kind
        if kind in ("number", "date", "duration") or (kind == "category" and self.form == "number"):
            self.number = Numbers(numbers_of(values))
        if kind in ("category", "boolean"):
            words = words_of(values)
            self.codes = Codes(words.data, words.levels)
        if kind == "date":
            self.dense = Cycles(_dates_of(values), self.form == "time")
        elif kind == "text" and text is None:
            self.dense = Letters(values.levels, random_state)
        elif kind == "text":
            self.dense = Embedded(values.levels, text)
        elif kind == "tags":
            self.dense = Tags(values.data, values.levels, values.rows, len(values.missing))
        if self.number is not None and len(self.number.edges) < 2:  # equal as float64
            self.number = None
        if self.dense is not None and not self.dense.width:
            self.dense = None
        if not self.parts and kind != "drop":
            self.kind, self.why = "drop", "constant: nothing to learn"

    @property
    def parts(self) -> tuple[str, ...]:
        """What rows have of the column."""
        parts = ["number"] * (self.number is not None) + ["code"] * (self.codes is not None)
        if isinstance(self.dense, Cycles):
            parts += self.dense.names
        elif self.dense is not None:
            parts.append(f"{self.kind} of {self.dense.width}")
        return tuple(parts)

    def read(self, column: Any) -> Values:
        """Return values as they were read at fit; a ValueError says why they can't be."""
        values = read_as(read_values(column), self.form)
        values = strictly(values) if self.is_given else values
        has_zone = values.local is not None
        if values.form == "date" and has_zone != self.has_zone and not values.missing.all():
            now, then = ("with", "without") if has_zone else ("without", "with")
            raise ValueError(f"dates {now} a time zone, in fit {then} one")
        return values

    def encode(self, values: Values) -> tuple[Any, Any, Any]:
        """Return the column's number, code and block of vectors, None where it has none."""
        number = codes = block = None
        if self.number is not None:
            number = self.number.encode(numbers_of(values))
        if self.codes is not None:
            words = words_of(values)
            codes = self.codes.encode(words.data, words.levels)
        if isinstance(self.dense, Cycles):
            block = self.dense.encode(_dates_of(values))
        elif isinstance(self.dense, Tags):
            n_rows, n_items = len(values.missing), len(values.rows)  # none if all is missing
            block = self.dense.encode(values.data[:n_items], values.levels, values.rows, n_rows)
        elif self.dense is not None:
            block = self.dense.encode(values.data, values.levels)
        return number, codes, block


def _dates_of(values: Values) -> NDArray[Any]:
    """Return what the clock on the wall said, NaT where missing."""
    dates = values.data if values.local is None else values.local
    dates = dates.astype("datetime64[us]")
    dates[values.missing] = np.datetime64("NaT")
    return dates


class TableEncoder:
    """Encode the rows of a table as arrays for a network.

    `fit` decides what each column is and learns its quantiles, categories or letters. Plain
    attributes and NumPy arrays are what it keeps, so that pickle and skops save it.

    Parameters
    ----------
    kinds : mapping of str to str, default=None
        What columns are, by name (x0, x1, ... of arrays): "number", "category", "boolean", "date",
        "duration", "text", "tags" or "drop". The others are inferred: numbers, dates, durations,
        booleans, category types and lists of strings by their type. Whole numbers of at most 12
        distinct values, each for 10 rows on average, are categories; if they are 3 or more, they
        are numbers, too, so that order is not lost. Strings that are all numbers (not "007") or
        all ISO dates are read as such. If 5% of them at most are neither, and no codes ("007",
        "V27"), these are missing, and `transform` warns of them. Other strings are text where most
        differ, or more than 1,000, and have two words or more on average. Where most of 50 or more
        differ otherwise, they are dropped if they are identifiers (no two are equal, all are as
        long and have letters and digits), and text if not. All others are categories.
    text : transformer, default=None
        What embeds texts: takes a 1-D array of str. Each column has a clone. None: groups of 3 and
        4 letters, in at most 30 dimensions.
    random_state : int, RandomState or None, default=0
        Of the truncated SVD of texts without `text`.

    Attributes
    ----------
    columns_ : dict of str to Column
        What each column is, and why.

    Examples
    --------
    >>> from skembed.columns import TableEncoder
    >>> encoder = TableEncoder().fit([["red", 1.5], ["blue", 2.5], ["red", None]])
    >>> encoder.columns_["x1"]
    x1: number (object; 2 distinct, 1 missing) -> number
    >>> rows, faults = encoder.transform([["red", 1.5], ["green", 2.5]])
    >>> rows.arrays["codes"].tolist(), faults
    ([[2], [1]], {})
    """

    def __init__(
        self, kinds: Mapping[str, str] | None = None, text: Any = None, random_state: Any = 0
    ) -> None:
        self.kinds = kinds
        self.text = text
        self.random_state = random_state

    def fit(self, table: Any) -> TableEncoder:
        """Learn from the rows of a table.

        Values that can't be used, such as infinity, are missing here; `transform` names their rows.

        Raises
        ------
        InvalidParameterError
            If `kinds` names no column, or a kind that there is none of; all at once.
        InvalidInputError
            If columns have values of which nothing can be learned; all at once.
        InvalidRowsError
            If there are no rows.
        """
        table = read_table(table)
        names = table.column_names
        self._check_kinds(names)
        if not table.n_rows:
            raise InvalidRowsError(
                f"Found array with 0 sample(s) (shape=(0, {len(names)})) while a minimum of 1 is "
                "required."
            )
        kinds = self.kinds or {}
        columns: dict[str, Column] = {}
        learned: list[_Learned | None] = []
        problems = []
        for name, column in zip(names, table.columns, strict=True):
            try:
                if kinds.get(name) == "drop":  # of whatever type
                    columns[name] = Column(name, "drop", "given", 0, 0, ())
                    learned.append(None)
                    continue
                raw = read_values(column)
                decision, values = decide(raw, kinds.get(name))
            except ValueError as error:
                problems.append(f"column {name!r}: {error}")
                continue
            with errors_named(name, values, table.labels):
                of_column = _Learned(values, decision, self.text, self.random_state)
            kind, why, parts = of_column.kind, of_column.why, of_column.parts
            n_distinct = 0 if values.form == "missing" else count_distinct(values)
            n_missing = int(values.missing.sum()) - len(values.faults)
            columns[name] = Column(name, kind, why, n_distinct, n_missing, parts)
            learned.append(of_column if parts else None)
        _raise(problems)
        self.columns_ = columns
        self._learned = learned
        return self

    def transform(self, table: Any) -> tuple[TableRows, dict[int, str]]:
        """Return the good rows as arrays, and what is wrong with the others, by row.

        The arrays are "numbers", float32 of shape (n, k), standard normal, NaN where missing;
        "codes", int32 of shape (n, m), 0 where missing and 1 where unseen or rare; and "dense",
        float32 of shape (n, w), vectors, zeros where missing. Columns are taken by position. Words
        in a column of numbers or dates that say neither are missing, with a warning: faults if the
        column's kind was given.
        """
        rows, faults, _ = self.read(table)
        return rows, faults

    def read(self, table: Any) -> tuple[TableRows, dict[int, str], dict[int, str]]:
        """Return what `transform` does, and which cells of the good rows could not be read."""
        table = read_table(table)
        if len(table.columns) != len(self._learned):
            raise InvalidRowsError(
                f"X has {len(table.columns)} features, but {type(self).__name__} is expecting "
                f"{len(self._learned)} features as input."
            )
        arrays: tuple[list[Any], ...] = ([], [], [])
        faults: dict[int, str] = {}
        unread: dict[int, str] = {}
        problems = []
        for name, column, learned in zip(self.columns_, table.columns, self._learned, strict=True):
            if learned is None:
                continue
            try:
                values = learned.read(column)
            except ValueError as error:
                problems.append(f"column {name!r}: {error}")
                continue
            _note(faults, name, values.faults)
            _note(unread, name, values.unread)
            with errors_named(name, values, table.labels):
                encoded = learned.encode(values)
            for parts, part in zip(arrays, encoded, strict=True):
                if part is not None:
                    parts.append(part)
        _raise(problems)
        n_rows = table.n_rows
        names, types = ("numbers", "codes", "dense"), (np.float32, np.int32, np.float32)
        joined = [_join(*each, n_rows) for each in zip(arrays, types, strict=True)]
        rows = TableRows(dict(zip(names, joined, strict=True)), self.shape)
        if faults:
            rows = rows.take(np.delete(np.arange(n_rows), list(faults)))
        unread = {row: why for row, why in sorted(unread.items()) if row not in faults}
        _warn_of_unread(unread, table)
        return rows, dict(sorted(faults.items())), unread

    @property
    def is_random(self) -> bool:
        """Whether another `random_state` would have changed what was learned."""
        return any(each and isinstance(each.dense, Letters) for each in self._learned)

    @property
    def shape(self) -> TableShape:
        """Widths, numbers of codes and bins of the arrays."""
        learned = list(filter(None, self._learned))
        edges = [each.number.edges for each in learned if each.number is not None]
        return TableShape(
            cardinalities=tuple(each.codes.cardinality for each in learned if each.codes),
            dense=tuple(each.dense.width for each in learned if each.dense is not None),
            bins=tuple(edges),
        )

    @property
    def digest(self) -> bytes:
        """Digest of all that changes the arrays."""
        return digest_of({"columns": [_plain(each) for each in self._learned]})

    def _check_kinds(self, names: list[str]) -> None:
        problems = []
        for name, kind in (self.kinds or {}).items():
            if name not in names:
                close = did_you_mean(name, names)
                problems.append(f"columns has {name!r}, which is no column.{close}")
            if kind not in KINDS:
                close = did_you_mean(kind, KINDS)
                listed = ", ".join(map(repr, KINDS))
                problems.append(f"columns={{{name!r}: {kind!r}}}: expected one of {listed}.{close}")
        if problems:
            raise InvalidParameterError("\n".join(problems))


def _raise(problems: list[str]) -> None:
    if problems:
        raise InvalidInputError("\n  ".join(["Columns that can't be encoded:", *problems]))


def _note(noted: dict[int, str], name: str, found: Mapping[int, str]) -> None:
    """Add what was found in a column to what is known of its rows."""
    for row, why in found.items():
        before = noted.get(row)
        noted[row] = f"{before + '; ' if before else ''}column {name!r}: {why}"


def _warn_of_unread(unread: Mapping[int, str], table: Table) -> None:
    if unread:  # in each call: other cells must not be lost in silence
        warn_user(
            f"Cells of {len(unread):,} of {table.n_rows:,} rows cannot be read, and count as "
            f"missing:{describe_rows(unread, table.labels)}\nCorrect or empty them, or give the "
            "column's kind by `columns`: 'number' or 'date' refuses these rows, 'category' takes "
            "all cells as they are.",
            InvalidRowsWarning,
        )


def _join(columns: list[Any], dtype: Any, n_rows: int) -> NDArray[Any]:
    columns = [column[:, None] if column.ndim == 1 else column for column in columns]
    if not columns:
        return np.zeros((n_rows, 0), dtype=dtype)
    return np.ascontiguousarray(np.concatenate(columns, axis=1), dtype=dtype)


def _plain(value: Any) -> Any:
    """Return what was learned as values that have a digest."""
    if isinstance(value, np.ndarray):
        return [str(value.dtype), list(value.shape), value.tobytes()]
    if isinstance(value, Embedded):  # its transformer is known by what it makes of probes
        return ["Embedded", _plain(value.probes)]
    if hasattr(value, "__dict__"):
        said = ("why", "is_given")
        fields = {name: _plain(each) for name, each in vars(value).items() if name not in said}
        return [type(value).__name__, fields]
    return value
