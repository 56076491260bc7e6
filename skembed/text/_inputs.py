"""Rows of text: what is accepted, and which rows are bad.

Knows containers (lists, arrays, Series, frames), not models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from skembed._inputs import CheckedRows, column_of, is_missing, shown

__all__ = ["check_texts"]


def check_texts(X: Any) -> CheckedRows:
    """Return the good texts as `str`, where they stood, and what is wrong with the others."""
    column: Sequence[Any] = column_of(X, what="texts", example='["a text", "another"]')
    items: list[str] = []
    faults: dict[int, str] = {}
    others: dict[int, Any] = {}
    for row, value in enumerate(column):
        if isinstance(value, str):
            text = str.__str__(value)  # of an enum's member its text, not its name
            if text.isascii() or _is_unicode(text):
                items.append(text)
            else:
                faults[row] = "not valid Unicode: it contains half of a surrogate pair"
        elif is_missing(value):
            faults[row] = f"missing ({value!r})"
        else:
            others[row] = value
    # What is wrong with the whole column is said once, not row by row with their values.
    is_all = not items and len(others) > 1 and len(set(map(type, others.values()))) == 1
    for row, value in others.items():
        fault = f"expected a str, got {type(value).__name__}"
        hint = ", decode it first" if isinstance(value, (bytes, bytearray)) else ""
        faults[row] = f"{fault}{_fix_of(value)}" if is_all else f"{fault}{hint}: {shown(value)}"
    positions = np.arange(len(column), dtype=np.int64)
    if faults:
        positions = np.delete(positions, list(faults))
    return CheckedRows(items, positions, len(column), dict(sorted(faults.items())))


def _fix_of(value: Any) -> str:
    """Say how to make texts of a column of values like this one."""
    if isinstance(value, (bytes, bytearray)):
        return "; use [row.decode() for row in X]"
    if isinstance(value, (list, tuple)) and len(value) == 1:
        return "; use [row[0] for row in X]"
    if isinstance(value, (list, tuple)):
        return '; use [" ".join(row) for row in X] to embed each as one text'
    if isinstance(value, Mapping):
        return f"; use [row[{shown(next(iter(value), 'text'))}] for row in X]"
    return "; use [str(row) for row in X] if they are meant as texts"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
