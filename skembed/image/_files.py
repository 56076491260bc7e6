"""Digests of image files, read once per process as long as they stay the same.

Knows paths and bytes, not what is in them.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from skembed.image._pictures import digest_of_file, why_not_an_image

__all__ = ["digest_files"]

_N_REMEMBERED = 100_000
_MOST_BYTES = 1 << 30

# File systems keep times of change this coarse: a file changed lately may change again unseen.
_RACY_SECONDS = 2.0
_MOST_THREADS = 8
_N_PER_TASK = 32

_now = time.time

_Identity = tuple[str, int, int, int, int, int]

_remembered: OrderedDict[_Identity, bytes] = OrderedDict()
_guard = threading.Lock()


def _after_fork() -> None:
    """Replace a lock that a thread of the parent may hold."""
    global _guard
    _guard = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def digest_files(paths: list[str]) -> list[bytes | str]:
    """Return the digest of each file's bytes, or what is wrong with it."""
    tasks = [paths[i : i + _N_PER_TASK] for i in range(0, len(paths), _N_PER_TASK)]
    n_threads = min(len(tasks), os.cpu_count() or 1, _MOST_THREADS)
    if n_threads < 2:
        return [_digest(path) for path in paths]
    with ThreadPoolExecutor(n_threads, thread_name_prefix="skembed-read") as pool:
        found = pool.map(lambda task: [_digest(path) for path in task], tasks)
        return [each for task in found for each in task]


def _digest(path: str) -> bytes | str:
    shown = repr(path) if len(path) <= 200 else f"{path[:200]!r}..."
    if not path:
        return "an empty path, expected a file"
    if path.startswith("file://"):
        return f"a URL, expected a file; give its path without file://: {shown}"
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path):
        return f"a URL, expected a file; download it first: {shown}"
    if path.startswith("data:"):
        return f"a data URL, expected a file; decode it to bytes first: {shown:.60}..."
    try:
        found = os.stat(path)  # noqa: PTH116  (a Path takes longer than the call)
        if stat.S_ISDIR(found.st_mode):
            return f"a directory, expected a file: {shown}"
        if not stat.S_ISREG(found.st_mode):
            return f"not a regular file: {shown}"
        if found.st_size == 0:
            return f"an empty file: {shown}"
        if found.st_size > _MOST_BYTES:
            return f"a file of {found.st_size / 2**20:,.0f} MiB, expected an image: {shown}"
        digest, reason = _digest_of_regular(path, found)
        return digest if reason is None else f"{shown}: {reason}"
    except FileNotFoundError:
        hint = "; expand ~ with os.path.expanduser" if path.startswith("~") else ""
        return f"no such file: {shown}{hint}"
    except ValueError as error:  # a null byte
        return f"not a path ({error}): {shown}"
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return f"too long for a path: {shown}"
        return f"cannot be read ({error.strerror or error}): {shown}"


def _digest_of_regular(path: str, found: os.stat_result) -> tuple[bytes, str | None]:
    """Return the digest of a file's bytes, and what is wrong as far as its header tells."""
    identity = (
        *(path, found.st_size, found.st_mtime_ns),
        *(found.st_ctime_ns, found.st_ino, found.st_dev),
    )
    with _guard:
        digest = _remembered.get(identity)
    if digest is not None:
        return digest, None
    changed = max(found.st_mtime, found.st_ctime)
    is_settled = _now() - changed > _RACY_SECONDS
    data = Path(path).read_bytes()
    digest, reason = digest_of_file(data), why_not_an_image(data)
    if is_settled and reason is None:
        with _guard:
            _remembered[identity] = digest
            while len(_remembered) > _N_REMEMBERED:
                _remembered.popitem(last=False)
    return digest, reason
