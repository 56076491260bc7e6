"""One call of `embed`: where its rows come from, and which of them the store has.

A stored value is a row's size, its vector before slicing and scaling, and a note. It is stored
under the row's key; a row beyond the encoder's limit has a separate key for each way of cutting it,
so that rows that fit keep the same key for any limit.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from skembed._encoder import Encoder, Fault, Prepared
from skembed.store import EmbeddingStore, content_key

__all__ = ["Job", "stored_sizes"]

_SIZE = struct.Struct("<q")


def stored_sizes(
    encoder: Encoder, store: EmbeddingStore, keys: Sequence[bytes]
) -> list[int | None]:
    """Return the sizes of rows that the store keeps with their vectors, None where it has none."""
    values = store.get_many(keys)
    missing = [i for i, value in enumerate(values) if value is None]
    if missing and encoder.limit is not None:
        found = store.get_many([content_key(encoder.cut_digest, keys[i]) for i in missing])
        for i, value in zip(missing, found, strict=True):
            values[i] = value
    return [None if value is None else int(_SIZE.unpack_from(value)[0]) for value in values]


@dataclass(slots=True)
class Job:
    """Rows, their keys, and what becomes of them."""

    encoder: Encoder
    items: Sequence[object]
    keys: NDArray[np.uint64]
    store: EmbeddingStore | None
    vectors: NDArray[np.float32]
    sizes: NDArray[np.int64]
    batch_size: int | None = None
    progress: str | None = None
    faults: dict[int, str] = field(default_factory=dict)
    notes: dict[int, str] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)
    # Rows that the store has from an encoder with a higher limit: they are known to be cut here.
    long: set[int] = field(default_factory=set)

    def look_up(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Fill in the rows that the store has; return the others."""
        missing = self._fetch(rows, self._keys(rows), self.encoder.limit)
        if self.encoder.limit is None or not len(missing):
            return missing
        return self._fetch(missing, self._cut_keys(missing), None)

    def claim(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which rows are ours to encode."""
        if self.store is None:
            return np.ones(len(rows), dtype=bool)
        is_ours = np.array(self.store.claim(self._claimed_keys(rows), holder=self), dtype=bool)
        if self.encoder.limit is not None and is_ours.any():
            # The store says so of keys that it has; one who cut a row has stored it under another.
            ours = rows[is_ours]
            found = self.store.get_many(self._cut_keys(ours))
            is_done = np.array([value is not None for value in found])
            self.give_up(ours[is_done])
            is_ours[is_ours] = ~is_done
        return is_ours

    def wait(self, rows: NDArray[np.int64], timeout: float) -> None:
        """Sleep until one of the rows that others have claimed is stored or free."""
        if self.store is not None:
            self.store.wait(self._claimed_keys(rows), timeout)

    def finish(self, rows: list[int], vectors: NDArray[np.float32]) -> None:
        """Take the full vectors of rows that are done, and store them."""
        if not rows:
            return
        self.vectors[rows] = self.encoder.finish(vectors)
        if self.store is None:
            return
        places = np.array(rows)
        claimed, keys = self._claimed_keys(places), self._keys(places)
        if self.encoder.limit is not None:
            for i in np.flatnonzero(self.sizes[places] > self.encoder.limit).tolist():
                keys[i] = self._cut_key(keys[i])
        values = [
            _SIZE.pack(self.sizes[row]) + vector.tobytes() + self.notes.get(row, "").encode()
            for row, vector in zip(rows, vectors, strict=True)
        ]
        self.store.put_many(keys, values, holder=self)
        others = set(claimed).difference(keys)
        if others:  # of rows that turned out to be longer than the limit
            self.store.release(list(others), holder=self)

    def give_up(self, rows: NDArray[np.int64]) -> None:
        """Let go of rows that were claimed and will not be stored."""
        if self.store is not None and len(rows):
            self.store.release(self._claimed_keys(rows), holder=self)

    def fail(self, row: int, reason: str) -> None:
        """Note that a row cannot be embedded; what was found first is kept."""
        self.faults.setdefault(row, reason)
        self.notes.pop(row, None)
        self.vectors[row] = np.nan
        self.sizes[row] = 0

    def accept(self, row: int, item: Prepared | Fault) -> bool:
        """Return whether a row that was prepared can be embedded; note what is wrong with it."""
        fault = item if isinstance(item, Fault) else self._find_change(row, item)
        if fault is None:
            if isinstance(item, Prepared) and item.note is not None:
                self.notes[row] = item.note
            return True
        if fault.is_gone:
            self.gone.add(row)
        self.fail(row, fault.reason)
        return False

    def _find_change(self, row: int, item: Prepared) -> Fault | None:
        if item.content is None:
            return None
        if content_key(self.encoder.digest, item.content) == self.keys[row].tobytes():
            return None
        return Fault("it changed while it was being embedded", is_gone=True)

    def _keys(self, rows: NDArray[np.int64]) -> list[bytes]:
        raw = self.keys[rows].tobytes()
        n_bytes = self.keys.itemsize * self.keys.shape[1]
        return [raw[start : start + n_bytes] for start in range(0, len(raw), n_bytes)]

    def _cut_key(self, key: bytes) -> bytes:
        return content_key(self.encoder.cut_digest, key)

    def _cut_keys(self, rows: NDArray[np.int64]) -> list[bytes]:
        return list(map(self._cut_key, self._keys(rows)))

    def _claimed_keys(self, rows: NDArray[np.int64]) -> list[bytes]:
        """Return the keys by which rows are claimed: whether they are cut is mostly not known."""
        keys = self._keys(rows)
        if not self.long:
            return keys
        return [
            self._cut_key(key) if row in self.long else key
            for row, key in zip(rows.tolist(), keys, strict=True)
        ]

    def _fetch(
        self, rows: NDArray[np.int64], keys: list[bytes], limit: int | None
    ) -> NDArray[np.int64]:
        """Fill in rows that are stored under these keys, none larger than the limit."""
        assert self.store is not None
        values = self.store.get_many(keys)
        width = self.encoder.full_width
        n_bytes = _SIZE.size + 4 * width  # a note may follow
        is_found = np.array([v is not None and len(v) >= n_bytes for v in values], dtype=bool)
        if not is_found.any():
            return rows
        found = [v for v, is_here in zip(values, is_found, strict=True) if v and is_here]
        raw = b"".join(v if len(v) == n_bytes else v[:n_bytes] for v in found)
        table = np.frombuffer(raw, dtype=np.dtype([("size", "<i8"), ("vector", "<f4", (width,))]))
        if limit is not None and (is_long := table["size"] > limit).any():
            self.long.update(rows[is_found][is_long].tolist())
            table = table[~is_long]
            found = [value for value, is_out in zip(found, is_long, strict=True) if not is_out]
            is_found[is_found] = ~is_long
        here = rows[is_found]
        self.sizes[here] = table["size"]
        self.vectors[here] = self.encoder.finish(table["vector"])
        for row, value in zip(here.tolist(), found, strict=True):
            if len(value) > n_bytes:
                self.notes[row] = value[n_bytes:].decode()
        missing: NDArray[np.int64] = rows[~is_found]
        return missing
