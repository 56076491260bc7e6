"""A folder that holds a store, and this process's place in it.

Layout::

    lock            held while someone opens or sweeps
    alive/<token>   one for each process, locked as long as it lives
    vectors/        LMDB: values
    claims/         LMDB: who encodes what; thrown away when nobody is alive
    large/<key>     one file for each large value
"""

from __future__ import annotations

import os
import shutil
import threading
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from skembed._forks import after_fork_in_child
from skembed.store._claims import TABLE, SharedClaims
from skembed.store._environment import Environment
from skembed.store._errors import STORE_ERRORS, StaleError
from skembed.store._locks import hold_lock, is_locked, lock_new_file
from skembed.store._vectors import TABLES, Vectors

__all__ = ["Folder", "close_folders", "is_in_use", "leave_folder", "open_folder"]

_LOCK = "lock"
_ALIVE = "alive"


class Folder:
    """An open folder; one for each place on disk and process, shared by its users.

    Its `token` names this process among the holders of claims.
    """

    def __init__(self, path: Path, *, is_durable: bool) -> None:
        self.path = path
        self.users: weakref.WeakSet[Any] = weakref.WeakSet()
        self.token = b""
        self._descriptor: int | None = None
        self._is_closed = False
        # A thread that still uses a folder that another closes must not make a new token.
        self._token_lock = threading.Lock()
        lock_file = path / _LOCK
        with hold_lock(lock_file):
            self._appear()
        self.vectors = Vectors(
            Environment(path / "vectors", TABLES, lock_file, is_durable=is_durable)
        )
        self.claims = SharedClaims(
            Environment(path / "claims", (TABLE,), lock_file, is_durable=False), self.is_alive
        )
        after_fork_in_child(self._become_another)

    def check(self, *, is_write: bool) -> None:
        """Raise `StaleError` if the folder was taken away or this object closed.

        A writer shows that it is alive, again if it had resigned or is a forked child.
        """
        if self._is_closed:
            raise StaleError(f"{self.path} was closed")
        if self.token:
            if not self._own_file().exists():
                raise StaleError(f"{self.path} was taken away")
        elif is_write:
            with hold_lock(self.path / _LOCK), self._token_lock:
                if self._is_closed:
                    raise StaleError(f"{self.path} was closed")
                if not self.token:
                    self._appear()

    def is_alive(self, token: bytes) -> bool:
        """Say whether the process with `token` still lives."""
        # A thread that claims while another resigns does so without a name.
        return token != b"" and (token == self.token or is_locked(self.path / _ALIVE / token.hex()))

    def resign(self) -> None:
        """Let every claim of this process lapse, whether or not it can still be deleted."""
        with self._token_lock:
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                # The folder may be gone, or something else in its place.
                with suppress(OSError):
                    self._own_file().unlink()
                os.close(descriptor)
            self.token = b""

    def close(self) -> None:
        """Write down the uses that were noted and close the files; the last user has gone.

        A thread that is at work in the folder finishes its transaction, then meets `StaleError`.
        """
        if self.vectors.used:
            # A lost note of use is not worth a warning. A folder that was taken away is not written
            # to: what stands in its place may be open in this process already.
            with suppress(*STORE_ERRORS):
                self.check(is_write=True)
                self.vectors.put_many((), None)
        self._is_closed = True
        self.vectors.environment.close()
        self.claims.environment.close()
        # Last, so that nobody claims in the name of a process that gave up its name.
        self.resign()

    def _become_another(self) -> None:
        """Leave the token and the notes to the parent; a child's first write makes a new token."""
        self._token_lock = threading.Lock()
        self.vectors.used = {}
        self.token = b""
        if self._descriptor is not None:
            # Locks are not inherited, so this closes a descriptor and no more.
            os.close(self._descriptor)
            self._descriptor = None

    def _own_file(self) -> Path:
        return self.path / _ALIVE / self.token.hex()

    def _appear(self) -> None:
        alive = self.path / _ALIVE
        alive.mkdir(exist_ok=True)
        if not _sweep(alive):
            # What is left of claims is from the dead, perhaps from before a crash of the machine.
            shutil.rmtree(self.path / "claims", ignore_errors=True)
        self.token = uuid4().bytes
        self._descriptor = lock_new_file(self._own_file())


# By place on disk: LMDB forbids opening one twice.
_open: dict[tuple[int, int], Folder] = {}
_open_lock = threading.RLock()


def _reset() -> None:
    global _open_lock
    _open_lock = threading.RLock()


after_fork_in_child(_reset)


def open_folder(path: Path, user: object, *, is_durable: bool) -> Folder:
    """Return the open folder at `path`, which must exist, for `user` until it leaves or is gone."""
    with _open_lock:
        status = path.stat()
        place = (status.st_dev, status.st_ino)
        folder = _open.get(place)
        if folder is not None:
            try:
                folder.check(is_write=False)
            except StaleError:
                # Another folder in the same place: numbers of deleted files are used again.
                folder.close()
                folder = None
        if folder is None:
            _close_unused()
            folder = _open[place] = Folder(path, is_durable=is_durable)
        folder.users.add(user)
        return folder


def leave_folder(folder: Folder, user: object) -> None:
    """End the use of a folder; the last to leave closes it."""
    with _open_lock:
        folder.users.discard(user)
        _close_unused()


def _close_unused() -> None:
    for place, folder in list(_open.items()):
        if not folder.users:
            folder.close()
            del _open[place]


def close_folders() -> None:
    """Close every folder, at the end of the process."""
    with _open_lock:
        for folder in _open.values():
            folder.close()
        _open.clear()


def is_in_use(path: Path) -> bool:
    """Say whether a live process uses the folder at `path`; delete the tokens of dead ones."""
    with hold_lock(path / _LOCK):
        return _sweep(path / _ALIVE)


def _sweep(alive: Path) -> bool:
    signs = list(alive.iterdir()) if alive.is_dir() else []
    dead = [sign for sign in signs if not is_locked(sign)]
    for sign in dead:
        sign.unlink(missing_ok=True)
    return len(dead) < len(signs)
