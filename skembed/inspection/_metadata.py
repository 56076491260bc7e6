"""What is known of the rows, as the table of tab-separated values that the projector reads.

Its format has no escapes: a tab, or whatever ends a line, is a space here. The projector skips
blank lines, shows an empty cell as missing, and takes the first line as names where there are
several columns, as values where there is one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import narwhals as nw

from skembed._inputs import column_of, is_missing, shown

__all__ = ["columns_of", "faults_of", "table_of"]

_CONTROLS = (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)
_AS_SPACES = dict.fromkeys(_CONTROLS, " ")


def columns_of(metadata: Any) -> list[tuple[str, Sequence[Any]]]:
    """Return the columns of a list, Series, frame or dict, with their names."""
    if isinstance(metadata, Mapping):
        return [(_cell(name), _values_of(values)) for name, values in metadata.items()]
    if hasattr(metadata, "iloc") and hasattr(metadata, "columns"):
        # Of pandas, whose frames may have a name twice, which narwhals refuses.
        return [
            (_cell(name), metadata.iloc[:, i].tolist()) for i, name in enumerate(metadata.columns)
        ]
    known = nw.from_native(metadata, eager_only=True, allow_series=True, pass_through=True)
    if isinstance(known, nw.Series):
        return [(_cell(known.name), known.to_list())]
    if isinstance(known, nw.DataFrame):
        return [(_cell(each.name), each.to_list()) for each in known.iter_columns()]
    return [("label", _values_of(metadata))]


def faults_of(columns: Sequence[tuple[str, Sequence[Any]]], n_rows: int) -> list[str]:
    """Say what is wrong with columns for so many rows."""
    faults = [
        f"metadata: expected a value for each of the {n_rows:,} rows, got {len(values):,}"
        f"{f' in {shown(name)}' if len(columns) > 1 else ''}"
        for name, values in columns
        if len(values) != n_rows
    ]
    if not columns:
        faults.append("metadata: expected at least one column, got none")
    if len(columns) > 1:
        names = Counter(name for name, _ in columns)
        if names[""]:
            faults.append("metadata: expected a name for each column, got a blank one")
        twice = [shown(name) for name, count in names.items() if name and count > 1]
        if twice:
            faults.append(f"metadata: expected different names, got {', '.join(twice)} twice")
    return faults


def table_of(columns: Sequence[tuple[str, Sequence[Any]]]) -> str:
    """Return the table as text.

    Where a row has nothing but missing values a column "row" with its position comes first, as a
    blank line would be skipped.
    """
    rows = list(zip(*([_cell(value) for value in values] for _, values in columns), strict=True))
    names = [name or "label" for name, _ in columns]
    if not all(map(any, rows)):
        position = "row"
        while position in names:
            position += "_"
        names = [position, *names]
        rows = [(str(i), *row) for i, row in enumerate(rows)]
    lines = ["\t".join(row) for row in rows]
    if len(names) > 1:
        lines.insert(0, "\t".join(names))
    return "".join(f"{line}\n" for line in lines)


def _values_of(values: Any) -> Sequence[Any]:
    return column_of(values, what="values", example='["first", "second"]')


def _cell(value: Any) -> str:
    """Return a value in one line, nothing if it is missing or blank."""
    if is_missing(value):
        return ""
    text = str(value).translate(_AS_SPACES).encode("utf-8", "replace").decode("utf-8")
    return text if text.strip() else ""
