"""The memory tier: values by key, the least recently used dropped first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from skembed._forks import fork_safe_lock

__all__ = ["MemoryTier"]


class MemoryTier:
    """At most `max_bytes` of values in memory, shared by the threads of one process."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.n_evicted = 0
        self.n_bytes = 0
        self._values: OrderedDict[bytes, bytes] = OrderedDict()
        self._lock = fork_safe_lock()

    def __len__(self) -> int:
        return len(self._values)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the value of each key, None where there is none; the found are now recent."""
        with self._lock:
            for key in filter(self._values.__contains__, keys):
                self._values.move_to_end(key)
            return [self._values.get(key) for key in keys]

    def put_many(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Keep values, the last of `items` as the most recent."""
        with self._lock:
            for key, value in items:
                old = self._values.pop(key, b"")
                self._values[key] = value
                self.n_bytes += len(value) - len(old)
                while self.n_bytes > self.max_bytes:
                    _, dropped = self._values.popitem(last=False)
                    self.n_bytes -= len(dropped)
                    self.n_evicted += 1

    def has(self, key: bytes) -> bool:
        """Say whether a key has a value; this is not a use."""
        return key in self._values

    def clear(self) -> None:
        """Drop every value."""
        with self._lock:
            self._values.clear()
            self.n_bytes = 0
