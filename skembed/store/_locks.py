"""Locks of the operating system on files: they die with the process that holds them.

A process identifier alone says little (numbers are reused, containers count from one); a lock is
reliable. POSIX record locks belong to a process and a file: they are not inherited by a fork, and
closing *any* descriptor of the file drops them, so a process never opens its own locked file again.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from skembed._forks import after_fork_in_child

__all__ = ["hold_lock", "is_locked", "lock_file", "lock_new_file"]

_TIMEOUT = 10.0

if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int, *, shared: bool) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        if shared:
            msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
        return True

else:
    import fcntl

    def _try_lock(descriptor: int, *, shared: bool) -> bool:
        try:
            fcntl.lockf(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True


def lock_new_file(path: Path) -> int:
    """Create a file that appears at `path` already locked; return its descriptor."""
    hidden = path.with_suffix(".new")
    descriptor = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        if not _try_lock(descriptor, shared=False):
            raise OSError(f"the file system refuses to lock {hidden}")
        hidden.rename(path)
    except BaseException:
        os.close(descriptor)
        hidden.unlink(missing_ok=True)
        raise
    return descriptor


def lock_file(path: Path) -> int | None:
    """Lock a file, unless another process has; return its descriptor, whose closing unlocks it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    if _try_lock(descriptor, shared=False):
        return descriptor
    os.close(descriptor)
    return None


def is_locked(path: Path) -> bool:
    """Say whether a live process holds the lock on `path`; never ask for a lock of our own.

    A file that is missing or may not be read counts as free: the worst that follows is work done
    twice, while a lock that nobody can test would be waited for without end.
    """
    # A shared lock conflicts with the holder's exclusive one, and not with another process that
    # tests at the same moment.
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _try_lock(descriptor, shared=True)
    finally:
        os.close(descriptor)


# The lock on a file admits every thread of its process.
_among_threads = threading.RLock()


def _reset() -> None:
    global _among_threads
    _among_threads = threading.RLock()


after_fork_in_child(_reset)


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the lock on `path`, which is created and stays, for one thread of one process."""
    with _among_threads:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            deadline = time.monotonic() + _TIMEOUT
            while not _try_lock(descriptor, shared=False):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"another process has held {path} for too long")
                time.sleep(0.002)
            if not path.exists() or not os.path.samestat(path.stat(), os.fstat(descriptor)):
                raise FileNotFoundError(f"{path.parent} was taken away")
            yield
        finally:
            os.close(descriptor)
