"""What a store tells of itself: the counters behind `EmbeddingStore.info`.

Owns counting and its wording. Must not know where anything is kept.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from skembed.store._fork import watch_forks

__all__ = ["StoreInfo", "Tally"]


@dataclass(frozen=True, repr=False)
class StoreInfo:
    """What a store holds and what it did.

    Parameters
    ----------
    path : Path or None
        The folder; None for a store in memory.
    n_entries, n_bytes : int
        Vectors kept now, and their bytes: in the folder, or in memory if there is none.
    max_bytes : int or None
        The bound on `n_bytes`.
    n_hits, n_misses : int
        Rows found and not found by this object since it was made, in this process.
    n_evicted, n_damaged : int
        Vectors that it dropped for the bound, and that it found damaged.
    """

    path: Path | None
    n_entries: int
    n_bytes: int
    max_bytes: int | None
    n_hits: int
    n_misses: int
    n_evicted: int
    n_damaged: int

    def __repr__(self) -> str:
        bound = "" if self.max_bytes is None else f" of {_human(self.max_bytes)}"
        return (
            f"StoreInfo({str(self.path) if self.path else 'in memory'}: {self.n_entries:,} vectors,"
            f" {_human(self.n_bytes)}{bound}; {self.n_hits:,} hits, {self.n_misses:,} misses,"
            f" {self.n_evicted:,} evicted, {self.n_damaged:,} damaged)"
        )


class Tally:
    """Counts of one store object, exact among threads."""

    def __init__(self) -> None:
        self.n_hits = self.n_misses = self.n_evicted = self.n_damaged = 0
        self._lock = threading.Lock()
        watch_forks(self)

    def add(self, *, hits: int = 0, misses: int = 0, evicted: int = 0, damaged: int = 0) -> None:
        """Add to the counts."""
        with self._lock:
            self.n_hits += hits
            self.n_misses += misses
            self.n_evicted += evicted
            self.n_damaged += damaged

    def before_fork(self) -> None:
        """Come to rest. The lock is held for microseconds only and nothing is taken inside it."""
        self._lock.acquire()

    def after_fork(self, *, in_child: bool) -> None:
        """Go on; a child counts on from its parent's counts."""
        self._lock.release()


def _human(n_bytes: int) -> str:
    size = float(n_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
