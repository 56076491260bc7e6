"""The optional data frame libraries, and an index that is easily mistaken for positions."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["import_backend", "odd_index"]

# Unordered, not unique, of mixed type; 1 and 0 are labels of other positions.
_ODD_LABELS = (10, 10, -3, "x", 1, 0)


def import_backend(name: str) -> Any:
    """Return the module, or None if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def odd_index(n_rows: int) -> list[int | str]:
    """Return labels that are neither unique nor ordered nor positions."""
    return [_ODD_LABELS[row % len(_ODD_LABELS)] for row in range(n_rows)]
