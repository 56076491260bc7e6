"""Rows of text: what is accepted, and which rows are bad.

Knows containers (lists, arrays, Series, frames), not models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from skembed._inputs import CheckedRows, column_of, is_missing, shown

__all__ = ["check_texts"]


def check_texts(X: Any) -> CheckedRows:
    """Return the good texts as `str`, where they stood, and what is wrong with the others."""
    column: Sequence[Any] = column_of(X, what="texts", example='["a text", "another"]')
    items: list[str] = []
    faults: dict[int, str] = {}
    for row, value in enumerate(column):
        if isinstance(value, str):
            text = str.__str__(value)  # of an enum's member its text, not its name
            if text.isascii() or _is_unicode(text):
                items.append(text)
            else:
                faults[row] = "not valid Unicode: it holds half of a surrogate pair"
        elif is_missing(value):
            faults[row] = f"missing ({value!r})"
        else:
            hint = ", decode it first" if isinstance(value, (bytes, bytearray)) else ""
            faults[row] = f"expected a str, got {type(value).__name__}{hint}: {shown(value)}"
    positions = np.arange(len(column), dtype=np.int64)
    if faults:
        positions = np.delete(positions, list(faults))
    return CheckedRows(items, positions, len(column), faults)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
