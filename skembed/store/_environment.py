"""One LMDB environment: opened safely, grown when full, reopened after a fork or a swap.

The rules that LMDB leaves to its user, and how they are kept here:

- Open once per process: `Environment` objects are shared through the folder that holds them.
- Never use in a forked child: the child closes what it inherited and opens anew. That is safe only
  while no transaction is active, so a fork waits for the lock.
- Never change the map's size with a transaction active: one lock admits one user per process.
  (py-lmdb holds the interpreter lock for most of a transaction anyway.)
- Never touch a map where its file has no end or no disk (SIGBUS): the length is checked before
  opening and before each use, and kept ahead of the last page; the lock file gets its blocks first.
- Leave no read transaction open: each lasts for one call.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from skembed._forks import after_fork_in_child, fork_safe_lock
from skembed.store._errors import DamagedError, StaleError
from skembed.store._locks import hold_lock
from skembed.store._run import remove_folder

__all__ = ["Environment", "Tables"]

T = TypeVar("T")
Tables = dict[bytes, Any]
Work = Callable[[Any, Tables], T]

# Address space, not disk: files are sparse and grow with their content (except on Windows).
_MAP_BYTES = 1 << 24 if sys.platform == "win32" else 1 << 28
_MAX_READERS = 1024
_N_TRIES = 32
_CHUNK = 1 << 20
# A cache line for each reader, and a header.
_LOCK_BYTES = 64 * _MAX_READERS + 4096

# The two meta pages: a 16-byte page header, then magic, version, address, map size, two tables of
# 48 bytes (the first word of the first is the page size), last page, transaction.
_META = struct.Struct("<16xIIQQI92xQQ")
_MAGIC = 0xBEEFC0DE
_HAS_KNOWN_LAYOUT = struct.calcsize("P") == 8 and sys.byteorder == "little"


class Environment:
    """An LMDB environment with tables `names`, in a folder of its own inside an existing one.

    `lock_file` admits one opener at a time among all processes. The content always survives a kill
    of the process: pages go to the file by ordered writes, never through a writable map, and a
    commit is one write of a meta page. If `is_durable`, it survives a crash of the machine too.
    """

    def __init__(
        self, path: Path, names: tuple[bytes, ...], lock_file: Path, *, is_durable: bool
    ) -> None:
        self.path = path
        self._data = path / "data.mdb"
        self._names = names
        self._lock_file = lock_file
        self._is_durable = is_durable
        self._is_closed = False
        self._is_inherited = False
        self._env: Any = None
        self._tables: Tables = {}
        self._identity: tuple[int, int] | None = None
        self._lock = fork_safe_lock()
        after_fork_in_child(self._leave_to_parent)

    def read(self, work: Work[T]) -> T:
        """Return ``work(transaction, tables)`` of a read transaction."""
        return self._transact(work, is_write=False, n_bytes=0)

    def write(self, work: Work[T], n_bytes: int = 0) -> T:
        """Return ``work(transaction, tables)`` of a write that adds about `n_bytes`; commit.

        `work` runs again from the start when the map had to grow.
        """
        return self._transact(work, is_write=True, n_bytes=n_bytes)

    def close(self) -> None:
        """Close for good; later use raises `StaleError`."""
        with self._lock:
            self._is_closed = True
            self._drop()

    def replace(self) -> None:
        """Delete the files and start again; other processes notice another file, and follow."""
        with self._lock:
            self._drop()
            if self.path.exists():
                with hold_lock(self._lock_file):
                    remove_folder(self.path)

    def _leave_to_parent(self) -> None:
        self._is_inherited = self._env is not None

    def _transact(self, work: Work[T], *, is_write: bool, n_bytes: int) -> T:
        with self._lock:
            for _ in range(_N_TRIES):
                env = self._opened()
                try:
                    with env.begin(write=is_write) as transaction:
                        if is_write:
                            self._stay_ahead(env, n_bytes)
                        return work(transaction, self._tables)
                except lmdb.MapResizedError:
                    # Another process grew the map; zero adopts its size.
                    env.set_mapsize(0)
                except lmdb.MapFullError:
                    size = env.info()["map_size"]
                    env.set_mapsize(max(2 * size, size + 8 * n_bytes))
                except lmdb.ReadersFullError:
                    if not env.reader_check():
                        raise
            raise DamagedError(f"{self._data} never settles on a size")

    def _opened(self) -> Any:
        """Return the handle on the file that is there now."""
        if self._is_closed:
            raise StaleError(f"{self.path} was closed")
        if self._is_inherited:
            self._drop()
        if self._env is not None:
            # In this order: another process may be extending the file just now.
            n_used = _used_bytes(self._env)
            try:
                status = self._data.stat()
            except FileNotFoundError:
                self._drop()
            else:
                if (status.st_dev, status.st_ino) != self._identity:
                    self._drop()
                elif status.st_size < n_used:
                    raise DamagedError(f"{self._data} was cut short while in use")
        if self._env is None:
            self._open()
        return self._env

    def _open(self) -> None:
        if not self.path.parent.exists():
            raise StaleError(f"{self.path.parent} is gone")
        with hold_lock(self._lock_file):
            _check_file(self._data)
            self.path.mkdir(exist_ok=True)
            _allocate(self.path / "lock.mdb")
            # Durable: data pages are flushed before the meta page that names them is written, so a
            # crash of the machine costs at worst the last commit (no metasync).
            env = lmdb.open(
                str(self.path),
                map_size=_MAP_BYTES,
                max_dbs=len(self._names),
                max_readers=_MAX_READERS,
                # A cached transaction would hold a slot of the reader table over a fork.
                max_spare_txns=0,
                # Rows lie at random places: reading ahead fetches what nobody asked for.
                readahead=False,
                mode=0o777,
                sync=self._is_durable,
                metasync=False,
            )
            try:
                tables = self._open_tables(env)
                env.reader_check()
                status = self._data.stat()
            except BaseException:
                env.close()
                raise
        self._env, self._tables = env, tables
        self._identity = (status.st_dev, status.st_ino)

    def _open_tables(self, env: Any) -> dict[bytes, Any]:
        for _ in range(_N_TRIES):
            try:
                return {name: env.open_db(name) for name in self._names}
            except lmdb.MapResizedError:
                # Grown by another process since the handle was opened a moment ago.
                env.set_mapsize(0)
        raise DamagedError(f"{self._data} never settles on a size")

    def _stay_ahead(self, env: Any, n_bytes: int) -> None:
        # A sound file may end before its last page (pages taken and given back are never written),
        # like one that was cut. Kept longer than its pages (a hole, no disk), short is damaged.
        if sys.platform == "win32":
            return
        needed = _used_bytes(env) + 4 * n_bytes + _CHUNK
        if self._data.stat().st_size < needed:
            os.truncate(self._data, -(-(needed + _CHUNK) // _CHUNK) * _CHUNK)

    def _drop(self) -> None:
        env, self._env, self._tables = self._env, None, {}
        self._identity = None
        self._is_inherited = False
        if env is not None:
            env.close()


def _allocate(lock_file: Path) -> None:
    """Give LMDB's lock file its blocks: it is written through a map, which cannot say "full"."""
    if not hasattr(os, "posix_fallocate"):
        return
    descriptor = os.open(lock_file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        status = os.fstat(descriptor)
        # The length of one in use must stay: each process has mapped as much as it found.
        n_bytes = status.st_size or _LOCK_BYTES
        if 512 * status.st_blocks < n_bytes:
            os.posix_fallocate(descriptor, 0, n_bytes)
    finally:
        os.close(descriptor)


def _used_bytes(env: Any) -> int:
    return int((env.info()["last_pgno"] + 1) * env.stat()["psize"])


def _check_file(path: Path) -> None:
    """Raise if `path` cannot be a whole LMDB data file; LMDB itself may crash on a part."""
    try:
        with path.open("rb") as file:
            length = file.seek(0, os.SEEK_END)
            if length == 0 or not _HAS_KNOWN_LAYOUT:
                return
            file.seek(0)
            first = _read_meta(file.read(_META.size), path)
            page = first[4]
            if first[1] != 1:  # a later format, which py-lmdb may know
                return
            if page < 256 or page > 65536 or page & (page - 1):
                raise DamagedError(f"{path} has no sensible page size")
            file.seek(page)
            second = _read_meta(file.read(_META.size), path)
    except FileNotFoundError:
        return
    newest = max(first, second, key=lambda meta: meta[-1])
    if length < (newest[-2] + 1) * page:
        raise DamagedError(f"{path} is cut short: {length} bytes of {(newest[-2] + 1) * page}")


def _read_meta(raw: bytes, path: Path) -> tuple[int, ...]:
    meta: tuple[int, ...] = _META.unpack(raw) if len(raw) == _META.size else (0,)
    if meta[0] != _MAGIC:
        raise DamagedError(f"{path} is not an LMDB data file")
    return meta
