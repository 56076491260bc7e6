"""What a store tells of itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["StoreInfo"]


@dataclass(frozen=True, repr=False)
class StoreInfo:
    """What a store holds, and its statistics.

    Parameters
    ----------
    path : Path or None
        The folder; None for a store in memory.
    n_entries, n_bytes : int
        Vectors currently kept, and their bytes: in the folder, or in memory if there is none.
    max_bytes : int or None
        The limit on `n_bytes`, and on `n_trained_bytes`.
    n_hits, n_misses : int
        Rows found and not found by this object since it was created, in this process.
    n_evicted, n_damaged : int
        Vectors dropped to stay within the limit, and vectors found damaged.
    n_trained, n_trained_bytes : int
        Trainings whose weights are kept in the folder, and their bytes. In memory they are counted
        among the vectors.
    """

    path: Path | None
    n_entries: int
    n_bytes: int
    max_bytes: int | None
    n_hits: int
    n_misses: int
    n_evicted: int
    n_damaged: int
    n_trained: int = 0
    n_trained_bytes: int = 0

    def __repr__(self) -> str:
        bound = "" if self.max_bytes is None else f" of {_human(self.max_bytes)}"
        trained = f"; {self.n_trained:,} trainings, {_human(self.n_trained_bytes)}"
        return (
            f"StoreInfo({str(self.path) if self.path else 'in memory'}: {self.n_entries:,} vectors,"
            f" {_human(self.n_bytes)}{bound}{trained if self.n_trained else ''};"
            f" {self.n_hits:,} hits, {self.n_misses:,} misses,"
            f" {self.n_evicted:,} evicted, {self.n_damaged:,} damaged)"
        )


def _human(n_bytes: int) -> str:
    power = max(0, n_bytes.bit_length() - 1) // 10
    size = n_bytes / 1024**power
    return f"{size:.1f} {'KMGTP'[power - 1]}iB" if power else f"{n_bytes} B"
