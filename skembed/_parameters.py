"""Parameters of estimators as plain values that can be compared, kept and made keys of.

Knows values, not what they are for.
"""

from __future__ import annotations

import dataclasses
import os
from enum import Enum
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from skembed.store import EmbeddingStore

__all__ = ["plain", "plain_fields", "snapshot"]

_COMPARABLE = (str, bool, int, float, os.PathLike, EmbeddingStore)


def plain(value: Any) -> Any:
    """Return a parameter as Python's own str, number or Path, as grids of NumPy arrays set others.

    Of an enum's member its name (torchvision's weights are such), of a list a tuple; modules and
    functions stay as they are.
    """
    if isinstance(value, Enum) and not isinstance(value, (str, int)):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, str):
        return str.__str__(value)  # str() of an enum's member gives its name
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, (list, tuple)):
        return tuple(map(plain, value))
    return Path(value) if isinstance(value, os.PathLike) else value


def plain_fields(settings: Any) -> tuple[Any, ...]:
    """Return the settings that are plain values; the others decide the backbone."""
    values = (getattr(settings, field.name) for field in dataclasses.fields(settings))
    plain_types = (str, bool, int, float, tuple, Path, type(None))
    return tuple((type(v), v) for v in values if isinstance(v, plain_types))


def snapshot(params: dict[str, Any]) -> dict[str, Any]:
    """Return parameters that can be compared, and stay as they are when a list is changed."""
    return {name: _comparable(value) for name, value in params.items()}


def _comparable(value: Any) -> Any:
    if isinstance(value, _COMPARABLE) or value is None:
        return value
    if hasattr(value, "get_params") and not isinstance(value, type):
        return type(value), snapshot(value.get_params(deep=False))
    if isinstance(value, (list, tuple)):
        return type(value), tuple(map(_comparable, value))
    # A model's repr is that of any other of the same architecture.
    return type(value), id(value)
