"""Small things worth keeping while they are in use: tokenizers, encoders without their weights.

Owns how many are kept. Must not know what they are. Loaded weights are kept by `shared_model`.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

from skembed.weights._locks import KeyLocks

__all__ = ["forget_recent", "kept_recent"]

T = TypeVar("T")

_N_KEPT = 64

_making = KeyLocks()
_recent: OrderedDict[Hashable, Any] = OrderedDict()  # least recently used first
_guard = threading.Lock()  # held for single operations on the dictionary only


def kept_recent(key: Hashable, make: Callable[[], T]) -> T:
    """Return what `make` returned for `key`, now or lately; the last 64 are kept.

    Two threads that ask for one key at once make it once. An error is passed on, not kept.
    """
    with _making.hold(key):
        with _guard:
            if key in _recent:
                _recent.move_to_end(key)
                return cast(T, _recent[key])
        made = make()
        with _guard:
            _recent[key] = made
            while len(_recent) > _N_KEPT:
                _recent.popitem(last=False)
        return made


def _after_fork() -> None:
    """Replace a lock that a thread of the parent may hold."""
    global _guard
    _guard = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def forget_recent() -> None:
    """Forget everything that is kept."""
    with _guard:
        _recent.clear()
