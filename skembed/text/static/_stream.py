"""A binary file read in pieces, whose end is an error."""

from __future__ import annotations

from typing import Any

__all__ = ["CutShortError", "Stream"]

_BYTES_AT_ONCE = 1 << 22


class CutShortError(Exception):
    """A file ends before what it promised."""


class Stream:
    """Reads a binary file, compressed or not, from its beginning."""

    def __init__(self, file: Any) -> None:
        self._file, self._buffer, self._at = file, b"", 0

    def take(self, n_bytes: int) -> bytes:
        """Return the next bytes."""
        while len(self._buffer) - self._at < n_bytes:
            self._read_on(n_bytes)
        self._at += n_bytes
        return self._buffer[self._at - n_bytes : self._at]

    def until(self, mark: bytes, most: int) -> bytes:
        """Return the bytes before the next `mark`, `most` at most, and skip it."""
        while (end := self._buffer.find(mark, self._at)) < 0:
            if len(self._buffer) - self._at > most:
                break
            self._read_on(1)
        if end < 0 or end - self._at > most:
            raise ValueError(f"a word of more than {most:,} bytes")
        found = self._buffer[self._at : end]
        self._at = end + len(mark)
        return found

    def _read_on(self, n_bytes: int) -> None:
        more = self._file.read(max(_BYTES_AT_ONCE, n_bytes - (len(self._buffer) - self._at)))
        if not more:
            raise CutShortError("some of its words or vectors are missing")
        self._buffer, self._at = self._buffer[self._at :] + more, 0
