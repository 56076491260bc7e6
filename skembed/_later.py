"""Functions and classes of modules that import torch, which are imported when first called.

What finds every row in a store never calls them: it has no use for torch, and no seconds to wait
for it. Knows names, not what they stand for.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from skembed._forks import KeyLocks

__all__ = ["later"]

_importing = KeyLocks()


def later(module: str, name: str) -> Callable[..., Any]:
    """Return what calls `name` of a module, imported at the first call, by one thread at a time."""
    found: list[Callable[..., Any]] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        if not found:
            with _importing.hold("modules"):
                found.append(getattr(import_module(module), name))
        return found[0](*args, **kwargs)

    call.__name__ = call.__qualname__ = name
    call.__module__ = module
    return call
