"""A folder that holds a store, and this process's place in it.

Owns the layout of the folder, the list of folders open in this process, and the sign of life that
other processes look at. Must not know of caches in memory, warnings, or whose folder it is.

Layout::

    gate            locked while someone opens or sweeps
    alive/<token>   one for each process, locked as long as it lives
    vectors/        LMDB: values
    claims/         LMDB: who encodes what; thrown away when nobody is alive
"""

from __future__ import annotations

import os
import shutil
import threading
import weakref
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from uuid import uuid4

from skembed.store._claims import TABLE, SharedClaims
from skembed.store._environment import Environment, StaleError
from skembed.store._fork import watch_forks
from skembed.store._locks import Gate, is_held, lock_new_file
from skembed.store._trouble import TROUBLE
from skembed.store._vectors import TABLES, Vectors

__all__ = [
    "Folder",
    "Seat",
    "close_folders",
    "close_unused_folders",
    "has_life",
    "leave_folder",
    "open_folder",
]

_GATE = "gate"
_ALIVE = "alive"

_gate = Gate()


class Seat:
    """One user of a folder, which is kept open while its users live."""


class Folder:
    """An open folder; one for each place on disk and process, shared by its users.

    Parameters
    ----------
    path : Path
        An existing folder.
    is_durable : bool
        Whether values must survive a crash of the machine.

    Attributes
    ----------
    vectors : Vectors
    claims : SharedClaims
    is_readonly : bool
        The folder may not be written; there are no claims in it.
    token : bytes
        Names this process among the holders of claims.
    """

    def __init__(self, path: Path, *, is_durable: bool) -> None:
        self.path = path
        self.users: weakref.WeakSet[Seat] = weakref.WeakSet()
        self.token = b""
        self._lock: int | None = None
        self._is_closed = False
        # Held while the sign of life comes or goes: a thread that still uses a folder that another
        # closes must not put it up again, since nobody would take it down.
        self._sign_lock = threading.Lock()
        self.is_readonly = not _is_writable(path)
        if not self.is_readonly:
            with _enter_gate(path):
                self._appear()
        self.vectors = Vectors(
            Environment(
                path / "vectors",
                TABLES,
                self._gate,
                is_durable=is_durable,
                is_readonly=self.is_readonly,
            )
        )
        self.claims = SharedClaims(
            Environment(path / "claims", (TABLE,), self._gate, is_durable=False), self.is_alive
        )
        watch_forks(self)

    def check(self, *, is_write: bool) -> None:
        """Raise `StaleError` if the folder was taken away or this object closed.

        Who writes shows that it lives, again if it had resigned or is a forked child.
        """
        if self._is_closed:
            raise StaleError(f"{self.path} was closed")
        if self.is_readonly:
            return
        if self.token:
            if not self._own_file().exists():
                raise StaleError(f"{self.path} was taken away")
        elif is_write:
            with _enter_gate(self.path), self._sign_lock:
                if self._is_closed:
                    raise StaleError(f"{self.path} was closed")
                if not self.token:
                    self._appear()

    def is_alive(self, token: bytes) -> bool:
        """Say whether the process with `token` still lives."""
        # A thread that claims while another resigns does so without a name.
        return token != b"" and (token == self.token or is_held(self.path / _ALIVE / token.hex()))

    def resign(self) -> None:
        """Let every claim of this process lapse, whether or not it can still be deleted."""
        with self._sign_lock:
            self._disappear()

    def close(self) -> None:
        """Write down the uses that were noted and close the files; the last user has gone.

        A thread that is at work in the folder finishes its transaction, and then meets
        `StaleError`.
        """
        self._flush()
        self._is_closed = True
        self.vectors.environment.close()
        self.claims.environment.close()
        # Last, so that nobody claims in the name of a process that gave up its name.
        with self._sign_lock:
            self._disappear()

    def before_fork(self) -> None:
        """Nothing to bring to rest: the environments do."""

    def after_fork(self, *, in_child: bool) -> None:
        """Become another process among the holders; the parent keeps its own sign of life."""
        if not in_child:
            return
        self._sign_lock = threading.Lock()
        self.vectors.after_fork_in_child()
        if self._lock is not None:
            # Locks are not inherited, so this closes a descriptor and no more.
            os.close(self._lock)
            self._lock = None
        # Its own sign of life may have to be waited for; that is left to the first use.
        self.token = b""

    def _flush(self) -> None:
        if not self.vectors.has_notes:
            return
        # A lost note of use costs little and is not worth a warning. A folder that was taken away
        # is not written to: what stands in its place may be open in this process already.
        with suppress(*TROUBLE):
            self.check(is_write=True)
            self.vectors.flush()

    def _gate(self) -> AbstractContextManager[None]:
        return nullcontext() if self.is_readonly else _enter_gate(self.path)

    def _own_file(self) -> Path:
        return self.path / _ALIVE / self.token.hex()

    def _appear(self) -> None:
        alive = self.path / _ALIVE
        alive.mkdir(exist_ok=True)
        if not _sweep(alive):
            # Nobody else is here: what is left of claims is from the dead, perhaps from before a
            # crash of the machine, and is not worth trusting.
            shutil.rmtree(self.path / "claims", ignore_errors=True)
        self.token = uuid4().bytes
        self._lock = lock_new_file(self._own_file())

    def _disappear(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            # The folder may be gone, or something else in its place.
            with suppress(OSError):
                self._own_file().unlink()
            os.close(lock)
        self.token = b""


class _OpenFolders:
    """The folders open in this process, by place on disk: LMDB forbids opening one twice."""

    def __init__(self) -> None:
        self.by_place: dict[tuple[int, int], Folder] = {}
        self.lock = threading.RLock()
        watch_forks(self)

    def before_fork(self) -> None:
        """Nothing to bring to rest: a child takes a new lock."""

    def after_fork(self, *, in_child: bool) -> None:
        """Keep the folders, which follow the fork themselves."""
        if in_child:
            self.lock = threading.RLock()


_open = _OpenFolders()


def open_folder(path: Path, user: Seat, *, is_durable: bool) -> Folder:
    """Return the open folder at `path`, which must exist, for `user` until it leaves or is gone."""
    with _open.lock:
        status = path.stat()
        place = (status.st_dev, status.st_ino)
        folder = _open.by_place.get(place)
        if folder is not None:
            try:
                folder.check(is_write=False)
            except StaleError:
                # Another folder in the same place: numbers of deleted files are used again.
                folder.close()
                folder = None
        if folder is None:
            _close_unused()
            folder = _open.by_place[place] = Folder(path, is_durable=is_durable)
        folder.users.add(user)
        return folder


def leave_folder(folder: Folder, user: Seat) -> None:
    """End the use of a folder; the last to leave closes it."""
    with _open.lock:
        folder.users.discard(user)
        _close_unused()


def close_unused_folders() -> None:
    """Close the folders whose users have left or are gone."""
    with _open.lock:
        _close_unused()


def close_folders() -> None:
    """Close every folder; for the end of the process."""
    with _open.lock:
        for folder in _open.by_place.values():
            folder.close()
        _open.by_place.clear()


def _close_unused() -> None:
    for place, folder in list(_open.by_place.items()):
        if not folder.users:
            folder.close()
            del _open.by_place[place]


def has_life(path: Path) -> bool:
    """Say whether a live process uses the folder at `path`; delete the signs of dead ones."""
    with _enter_gate(path):
        return _sweep(path / _ALIVE)


def _enter_gate(path: Path) -> AbstractContextManager[None]:
    return _gate(path / _GATE)


def _sweep(alive: Path) -> bool:
    if not alive.is_dir():
        return False
    n_living = 0
    for sign in alive.iterdir():
        if is_held(sign):
            n_living += 1
        else:
            sign.unlink(missing_ok=True)
    return n_living > 0


def _is_writable(path: Path) -> bool:
    files = [path, *path.glob("vectors/*.mdb"), *path.glob("claims/*.mdb")]
    return all(os.access(file, os.W_OK) for file in files)
