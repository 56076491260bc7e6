"""Large values beside the vectors: a file each, the least recently used dropped first.

Knows bytes, not what they say: who reads them checks that they are whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

__all__ = ["Pieces", "count_large", "drop_large", "read_large", "write_large", "write_whole"]

_FOLDER = "large"

Pieces = Sequence[bytes | memoryview]
"""Of a value, one after the other; each item is a byte."""


def read_large(folder: Path, key: bytes) -> bytes | None:
    """Return the value of a key in a store's folder, None if there is none; it is now recent."""
    path = folder / _FOLDER / key.hex()
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    with suppress(OSError):  # of a folder that may only be read
        path.touch()
    return data


def write_large(folder: Path, key: bytes, pieces: Pieces, max_bytes: int) -> None:
    """Keep a value, and drop the oldest until there are at most `max_bytes` of them."""
    if sum(map(len, pieces)) > max_bytes:
        return
    (folder / _FOLDER).mkdir(exist_ok=True)
    write_whole(folder / _FOLDER / key.hex(), pieces)
    found = _find(folder, "*")
    surplus = sum(size for _, size, _ in found) - max_bytes
    for _, size, path in sorted(found):
        if surplus <= 0:
            return
        path.unlink(missing_ok=True)
        surplus -= size


def count_large(folder: Path) -> tuple[int, int]:
    """Return how many values there are, and their bytes."""
    sizes = [size for _, size, _ in _find(folder, "[!.]*")]
    return len(sizes), sum(sizes)


def drop_large(folder: Path) -> None:
    """Drop every value."""
    shutil.rmtree(folder / _FOLDER, ignore_errors=True)


def _find(folder: Path, pattern: str) -> list[tuple[int, int, Path]]:
    """Return when the values of a folder were last used, their bytes and their files."""
    found = []
    for path in (folder / _FOLDER).glob(pattern):
        with suppress(FileNotFoundError):  # dropped by another process
            status = path.stat()
            found.append((status.st_mtime_ns, status.st_size, path))
    return found


def write_whole(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Write a file that appears at `path` in one step: nobody meets a part of it."""
    draft = path.with_name(f".{path.name}-{uuid4().hex}")
    try:
        with draft.open("wb") as file:
            file.writelines(pieces)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
