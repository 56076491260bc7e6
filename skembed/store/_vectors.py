"""The disk tier: checked values in LMDB, with their order of use.

Tables (the format's number is part of their names, so another format can stand beside this one):

- values: key -> CRC-32 of key and value, value
- uses:   key -> stamp of last use, length
- order:  stamp -> key, oldest first
- state:  next stamp, bytes kept

Stamps count in write transactions, so they rise across all processes. Uses are noted in memory and
written with the next values, or when the folder is closed: reading never writes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any
from zlib import crc32

from skembed._forks import fork_safe_lock
from skembed.store._environment import Environment, Tables

__all__ = ["TABLES", "Vectors"]

TABLES = (_VALUES, _USES, _ORDER, _STATE) = (b"values 1", b"uses 1", b"order 1", b"state 1")

_CHECKSUM = struct.Struct("<I")
_STAMP = struct.Struct(">Q")
_USE = struct.Struct(">QI")
_TOTALS = struct.Struct("<QQ")
_STATE_KEY = b"totals"

# Less than 10 MiB of keys; a memory tier of 128 MiB holds 87,000 rows of 384 values.
_N_NOTED = 1 << 16


class Vectors:
    """The values of one folder, in the tables `TABLES` of an environment."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        # Keys used since the last write, in order of last use.
        self.used: dict[bytes, None] = {}
        self._lock = fork_safe_lock()
        # As of the last transaction of this process.
        self._n_bytes = 0

    def get_many(self, keys: Sequence[bytes]) -> tuple[list[bytes | None], int]:
        """Return the values (None: not here), and how many were damaged and so are not here."""

        def work(transaction: Any, tables: Tables) -> tuple[list[bytes | None], int, int]:
            found: list[bytes | None] = []
            n_damaged = 0
            for key in keys:
                stored = transaction.get(key, db=tables[_VALUES])
                value = None if stored is None else stored[_CHECKSUM.size :]
                if value is not None and _checksum(key, value) != stored[: _CHECKSUM.size]:
                    value, n_damaged = None, n_damaged + 1
                found.append(value)
            return found, n_damaged, _totals(transaction, tables)[1]

        found, n_damaged, self._n_bytes = self.environment.read(work)
        return found, n_damaged

    def note_uses(self, keys: Sequence[bytes], max_bytes: int | None) -> None:
        """Note that keys were used, from the disk or from memory; touches no disk."""
        # While more than half of the bound is free, the order in which rows were put will do.
        if max_bytes is None or 2 * self._n_bytes <= max_bytes:
            return
        with self._lock:
            for key in keys:
                # Taken out first: in the order of last use.
                self.used.pop(key, None)
                self.used[key] = None
            if len(self.used) > _N_NOTED:
                # What is still in use comes in again.
                self.used = dict(islice(self.used.items(), len(self.used) - _N_NOTED // 2, None))

    def has_many(self, keys: Sequence[bytes]) -> list[bool]:
        """Say which keys are stored, undamaged."""
        return [value is not None for value in self.get_many(keys)[0]]

    def put_many(self, items: Iterable[tuple[bytes, bytes]], max_bytes: int | None) -> int:
        """Store values, the last as the most recent; return how many were dropped for the bound."""
        new = dict(items)
        n_new = sum(map(len, new.values()))
        with self._lock:
            used, self.used = self.used, {}

        def work(transaction: Any, tables: Tables) -> tuple[int, int]:
            stamp, n_bytes = _totals(transaction, tables)
            for key in used:
                length = _forget_use(transaction, tables, key)
                if length is not None:
                    _set_use(transaction, tables, key, stamp, length)
                    stamp += 1
            stamps = {key: position for position, key in enumerate(new, stamp)}
            # Neighbours in the tree are read and written together.
            for key in sorted(new):
                n_bytes -= _forget_use(transaction, tables, key) or 0
                transaction.put(key, _checksum(key, new[key]) + new[key], db=tables[_VALUES])
                _set_use(transaction, tables, key, stamps[key], len(new[key]))
            n_bytes += n_new
            n_evicted = 0
            if max_bytes is not None:
                n_evicted, n_dropped = _evict(transaction, tables, n_bytes - max_bytes)
                n_bytes -= n_dropped
            totals = _TOTALS.pack(stamp + len(new), max(0, n_bytes))
            transaction.put(_STATE_KEY, totals, db=tables[_STATE])
            return n_evicted, n_bytes

        n_evicted, self._n_bytes = self.environment.write(work, n_new)
        return n_evicted

    def count(self) -> tuple[int, int]:
        """Return the number of values and their bytes."""

        def work(transaction: Any, tables: Tables) -> tuple[int, int]:
            n_entries = transaction.stat(tables[_VALUES])["entries"]
            return n_entries, _totals(transaction, tables)[1]

        return self.environment.read(work)

    def clear(self) -> None:
        """Drop every value, damaged or not, and give the disk space back."""
        self.used = {}
        self.environment.replace()
        self._n_bytes = 0


def _checksum(key: bytes, value: bytes) -> bytes:
    # The key is part of what is checked: a value in another's place is as bad as a damaged one.
    return _CHECKSUM.pack(crc32(value, crc32(key)))


def _totals(transaction: Any, tables: Tables) -> tuple[int, int]:
    """Return the next stamp, and the bytes kept."""
    raw = transaction.get(_STATE_KEY, db=tables[_STATE])
    stamp, n_bytes = _TOTALS.unpack(raw) if raw and len(raw) == _TOTALS.size else (0, 0)
    return stamp, n_bytes


def _use_of(transaction: Any, tables: Tables, key: bytes) -> tuple[int, int] | None:
    raw = transaction.get(key, db=tables[_USES])
    if raw is None or len(raw) != _USE.size:
        return None
    stamp, length = _USE.unpack(raw)
    return stamp, length


def _set_use(transaction: Any, tables: Tables, key: bytes, stamp: int, length: int) -> None:
    transaction.put(key, _USE.pack(stamp, length), db=tables[_USES])
    transaction.put(_STAMP.pack(stamp), key, db=tables[_ORDER])


def _forget_use(transaction: Any, tables: Tables, key: bytes) -> int | None:
    """Take a key out of the order; return the length of its value, None if it has none."""
    use = _use_of(transaction, tables, key)
    if use is None:
        return None
    transaction.delete(_STAMP.pack(use[0]), db=tables[_ORDER])
    return use[1]


def _evict(transaction: Any, tables: Tables, n_surplus: int) -> tuple[int, int]:
    """Drop the least recently used, `n_surplus` bytes or a little more; return number and bytes."""
    n_evicted = n_dropped = 0
    with transaction.cursor(db=tables[_ORDER]) as oldest:
        while n_dropped < n_surplus and oldest.first():
            stamp, key = oldest.item()
            # Where it stands: in a damaged table a name may not be found, and this loop must end.
            oldest.delete()
            use = _use_of(transaction, tables, key)
            if use is None or _STAMP.pack(use[0]) != stamp:
                continue
            n_dropped += use[1]
            transaction.delete(key, db=tables[_USES])
            n_evicted += bool(transaction.delete(key, db=tables[_VALUES]))
    return n_evicted, n_dropped
