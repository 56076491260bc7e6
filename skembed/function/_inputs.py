"""Rows for a function: plain values, and the bytes that say what they are.

Knows values, not functions.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from skembed._inputs import shown
from skembed.store import digest_of

__all__ = ["Item", "check_row", "content_of", "value_of"]

_EXPECTED = (
    "expected a str, bytes, a number, a NumPy array, or a list, tuple or dict of these, which "
    "fully define a row"
)


@dataclass(frozen=True, slots=True)
class _Row:
    """A row that is no text, and the bytes of its content."""

    value: Any
    content: bytes


Item = str | _Row


def check_row(value: Any) -> Item:
    """Return the item that a row is; a ValueError says why its content cannot be known."""
    if isinstance(value, str):
        return str.__str__(value)  # of an enum's member its text, not its name
    try:
        return _Row(value, digest_of({"row": _plain(value)}))
    except RecursionError:
        raise ValueError("it contains itself, or is nested too deeply") from None


def value_of(item: Item) -> Any:
    """Return what the function is given: its own, should it change it."""
    return item if isinstance(item, str) else copy.deepcopy(item.value)


def content_of(item: Item) -> bytes:
    """Return the bytes that say what an item is."""
    return item.encode("utf-8", "surrogatepass") if isinstance(item, str) else item.content


def _plain(value: Any) -> Any:
    """Return a value as `digest_of` takes it: dicts keep their order, which functions can see."""
    kind = type(value)
    if kind in (type(None), bool, int, float, str, bytes):
        return value
    if kind in (list, tuple):
        return kind(map(_plain, value))
    if kind is dict:
        return {"dict": [(_plain(key), _plain(each)) for key, each in value.items()]}
    is_array = kind in (np.ndarray, np.memmap) or isinstance(value, np.generic)
    if is_array and not value.dtype.hasobject:
        data = value.tobytes()
        return {"array": [value.ndim, repr(value.dtype), list(map(int, value.shape)), data]}
    hint = ""
    if hasattr(value, "__fspath__"):
        hint = ". A path doesn't define its file: pass the file's bytes, or str(path) if it does"
    elif hasattr(value, "__array__"):
        hint = ". Pass np.asarray(row)"
    raise ValueError(f"{_EXPECTED}; got {kind.__name__}: {shown(value)}{hint}")
