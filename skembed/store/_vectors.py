"""The disk tier: checked values in LMDB, with their order of use.

Owns the layout of the tables and what is dropped when a bound is reached. Must not know what a
value means, who claims it, or where the folder came from.

Tables (the format's number is part of their names, so another format can stand beside this one):

- values: key -> CRC-32 of key and value, value
- uses:   key -> stamp of last use, length
- order:  stamp -> key, oldest first
- state:  next stamp, bytes kept

Stamps count in write transactions, so they rise across all processes.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from typing import Any
from zlib import crc32

from skembed.store._environment import Environment

__all__ = ["TABLES", "Vectors"]

TABLES = (_VALUES, _USES, _ORDER, _STATE) = (b"values 1", b"uses 1", b"order 1", b"state 1")

_CHECK = struct.Struct("<I")
_STAMP = struct.Struct(">Q")
_USE = struct.Struct(">QI")
_TOTALS = struct.Struct("<QQ")
_STATE_KEY = b"totals"

# Uses are written together: reads alone seldom cause a write.
_N_PENDING = 4096


class Vectors:
    """The values of one folder.

    Parameters
    ----------
    environment : Environment
        With the tables `TABLES`.
    """

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self._pending: dict[bytes, None] = {}
        self._pending_lock = threading.Lock()

    def get_many(
        self, keys: Sequence[bytes], max_bytes: int | None
    ) -> tuple[list[bytes | None], int]:
        """Return the values (None: not here), and how many were damaged and so are not here."""

        def work(transaction: Any, tables: dict[bytes, Any]) -> tuple[list[bytes | None], int, int]:
            get, table = transaction.get, tables[_VALUES]
            found: list[bytes | None] = []
            n_damaged = 0
            for key in keys:
                stored = get(key, db=table)
                value = None
                if stored is not None:
                    value = _unseal(key, stored)
                    n_damaged += value is None
                found.append(value)
            return found, n_damaged, _totals(transaction, tables)[1]

        found, n_damaged, n_bytes = self.environment.read(work)
        # While more than half of the bound is free, the order in which rows were put is good
        # enough, and reading need never write.
        if max_bytes is not None and 2 * n_bytes > max_bytes:
            self._note_uses([k for k, v in zip(keys, found, strict=True) if v is not None])
        return found, n_damaged

    def has_many(self, keys: Sequence[bytes]) -> list[bool]:
        """Say which keys are stored, undamaged."""

        def work(transaction: Any, tables: dict[bytes, Any]) -> list[bool]:
            table = tables[_VALUES]
            stored = ((key, transaction.get(key, db=table)) for key in keys)
            return [raw is not None and _unseal(key, raw) is not None for key, raw in stored]

        return self.environment.read(work)

    def put_many(self, items: Sequence[tuple[bytes, bytes]], max_bytes: int | None) -> int:
        """Store values, the last as the most recent; return how many others were dropped."""
        with self._pending_lock:
            uses, self._pending = list(self._pending), {}
        n_new = sum(len(value) for _, value in items)

        def work(transaction: Any, tables: dict[bytes, Any]) -> int:
            stamp, n_bytes = _totals(transaction, tables)
            stamp = _renew(transaction, tables, uses, stamp)
            # Neighbours in the tree are written together.
            for offset, (key, value) in sorted(enumerate(items), key=lambda pair: pair[1][0]):
                n_bytes -= _forget_use(transaction, tables, key)
                transaction.put(key, _seal(key, value), db=tables[_VALUES])
                use = _USE.pack(stamp + offset, len(value))
                transaction.put(key, use, db=tables[_USES])
                n_bytes += len(value)
            _append(transaction, tables, items, stamp)
            n_evicted, n_dropped = _evict(transaction, tables, n_bytes, max_bytes)
            _set_totals(transaction, tables, stamp + len(items), n_bytes - n_dropped)
            return n_evicted

        return self.environment.write(work, n_new)

    def flush(self) -> None:
        """Write down the uses that were noted."""
        with self._pending_lock:
            has_pending = bool(self._pending)
        if has_pending:
            self.put_many((), None)

    def count(self) -> tuple[int, int]:
        """Return the number of values and their bytes."""

        def work(transaction: Any, tables: dict[bytes, Any]) -> tuple[int, int]:
            n_entries = transaction.stat(tables[_VALUES])["entries"]
            return n_entries, _totals(transaction, tables)[1]

        return self.environment.read(work)

    def clear(self) -> None:
        """Drop every value, damaged or not, and give the disk space back."""
        self.forget_uses()
        self.environment.replace()

    def forget_uses(self) -> None:
        """Forget the uses that were noted and not yet written."""
        with self._pending_lock:
            self._pending = {}

    def after_fork_in_child(self) -> None:
        """Leave the uses that the parent noted to the parent."""
        self._pending_lock = threading.Lock()
        self._pending = {}

    def _note_uses(self, keys: Sequence[bytes]) -> None:
        with self._pending_lock:
            for key in keys:
                self._pending.pop(key, None)
                self._pending[key] = None
            is_due = len(self._pending) >= _N_PENDING
        if is_due:
            self.flush()


def _seal(key: bytes, value: bytes) -> bytes:
    # The key is part of what is checked: a value in another's place is as bad as a damaged one.
    return _CHECK.pack(crc32(value, crc32(key))) + value


def _unseal(key: bytes, stored: bytes) -> bytes | None:
    if len(stored) < _CHECK.size:
        return None
    value = stored[_CHECK.size :]
    return value if _CHECK.pack(crc32(value, crc32(key))) == stored[: _CHECK.size] else None


def _totals(transaction: Any, tables: dict[bytes, Any]) -> tuple[int, int]:
    raw = transaction.get(_STATE_KEY, db=tables[_STATE])
    if raw is None or len(raw) != _TOTALS.size:
        return 0, 0
    stamp, n_bytes = _TOTALS.unpack(raw)
    return stamp, n_bytes


def _set_totals(transaction: Any, tables: dict[bytes, Any], stamp: int, n_bytes: int) -> None:
    raw = _TOTALS.pack(stamp, max(0, n_bytes))
    transaction.put(_STATE_KEY, raw, db=tables[_STATE])


def _use_of(transaction: Any, tables: dict[bytes, Any], key: bytes) -> tuple[int, int] | None:
    raw = transaction.get(key, db=tables[_USES])
    if raw is None or len(raw) != _USE.size:
        return None
    stamp, length = _USE.unpack(raw)
    return stamp, length


def _forget_use(transaction: Any, tables: dict[bytes, Any], key: bytes) -> int:
    """Take a key out of the order; return the length of its value, 0 if it has none."""
    use = _use_of(transaction, tables, key)
    if use is None:
        return 0
    transaction.delete(_STAMP.pack(use[0]), db=tables[_ORDER])
    return use[1]


def _append(
    transaction: Any, tables: dict[bytes, Any], items: Sequence[tuple[bytes, bytes]], stamp: int
) -> None:
    for offset, (key, _) in enumerate(items):
        transaction.put(_STAMP.pack(stamp + offset), key, db=tables[_ORDER])


def _renew(transaction: Any, tables: dict[bytes, Any], keys: Sequence[bytes], stamp: int) -> int:
    """Move keys to the recent end of the order; return the next stamp."""
    for key in keys:
        length = _forget_use(transaction, tables, key)
        if length:
            transaction.put(key, _USE.pack(stamp, length), db=tables[_USES])
            transaction.put(_STAMP.pack(stamp), key, db=tables[_ORDER])
            stamp += 1
    return stamp


def _evict(
    transaction: Any, tables: dict[bytes, Any], n_bytes: int, max_bytes: int | None
) -> tuple[int, int]:
    """Drop the least recently used until `n_bytes` is within bounds; return how many, how much."""
    n_evicted = n_dropped = 0
    with transaction.cursor(db=tables[_ORDER]) as oldest:
        while max_bytes is not None and n_bytes - n_dropped > max_bytes and oldest.first():
            stamp, key = oldest.item()
            # Deleted where it stands, not by name: in a damaged table a name may not be found, and
            # this loop must end.
            oldest.delete()
            use = _use_of(transaction, tables, key)
            if use is None or _STAMP.pack(use[0]) != stamp:
                continue
            n_dropped += use[1]
            transaction.delete(key, db=tables[_USES])
            n_evicted += bool(transaction.delete(key, db=tables[_VALUES]))
    return n_evicted, n_dropped
