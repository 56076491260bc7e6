"""The folder of a run: its name, its birth, and its end.

Cheap to import: announcing a run is part of importing the package.

A run is a process and the processes it starts. The process that announced it is the owner and
removes the folder when it exits. If it is killed, the folder stays until a later run sweeps it:
a folder in which no live process holds a lock is dead.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from skembed.exceptions import once_in_run

__all__ = [
    "VARIABLE",
    "announce_run",
    "create_run_folder",
    "is_worker",
    "remove_folder",
    "run_folder",
    "run_limit",
    "sweep_runs",
]

VARIABLE = "SKEMBED_RUN"

_PREFIX = "skembed-run-"
_MAX_BYTES = 8 << 30
# A folder this young may belong to a process that has not yet shown that it lives.
_INFANCY = 60.0

_owned: tuple[int, str] | None = None


def announce_run() -> None:
    """Name this run's folder in the environment, unless a parent process has; create nothing."""
    global _owned
    if os.environ.get(VARIABLE):
        return
    path = os.path.join(tempfile.gettempdir(), _PREFIX + secrets.token_hex(8))  # noqa: PTH118
    os.environ[VARIABLE] = path
    _owned = (os.getpid(), path)
    atexit.register(_remove_owned)


def run_folder() -> Path:
    """Return the path of this run's folder, which need not exist."""
    announce_run()
    return Path(os.environ[VARIABLE])


def is_worker() -> bool:
    """Return whether another process started this run."""
    return _owned is None or _owned[0] != os.getpid()


def create_run_folder(path: Path) -> None:
    """Create the folder, or accept the one that another process of this run created."""
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    # Anybody may write in the temporary folder: a link or another user's folder is not to be used.
    status = path.lstat()
    if not _is_own_folder(status):
        raise PermissionError(f"{path} is not a folder of this user")
    if hasattr(os, "geteuid") and stat.S_IMODE(status.st_mode) & 0o077:
        raise PermissionError(f"{path} is open to other users")


def _is_told(key: str) -> bool:
    """Return whether another worker of the run has told this; note in its folder that one has.

    The owner is where the user looks: it tells again what its workers have told.
    """
    if not is_worker():
        return False
    name = f"told-{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}"
    try:
        (run_folder() / name).touch(exist_ok=False)
    except FileExistsError:
        return True
    except OSError:  # no vector is kept in this run, and so no folder
        return False
    return False


once_in_run(_is_told)


def run_limit(path: Path) -> int:
    """Return how many bytes of vectors a run may keep in `path`: half of what is free, or 8 GiB."""
    return min(_MAX_BYTES, shutil.disk_usage(path).free // 2)


def sweep_runs(is_in_use: Callable[[Path], bool]) -> None:
    """Remove this user's folders of runs in which no process lives any more."""
    own = os.environ.get(VARIABLE)
    for path in Path(tempfile.gettempdir()).glob(_PREFIX + "*"):
        if str(path) == own:
            continue
        try:
            if _is_dead(path, is_in_use):
                remove_folder(path)
        except OSError:
            # Another user's, or swept by another process at this moment.
            continue


def _is_dead(path: Path, is_in_use: Callable[[Path], bool]) -> bool:
    status = path.lstat()
    if not _is_own_folder(status):
        return False
    if path.suffix == ".old":
        return True
    # Its first user puts a lock into the folder before anything else.
    if not (path / "lock").exists():
        return time.time() - status.st_mtime > _INFANCY
    return not is_in_use(path)


def _is_own_folder(status: os.stat_result) -> bool:
    is_own = not hasattr(os, "geteuid") or status.st_uid == os.geteuid()
    return is_own and stat.S_ISDIR(status.st_mode)


def remove_folder(path: Path) -> None:
    """Take a folder away in one step, so that nobody meets a half of it, then delete it."""
    away = path.with_name(f"{path.name}-{secrets.token_hex(4)}.old")
    path.rename(away)
    shutil.rmtree(away, ignore_errors=True)


def _remove_owned() -> None:
    # A forked child inherits this function's registration, but not the folder.
    if _owned is None or _owned[0] != os.getpid():
        return
    try:
        remove_folder(Path(_owned[1]))
    except OSError:
        # Never created, or in use on a platform that keeps open files; a later run sweeps it.
        return
