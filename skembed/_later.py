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

_CHOSEN = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"}
"""GNU's threads spin for some 0.1 to 0.5 ms, by the processor; others' sleep at once."""


def import_torch() -> None:
    """Import torch, whose threads then soon sleep between products, unless the user set a policy.

    By default they spin for milliseconds, and where other processes want the same cores they take
    turns at spinning: on two cores of a virtual machine, beside one busy process, 200 short texts
    took MiniLM 1.6 s and a single one 160 ms; with threads that sleep at once 0.52 s and 19 ms.
    But to wake them takes time: with the machine to itself that was 390 ms instead of 285, and
    28 ms instead of 15. Spinning shortly before they sleep takes 350 and 16 ms alone, 0.61 s and
    37 ms beside the other. The policy is torch's alone: scikit-learn's trees, whose loops are
    shorter, took 3 times as long with threads that sleep at once.
    """
    if "torch" in sys.modules:
        return
    with one_at_a_time():
        is_chosen = any(name in os.environ for name in _POLICIES)
        if not is_chosen:
            os.environ.update(_CHOSEN)
        try:
            import_module("torch")
        finally:
            if not is_chosen:
                for name in _CHOSEN:
                    del os.environ[name]


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
