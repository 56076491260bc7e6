"""One lock per key, created when first asked for and forgotten when nobody holds it.

Owns nothing but locks; must not know what they guard.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from skembed._forks import after_fork_in_child

__all__ = ["KeyLocks"]


class KeyLocks:
    """Re-entrant locks by key: holding one key never blocks another.

    A fork resets them in the child, where no thread would release what the parent's hold.
    """

    def __init__(self) -> None:
        self._reset()
        after_fork_in_child(self._reset)

    def _reset(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[Hashable, threading.RLock] = {}
        self._n_users: dict[Hashable, int] = {}

    @contextmanager
    def hold(self, key: Hashable) -> Iterator[None]:
        """Hold the lock of `key` within a `with` block."""
        guard, locks, n_users = self._guard, self._locks, self._n_users
        with guard:
            lock = locks.setdefault(key, threading.RLock())
            n_users[key] = n_users.get(key, 0) + 1
        try:
            with lock:
                yield
        finally:
            with guard:
                n_users[key] -= 1
                if not n_users[key]:
                    del n_users[key], locks[key]
