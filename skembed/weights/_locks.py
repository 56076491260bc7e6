"""One lock per key, created when first asked for.

Owns nothing but locks; must not know what they guard.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable

from skembed._forks import after_fork_in_child

__all__ = ["KeyLocks"]


class KeyLocks:
    """Re-entrant locks by key: holding one key never blocks another; a forked child has its own."""

    def __init__(self) -> None:
        self._reset()
        after_fork_in_child(self._reset)

    def _reset(self) -> None:
        self._locks: dict[Hashable, threading.RLock] = {}

    def hold(self, key: Hashable) -> threading.RLock:
        """Return the lock of `key`, for a `with` statement."""
        return self._locks.setdefault(key, threading.RLock())
