"""How a folder fails, and how to report it."""

from __future__ import annotations

import errno
import shutil
from contextlib import suppress
from pathlib import Path

import lmdb

__all__ = ["STORE_ERRORS", "DamagedError", "StaleError", "describe_failure", "is_full"]


class DamagedError(OSError):
    """The data file is not what LMDB wrote."""


class StaleError(OSError):
    """A folder was closed or taken away; look it up again."""


# A folder that fails in one of these ways costs speed, never the run.
STORE_ERRORS = (lmdb.Error, OSError)

_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_DAMAGE = (
    DamagedError,
    lmdb.CorruptedError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.VersionMismatchError,
    lmdb.PanicError,
)
_NO_ROOM = 1 << 20


def is_full(path: Path | None, error: Exception) -> bool:
    """Say whether nothing more fits at `path`, so that reading may go on."""
    if isinstance(error, _DAMAGE):
        return False
    is_known = isinstance(error, (lmdb.DiskError, lmdb.MapFullError))
    if is_known or (isinstance(error, OSError) and error.errno in _FULL):
        return True
    # LMDB calls a write that ended half way an input/output error; the disk tells the cause.
    with suppress(OSError):
        return path is not None and shutil.disk_usage(path).free < _NO_ROOM
    return False


def describe_failure(path: Path | None, error: Exception) -> str:
    """Return what happened to the folder at `path` and what the user can do."""
    reason = str(error) or type(error).__name__
    if is_full(path, error):
        what, remedy = "is full", "Free disk space, or give the store a smaller max_bytes."
    elif isinstance(error, _DAMAGE):
        what, remedy = "is damaged", "Delete the folder, or call clear() on the store."
    elif isinstance(error, (FileExistsError, NotADirectoryError)):
        what, remedy = "is not a folder", "Name another folder, or move what is there."
    elif isinstance(error, PermissionError) or "ermission" in reason or "ead-only" in reason:
        what, remedy = "may not be used by this user", "Name a folder that you can write to."
    else:
        what, remedy = "cannot be used", "Name a folder on a local disk."
    return (
        f"the embedding store at {path} {what} ({reason}). {remedy} Until then vectors are kept in "
        "the memory of this process only; results are the same."
    )
