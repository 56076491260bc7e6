"""The disk tier: checked values in LMDB, with their order of use.

Owns the layout of the tables and what is dropped when a bound is reached. Must not know what a
value means, who claims it, or where the folder came from.

Tables (the format's number is part of their names, so another format can stand beside this one):

- values: key -> CRC-32 of key and value, value
- uses:   key -> stamp of last use, length
- order:  stamp -> key, oldest first
- state:  next stamp, bytes kept

Stamps count in write transactions, so they rise across all processes.

Uses are noted here first and written later, in two ways. A row read from the disk is stamped anew
at the next write. A row that a memory tier served is passed over when it comes up to be dropped,
and is stamped then: rows are read from memory so often, and dropped so seldom, that a stamp for
each such use would cost far more than the reading.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from operator import itemgetter
from typing import Any
from zlib import crc32

from skembed.store._environment import Environment
from skembed.store._trouble import TROUBLE

__all__ = ["TABLES", "Vectors"]

TABLES = (_VALUES, _USES, _ORDER, _STATE) = (b"values 1", b"uses 1", b"order 1", b"state 1")

_CHECK = struct.Struct("<I")
_STAMP = struct.Struct(">Q")
_USE = struct.Struct(">QI")
_TOTALS = struct.Struct("<QQ")
_STATE_KEY = b"totals"

# Uses are written together: reads alone seldom cause a write.
_N_PENDING = 4096
# Less than 10 MiB of keys; a memory tier of 128 MiB holds 87,000 rows of 384 values.
_N_HITS = 1 << 16


class Vectors:
    """The values of one folder.

    Parameters
    ----------
    environment : Environment
        With the tables `TABLES`.
    """

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        # When each row was last read, from the disk and from memory, in calls noted.
        self._pending: dict[bytes, int] = {}
        self._hits: dict[bytes, int] = {}
        self._n_calls = 0
        self._notes_lock = threading.Lock()
        # As of the last transaction of this process.
        self._n_bytes = 0

    @property
    def has_notes(self) -> bool:
        """Whether uses were noted that are not written."""
        return bool(self._pending or self._hits)

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

        found, n_damaged, self._n_bytes = self.environment.read(work)
        if self._does_order_matter(max_bytes):
            self._note_uses([k for k, v in zip(keys, found, strict=True) if v is not None])
        return found, n_damaged

    def note_hits(
        self, keys: Sequence[bytes], found: Sequence[bytes | None], max_bytes: int | None
    ) -> None:
        """Note that those keys that were found were served from memory; touches no disk."""
        if not self._does_order_matter(max_bytes):
            return
        hits = [key for key, value in zip(keys, found, strict=True) if value is not None]
        with self._notes_lock:
            self._n_calls += 1
            self._hits.update(dict.fromkeys(hits, self._n_calls))
            if len(self._hits) > _N_HITS:
                # What is still in use comes in again.
                self._hits = dict(islice(self._hits.items(), len(self._hits) // 2, None))

    def has_many(self, keys: Sequence[bytes]) -> list[bool]:
        """Say which keys are stored, undamaged."""

        def work(transaction: Any, tables: dict[bytes, Any]) -> list[bool]:
            table = tables[_VALUES]
            stored = ((key, transaction.get(key, db=table)) for key in keys)
            return [raw is not None and _unseal(key, raw) is not None for key, raw in stored]

        return self.environment.read(work)

    def put_many(self, items: Iterable[tuple[bytes, bytes]], max_bytes: int | None) -> int:
        """Store values, the last as the most recent; return how many others were dropped."""
        new = dict(items)
        n_new = sum(map(len, new.values()))
        with self._notes_lock:
            uses, self._pending = self._pending, {}
            hits = self._hits

        def last_use(key: bytes) -> int:
            return max(uses.get(key, 0), hits.get(key, 0))

        def work(transaction: Any, tables: dict[bytes, Any]) -> tuple[int, int, list[bytes]]:
            stamp, n_bytes = _totals(transaction, tables)
            stamp = _renew(transaction, tables, uses, stamp)
            # Neighbours in the tree are read and written together.
            in_order = sorted(new)
            n_bytes += n_new - sum(_forget_use(transaction, tables, key) or 0 for key in in_order)
            n_surplus = 0 if max_bytes is None else n_bytes - max_bytes
            # Before anything is put, so that what is passed over is older than what is put.
            n_others, n_dropped, noted = _evict(transaction, tables, n_surplus, last_use)
            stamp = _renew(transaction, tables, noted, stamp)
            stamps = {key: position for position, key in enumerate(new, stamp)}
            for key in in_order:
                transaction.put(key, _seal(key, new[key]), db=tables[_VALUES])
                use = _USE.pack(stamps[key], len(new[key]))
                transaction.put(key, use, db=tables[_USES])
            for key, position in stamps.items():
                transaction.put(_STAMP.pack(position), key, db=tables[_ORDER])
            stamp += len(new)
            n_own, n_lost, _ = _evict(transaction, tables, n_surplus - n_dropped, lambda _: 0)
            n_bytes -= n_dropped + n_lost
            _set_totals(transaction, tables, stamp, n_bytes)
            return n_others + n_own, n_bytes, noted

        n_evicted, self._n_bytes, noted = self.environment.write(work, n_new)
        with self._notes_lock:
            for key in (*noted, *new):
                self._hits.pop(key, None)
        return n_evicted

    def flush(self) -> None:
        """Write down the uses that were noted."""
        with self._notes_lock:
            noted = sorted([*self._pending.items(), *self._hits.items()], key=itemgetter(1))
            self._hits = {}
            for key, call in noted:
                self._note_read(key, call)
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
        self._n_bytes = 0

    def forget_uses(self) -> None:
        """Forget the uses that were noted and not yet written."""
        with self._notes_lock:
            self._pending, self._hits = {}, {}

    def after_fork_in_child(self) -> None:
        """Leave the uses that the parent noted to the parent."""
        self._notes_lock = threading.Lock()
        self._pending, self._hits = {}, {}

    def _does_order_matter(self, max_bytes: int | None) -> bool:
        # While more than half of the bound is free, the order in which rows were put is good
        # enough, and reading need never write.
        is_bounded = max_bytes is not None and 2 * self._n_bytes > max_bytes
        return is_bounded and not self.environment.is_readonly

    def _note_uses(self, keys: Sequence[bytes]) -> None:
        with self._notes_lock:
            self._n_calls += 1
            for key in keys:
                self._note_read(key, self._n_calls)
            is_due = len(self._pending) >= _N_PENDING
        if is_due:
            # What was read is good, whether or not its use can be written.
            with suppress(*TROUBLE):
                self.put_many((), None)

    def _note_read(self, key: bytes, call: int) -> None:
        # Taken out first: in the order of last use.
        self._pending.pop(key, None)
        self._pending[key] = call


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


def _forget_use(transaction: Any, tables: dict[bytes, Any], key: bytes) -> int | None:
    """Take a key out of the order; return the length of its value, None if it has none."""
    use = _use_of(transaction, tables, key)
    if use is None:
        return None
    transaction.delete(_STAMP.pack(use[0]), db=tables[_ORDER])
    return use[1]


def _renew(transaction: Any, tables: dict[bytes, Any], keys: Iterable[bytes], stamp: int) -> int:
    """Move keys to the recent end of the order; return the next stamp."""
    for key in keys:
        length = _forget_use(transaction, tables, key)
        if length is not None:
            transaction.put(key, _USE.pack(stamp, length), db=tables[_USES])
            transaction.put(_STAMP.pack(stamp), key, db=tables[_ORDER])
            stamp += 1
    return stamp


def _evict(
    transaction: Any, tables: dict[bytes, Any], n_surplus: int, last_use: Callable[[bytes], int]
) -> tuple[int, int, list[bytes]]:
    """Drop the least recently used, `n_surplus` bytes or a little more.

    Those with a `last_use` that is not yet written are passed over unless nothing else is left.
    Returns how many were dropped, their bytes, and which were passed over, by their last use; these
    are out of the order until they are renewed.
    """
    n_evicted = n_dropped = 0
    noted: list[tuple[int, bytes, int]] = []

    def drop(key: bytes, length: int) -> None:
        nonlocal n_evicted, n_dropped
        n_dropped += length
        transaction.delete(key, db=tables[_USES])
        n_evicted += bool(transaction.delete(key, db=tables[_VALUES]))

    with transaction.cursor(db=tables[_ORDER]) as oldest:
        while n_dropped < n_surplus and oldest.first():
            stamp, key = oldest.item()
            # Deleted where it stands, not by name: in a damaged table a name may not be found, and
            # this loop must end.
            oldest.delete()
            use = _use_of(transaction, tables, key)
            if use is None or _STAMP.pack(use[0]) != stamp:
                continue
            if call := last_use(key):
                noted.append((call, key, use[1]))
            else:
                drop(key, use[1])
    noted.sort(key=itemgetter(0))
    n_lost = 0
    while n_dropped < n_surplus and n_lost < len(noted):
        _, key, length = noted[n_lost]
        drop(key, length)
        n_lost += 1
    return n_evicted, n_dropped, [key for _, key, _ in noted[n_lost:]]
