"""torch, and functions from modules that import it, imported on first use.

A process that finds every row in a store never needs them and should not wait for them. Knows
names, not what they stand for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from skembed._forks import one_at_a_time

__all__ = ["import_torch", "later"]

# Each sets how long the threads of OpenMP spin before they sleep; read when its library is loaded.
_POLICIES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def import_torch() -> None:
    """Import torch, whose threads then sleep between products where the user sets no policy.

    By default they spin, and where other processes want the same cores they take turns at spinning:
    on two cores, MiniLM beside one busy process took 5 to 9 times as long, with sleeping threads
    1.3 to 1.8 times. With the machine to itself sleeping costs it 7%, and 3 ms of a single row's 8.
    The policy is torch's alone: scikit-learn's trees, whose loops are shorter, took 3 times as long
    with it.
    """
    if "torch" in sys.modules:
        return
    with one_at_a_time():
        is_chosen = any(name in os.environ for name in _POLICIES)
        if not is_chosen:
            os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        try:
            import_module("torch")
        finally:
            if not is_chosen:
                del os.environ["OMP_WAIT_POLICY"]


def later(module: str, name: str) -> Callable[..., Any]:
    """Return what calls `name` of a module, imported at the first call, by one thread at a time."""
    found: list[Callable[..., Any]] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        if not found:
            import_torch()
            with one_at_a_time():
                found.append(getattr(import_module(module), name))
        return found[0](*args, **kwargs)

    call.__name__ = call.__qualname__ = name
    call.__module__ = module
    return call
