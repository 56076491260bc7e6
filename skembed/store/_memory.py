"""The memory tier: values by key, the least recently used dropped first.

Owns a bounded dictionary and its lock. Must not know of files or processes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from skembed.store._fork import watch_forks

__all__ = ["MemoryTier"]


class MemoryTier:
    """Values kept in memory within a bound, shared by the threads of one process.

    Parameters
    ----------
    max_bytes : int
        How many bytes of values to keep. A value larger than this is not kept at all.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.n_evicted = 0
        self._values: OrderedDict[bytes, bytes] = OrderedDict()
        self._n_bytes = 0
        self._lock = threading.Lock()
        watch_forks(self)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def n_bytes(self) -> int:
        """Bytes of values kept now."""
        return self._n_bytes

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the value of each key, None where there is none; the found are now recent."""
        found: list[bytes | None] = []
        with self._lock:
            for key in keys:
                value = self._values.get(key)
                if value is not None:
                    self._values.move_to_end(key)
                found.append(value)
        return found

    def put_many(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Keep values, the last of `items` as the most recent."""
        with self._lock:
            for key, value in items:
                old = self._values.pop(key, None)
                if old is not None:
                    self._n_bytes -= len(old)
                self._values[key] = value
                self._n_bytes += len(value)
                while self._n_bytes > self.max_bytes:
                    _, dropped = self._values.popitem(last=False)
                    self._n_bytes -= len(dropped)
                    self.n_evicted += 1

    def has(self, key: bytes) -> bool:
        """Say whether a key has a value; its use is not noted."""
        return key in self._values

    def clear(self) -> None:
        """Drop every value."""
        with self._lock:
            self._values.clear()
            self._n_bytes = 0

    def before_fork(self) -> None:
        """Come to rest. The lock is held for microseconds only and nothing is taken inside it."""
        self._lock.acquire()

    def after_fork(self, *, in_child: bool) -> None:
        """Go on; a child keeps the values that its parent had."""
        self._lock.release()
