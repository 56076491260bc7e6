"""The embedding store: what the engine asks, in memory first and then in a folder.

If the folder fails, the store warns once and continues without it.
"""

from __future__ import annotations

import atexit
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import compress
from pathlib import Path
from typing import Any, TypeVar

from skembed._forks import fork_safe_lock
from skembed.exceptions import InvalidParameterError, StoreWarning, warn_user
from skembed.store._claims import claims_of
from skembed.store._errors import STORE_ERRORS, StaleError, describe_failure, is_full
from skembed.store._folder import Folder, close_folders, leave_folder, open_folder
from skembed.store._info import StoreInfo
from skembed.store._large import Pieces, count_large, drop_large, read_large, write_large
from skembed.store._memory import MemoryTier
from skembed.store._run import run_limit

__all__ = ["EmbeddingStore", "absolute_path"]

T = TypeVar("T")

_MEMORY_ONLY_BYTES = 1 << 30
_MEMORY_TIER_BYTES = 128 << 20
_PAUSE_SECONDS = 60.0


class EmbeddingStore:
    """Vectors by content, kept in memory and optionally in a folder.

    Pass one as an embedder's `cache` to limit the size of a folder, to share an in-memory store
    between estimators, or to inspect what it holds. Clones share it; a pickle carries only the path
    and the limit.

    The folder is an LMDB database on a local file system; any number of processes can use it at the
    same time. Each value carries a checksum. If the folder fails (a full disk, damage, no
    permission), the store warns once and continues in memory.

    Parameters
    ----------
    path : str or path-like, default=None
        The folder, created with its parents on first use; ``~`` is the user's home. None keeps
        vectors only in the memory of this process.
    max_bytes : int, default=None
        Keep at most this many bytes of vectors, dropping the least recently used. The folder itself
        takes two to three times as much. None is no limit for a folder, and 1 GiB in memory.
        Weights that training has learned are kept beside the vectors of a folder: at most as many
        bytes again, and without a limit 8 GiB, or half of what is free.

    Raises
    ------
    InvalidParameterError
        If `path` is neither None nor the name of a folder, or `max_bytes` is not positive.

    Examples
    --------
    >>> from skembed.store import EmbeddingStore
    >>> store = EmbeddingStore()
    >>> store.put_many([b"key"], [b"vector"])
    >>> store.get_many([b"key", b"other"])
    [b'vector', None]
    >>> store.info()
    StoreInfo(in memory: 1 vectors, 6 B of 1.0 GiB; 1 hits, 1 misses, 0 evicted, 0 damaged)
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, *, max_bytes: int | None = None
    ) -> None:
        is_path = isinstance(path, (str, os.PathLike)) and bool(os.fspath(path))
        if path is not None and not is_path:
            raise InvalidParameterError(
                f"path must be None or the name of a folder; got {path!r} of type "
                f"{type(path).__name__}."
            )
        is_count = isinstance(max_bytes, int) and not isinstance(max_bytes, bool)
        if max_bytes is not None and not (is_count and max_bytes > 0):
            raise InvalidParameterError(
                f"max_bytes must be None or a positive number of bytes; got {max_bytes!r}."
            )
        self.path = None if path is None else absolute_path(path)
        self.max_bytes = max_bytes
        if self.path is None:
            self.max_bytes = self.max_bytes or _MEMORY_ONLY_BYTES
            in_memory = self.max_bytes
        else:
            in_memory = min(_MEMORY_TIER_BYTES, self.max_bytes or _MEMORY_TIER_BYTES)
        self._memory = MemoryTier(in_memory)
        self._claims = claims_of(self.path)
        self._folder: Folder | None = None
        self._is_off = self.path is None
        self._is_full = False
        self._counts: Counter[str] = Counter()
        self._counts_lock = fork_safe_lock()
        self._warned: set[str] = set()
        self._untold: list[str] = []

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the value of each key, or None for keys that are not stored."""
        found = self._memory.get_many(keys)
        missing = [row for row, value in enumerate(found) if value is None]
        asked = [keys[row] for row in missing]
        if asked and (read := self._on_disk(lambda folder: folder.vectors.get_many(asked))):
            values, n_damaged = read
            for row, value in zip(missing, values, strict=True):
                found[row] = value
            pairs = zip(asked, values, strict=True)
            self._memory.put_many((key, value) for key, value in pairs if value is not None)
            if n_damaged:
                self._count(damaged=n_damaged)
                self._warn(
                    "damage",
                    f"{n_damaged} stored vectors in {self.path} were damaged; they are computed "
                    "and stored again. If this happens often, check the disk.",
                )
        if (folder := self._folder) is not None:
            hits = [key for key, value in zip(keys, found, strict=True) if value is not None]
            folder.vectors.note_uses(hits, self.max_bytes)
        n_misses = found.count(None)
        self._count(hits=len(found) - n_misses, misses=n_misses)
        self._tell()
        return found

    def put_many(
        self, keys: Sequence[bytes], values: Sequence[bytes], holder: object = None
    ) -> None:
        """Keep a value for each key, and release the holder's claims on the keys."""
        items = [(key, bytes(value)) for key, value in zip(keys, values, strict=True)]
        if not items:
            return
        try:
            self._memory.put_many(items)
            n_evicted = self._on_disk(
                lambda folder: folder.vectors.put_many(items, self.max_bytes), is_write=True
            )
            self._count(evicted=n_evicted or 0)
        finally:
            self._give_back(keys, holder)
        self._tell()

    def claim(self, keys: Sequence[bytes], holder: object = None) -> list[bool]:
        """Claim keys for the caller to encode; return which it now has to put or release.

        The others are already stored, or claimed by another process or call. One `holder` does not
        release what another has claimed.
        """
        is_free = self._claims.take(keys, holder)
        free = list(compress(keys, is_free))
        try:
            ours = self._confirm(free)
        except BaseException:
            self._give_back(free, holder)
            raise
        if len(ours) < len(free):
            self._claims.drop(key for key in free if key not in ours)
        self._tell()
        return [free and key in ours for key, free in zip(keys, is_free, strict=True)]

    def release(self, keys: Sequence[bytes], holder: object = None) -> None:
        """Release claims without a value; keys that `holder` does not hold are skipped."""
        self._give_back(keys, holder)
        self._tell()

    def wait(self, keys: Sequence[bytes], timeout: float) -> None:
        """Sleep until one of the keys is stored or free to claim, at most `timeout` seconds."""
        if keys:
            self._claims.wait(lambda: self._is_any_settled(keys), timeout)
        self._tell()

    @contextmanager
    def in_turn(self, key: bytes, patience: float = float("inf")) -> Iterator[None]:
        """Let one caller at a time pass, among all threads and processes that share the store.

        After `patience` seconds others wait no longer. Nothing must be stored under the key.
        """
        holder, deadline = object(), time.monotonic() + patience
        try:
            while not self.claim([key], holder)[0] and time.monotonic() < deadline:
                self.wait([key], min(_PAUSE_SECONDS, patience))
            yield
        finally:
            self.release([key], holder)

    def get_large(self, key: bytes) -> bytes | None:
        """Return what `put_large` has kept, which may be damaged; None if there is nothing."""
        if self.path is None:
            return self._memory.get_many([key])[0]
        found = self._on_disk(lambda folder: read_large(folder.path, key))
        self._tell()
        return found

    def put_large(self, key: bytes, pieces: Pieces) -> None:
        """Keep a value of megabytes: in a file beside the vectors, or in memory without a folder.

        In memory it takes half of what there is for vectors at most; what is larger is not kept.
        """
        if self.path is not None:
            self._on_disk(
                lambda folder: write_large(
                    folder.path, key, pieces, self.max_bytes or run_limit(folder.path)
                ),
                is_write=True,
            )
        elif 2 * sum(map(len, pieces)) <= self._memory.max_bytes:
            self._memory.put_many([(key, b"".join(pieces))])
        self._tell()

    def info(self) -> StoreInfo:
        """Return what the store holds, and its statistics."""
        count = self._on_disk(lambda folder: folder.vectors.count())
        n_entries, n_bytes = count or (len(self._memory), self._memory.n_bytes)
        large = self._on_disk(lambda folder: count_large(folder.path))
        n_trained, n_trained_bytes = large or (0, 0)
        self._tell()
        counts = self._counts
        return StoreInfo(
            path=self.path,
            n_entries=n_entries,
            n_bytes=n_bytes,
            max_bytes=self.max_bytes,
            n_hits=counts["hits"],
            n_misses=counts["misses"],
            n_evicted=self._memory.n_evicted if self.path is None else counts["evicted"],
            n_damaged=counts["damaged"],
            n_trained=n_trained,
            n_trained_bytes=n_trained_bytes,
        )

    def clear(self) -> None:
        """Drop everything, for every process that uses the folder; repairs a damaged folder."""
        self._memory.clear()
        if self.path is not None:
            self._is_off = self._is_full = False
            self._warned.clear()
            self._on_disk(lambda folder: folder.vectors.clear(), is_write=True)
            self._on_disk(lambda folder: drop_large(folder.path), is_write=True)
        self._tell()

    def close(self) -> None:
        """Close the files and drop what is in memory; the next use reopens the folder."""
        self._memory.clear()
        folder, self._folder = self._folder, None
        if folder is not None:
            leave_folder(folder, self)
        self._tell()

    def _find_folder(self) -> Folder:
        assert self.path is not None
        self.path.mkdir(parents=True, exist_ok=True)
        return open_folder(self.path, self, is_durable=True)

    def _on_disk(self, work: Callable[[Folder], T], *, is_write: bool = False) -> T | None:
        """Return ``work(folder)``; None if there is no folder that can do it."""
        for _ in range(2):
            if self._is_off or (is_write and self._is_full):
                return None
            folder = self._folder
            try:
                if folder is None:
                    folder = self._folder = self._find_folder()
                folder.check(is_write=is_write)
                return work(folder)
            except StaleError:
                # The next use opens it again; another thread may have done so already.
                if folder is not None:
                    if self._folder is folder:
                        self._folder = None
                    leave_folder(folder, self)
            except STORE_ERRORS as error:
                self._give_up(folder, error)
                return None
        return None

    def _give_up(self, folder: Folder | None, error: Exception) -> None:
        """Go on without the folder, or without writing if it is only full."""
        if folder is not None:
            # Claims that can no longer be given back must not be waited for.
            folder.resign()
        if folder is not None and is_full(self.path, error):
            self._is_full = True
        else:
            self._is_off = True
        self._warn("failure", describe_failure(self.path, error))

    def _confirm(self, keys: Sequence[bytes]) -> set[bytes]:
        """Claim keys among processes too; return those that are ours and that nobody has stored."""
        if not keys:
            return set()
        taken = self._on_disk(lambda folder: folder.claims.take(keys, folder.token), is_write=True)
        ours = list(compress(keys, taken or [True] * len(keys)))
        # Looked at after the claim: who stored a value did so before giving up its own.
        on_disk = self._on_disk(lambda folder: folder.vectors.has_many(ours)) or ()
        stored = {*compress(ours, on_disk), *filter(self._memory.has, ours)}
        if stored:
            self._drop_shared(list(stored))
        return set(ours) - stored

    def _give_back(self, keys: Sequence[bytes], holder: object) -> None:
        held = self._claims.held_by(holder, keys)
        if held:
            try:
                self._drop_shared(held)
            finally:
                self._claims.drop(held)

    def _drop_shared(self, keys: Sequence[bytes]) -> None:
        self._on_disk(lambda folder: folder.claims.drop(keys, folder.token), is_write=True)

    def _is_any_settled(self, keys: Sequence[bytes]) -> bool:
        if any(self._memory.has(key) for key in keys):
            return True
        others = self._claims.free(keys)
        if not others:
            return False
        held = self._on_disk(lambda folder: folder.claims.held(others, folder.token), is_write=True)
        if len(held or ()) < len(others):
            return True
        return any(self._on_disk(lambda folder: folder.vectors.has_many(others)) or ())

    def _count(self, **more: int) -> None:
        with self._counts_lock:
            self._counts.update(more)

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            self._untold.append(message)

    def _tell(self) -> None:
        # At the end of each public method: where warnings are errors, the state is in order.
        while self._untold:
            warn_user(self._untold.pop(0), StoreWarning)

    def __repr__(self) -> str:
        if self.path is None:
            return "EmbeddingStore()"
        bound = "" if self.max_bytes is None else f", max_bytes={self.max_bytes}"
        return f"EmbeddingStore({str(self.path)!r}{bound})"

    def __copy__(self) -> EmbeddingStore:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> EmbeddingStore:
        # scikit-learn's clone copies parameters deeply; clones are to share the store.
        return self

    # Not by __reduce__, which skops does not know.
    def __getstate__(self) -> dict[str, Any]:
        path = None if self.path is None else str(self.path)
        return {"path": path, "max_bytes": self.max_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        EmbeddingStore.__init__(self, **state)


def absolute_path(path: str | os.PathLike[str]) -> Path:
    """Return the folder that a name means, for a worker that starts elsewhere too."""
    return Path(os.fsdecode(path)).expanduser().absolute()


atexit.register(close_folders)
