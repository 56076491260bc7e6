"""Files and their digests: read once per process as long as they stay the same.

Knows paths, bytes and file objects, not what is in them.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skembed._forks import after_fork_in_child

__all__ = [
    "ChangedRow",
    "RowFile",
    "digest_files",
    "digest_of_file",
    "hint_of_base64",
    "is_path",
    "is_settled",
    "path_of",
    "read_file_object",
    "read_from_start",
    "reading",
    "remembered_digest",
]

# Some 350 bytes each, beside its path.
_N_REMEMBERED = 250_000
_MOST_BYTES = 1 << 30
_MOST_OF_A_PATH = 256

# As in git's index: a file changed so lately may change again within the resolution of its time
# stamps (2 s on FAT), and no one could tell.
_RACY_SECONDS = 2.5
_MOST_THREADS = 8
_N_PER_TASK = 32

_now = time.time

WhyNot = Callable[[bytes], "str | None"]

# What it was read for, path, size, times of change, inode and device.
_remembered: OrderedDict[tuple[str, str, int, int, int, int, int], bytes] = OrderedDict()
_guard = threading.Lock()
_reading = threading.RLock()


def _after_fork() -> None:
    """Replace locks that threads of the parent may hold."""
    global _guard, _reading
    _guard, _reading = threading.Lock(), threading.RLock()


after_fork_in_child(_after_fork)


class ChangedRow(ValueError):
    """A row is gone, or no longer what it was when it was checked; the message says which."""


@dataclass(frozen=True, slots=True)
class RowFile:
    """A row that is a file: its path, read when it is needed, or its bytes; and their digest."""

    place: str | bytes
    digest: bytes

    def read(self) -> bytes:
        """Return the bytes that the digest is of; ChangedRow says why not."""
        if isinstance(self.place, bytes):
            return self.place
        try:
            data = Path(self.place).read_bytes()
        except OSError as error:
            reason = f"it can no longer be read: {error.strerror or error}"
            raise ChangedRow(reason) from error
        # A vector must never be stored under the key of another content.
        if digest_of_file(data) != self.digest:
            raise ChangedRow("it changed while it was being embedded")
        return data

    def describe(self) -> str:
        """Return what messages call it."""
        return repr(self.place) if isinstance(self.place, str) else f"{len(self.place):,} bytes"


def digest_of_file(data: bytes) -> bytes:
    """Return the digest of a file's bytes: the first 16 bytes of its SHA-256."""
    return hashlib.sha256(data).digest()[:16]


def remembered_digest(
    path: str, found: os.stat_result, compute: Callable[[], bytes], *, what: str = ""
) -> bytes:
    """Return a file's digest, computed once as long as the file stays the same.

    `found` was asked for just now; `what` the file was read for counts if `compute` checks more
    than that it can be read.
    """
    times = found.st_mtime_ns, found.st_ctime_ns  # the latter tells of `cp -p` and `rsync -t`
    identity = (what, path, found.st_size, *times, found.st_ino, found.st_dev)
    with _guard:
        digest = _remembered.get(identity)
    if digest is None:
        may_remember = is_settled(found)  # before reading: a later change gives other times
        digest = compute()
        if may_remember:
            with _guard:
                _remembered[identity] = digest
                while len(_remembered) > _N_REMEMBERED:
                    _remembered.popitem(last=False)
    return digest


def is_settled(found: os.stat_result) -> bool:
    """Return whether any later change of a file will show in its times."""
    return _now() - max(found.st_mtime, found.st_ctime) > _RACY_SECONDS


def digest_files(
    paths: list[str], why_not: WhyNot, *, what: str, most_bytes: int = _MOST_BYTES
) -> list[bytes | str]:
    """Return the digest of each file's bytes, or what is wrong with it, as `why_not` may say."""

    def digest(path: str) -> bytes | str:
        return _digest(path, why_not, what, most_bytes)

    tasks = [paths[i : i + _N_PER_TASK] for i in range(0, len(paths), _N_PER_TASK)]
    n_threads = min(len(tasks), os.cpu_count() or 1, _MOST_THREADS)
    if n_threads < 2:
        return [digest(path) for path in paths]
    with ThreadPoolExecutor(n_threads, thread_name_prefix="skembed-read") as pool:
        found = pool.map(lambda task: [digest(path) for path in task], tasks)
        return [each for task in found for each in task]


def path_of(value: str | os.PathLike[Any]) -> str:
    """Return a path as Python's own str; a ValueError says why a path-like object gives none."""
    if isinstance(value, str):
        return str.__str__(value)
    try:
        return os.fsdecode(value)
    except Exception as error:
        kind = type(value).__name__
        raise ValueError(f"a {kind} that gives no path: {type(error).__name__}: {error}") from error


def is_path(data: bytes) -> bool:
    """Return whether bytes, given for those of a file, are the path of one."""
    if len(data) > _MOST_OF_A_PATH or b"\0" in data:
        return False
    return os.path.exists(data)  # noqa: PTH110  (never raises)


def reading() -> threading.RLock:
    """Return the lock under which file objects are read: that moves their position."""
    return _reading


def read_from_start(file: Any) -> Any:
    """Return all that is in a file object, and leave it where it was; one thread at a time."""
    with _reading:
        before = file.tell()
        file.seek(0)
        try:
            return file.read()
        finally:
            file.seek(before)


def read_file_object(file: Any) -> bytes:
    """Return the bytes of a file object, which is left where it was; a ValueError says why not."""
    kind = type(file).__name__
    if isinstance(file, io.TextIOBase):
        raise ValueError(f"a {kind} that returns str; open the file with mode 'rb'")
    try:
        is_seekable = hasattr(file, "seekable") and file.seekable()
        data = read_from_start(file) if is_seekable else None
    except Exception as error:  # closed, written only, or no file at all
        raise ValueError(f"a {kind} that cannot be read: {error}") from error
    if data is None:
        raise ValueError(f"a {kind} that cannot be read from its start; read it into bytes first")
    if not isinstance(data, bytes):
        given = type(data).__name__
        raise ValueError(f"a {kind} that returns {given}; open the file with mode 'rb'")
    if not data:
        raise ValueError(f"an empty {kind}")
    return data


def _digest(path: str, why_not: WhyNot, what: str, most_bytes: int) -> bytes | str:
    shown = repr(path) if len(path) <= 200 else f"{path[:200]!r}..."
    if not path:
        return "an empty path, expected a file"
    if path.startswith("file://"):
        return f"a URL, expected a file; pass its path without file://: {shown}"
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path):
        return f"a URL, expected a file; download it first: {shown}"
    try:
        found = os.stat(path)  # noqa: PTH116  (a Path takes longer than the call)
        if stat.S_ISDIR(found.st_mode):
            return f"a directory, expected a file: {shown}"
        if not stat.S_ISREG(found.st_mode):
            return f"not a regular file: {shown}"
        if found.st_size == 0:
            return f"an empty file: {shown}"
        if found.st_size > most_bytes:
            return f"a file of {found.st_size / 2**20:,.0f} MiB, expected {what}: {shown}"
        return remembered_digest(path, found, lambda: _read(path, why_not), what=what)
    except _UnfitError as error:
        return f"{shown}: {error}"
    except FileNotFoundError:
        return f"no such file: {shown}{_hint_of_missing(path)}"
    except ValueError as error:  # a null byte
        return f"not a path ({error}): {shown}"
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return f"too long for a path: {shown}{hint_of_base64(path)}"
        return f"cannot be read ({error.strerror or error}): {shown}"


def _hint_of_missing(path: str) -> str:
    if path.startswith("~"):
        return "; expand ~ with os.path.expanduser"
    if hint := hint_of_base64(path):
        return hint
    if path != path.strip():
        return "; it starts or ends with white space, as lines of a file do: use path.strip()"
    if re.search(r"[*?]", path):
        return "; expand it with sorted(glob.glob(...))"
    return "" if os.path.isabs(path) else f"; the working directory is {os.getcwd()}"  # noqa: PTH109, PTH117


def hint_of_base64(text: str) -> str:
    """Return what to do about a long text that is base64; nothing about another."""
    if len(text) <= 100 or not re.fullmatch(r"[A-Za-z0-9+/_\-\s]+=*\s*", text):
        return ""
    function = "urlsafe_b64decode" if re.search("[-_]", text) else "b64decode"
    return f"; if it is a base64-encoded file, decode it with base64.{function}"


class _UnfitError(Exception):
    """What is wrong with a file's bytes."""


def _read(path: str, why_not: WhyNot) -> bytes:
    data = Path(path).read_bytes()
    reason = why_not(data)
    if reason is not None:
        raise _UnfitError(reason)
    return digest_of_file(data)
