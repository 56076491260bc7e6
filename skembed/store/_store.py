"""The embedding store: what the engine asks, in memory first and then in a folder.

If the folder fails, the store warns once and goes on without it.
"""

from __future__ import annotations

import atexit
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from skembed._forks import ForkSafeLock
from skembed.exceptions import InvalidParameterError, StoreWarning, warn_user
from skembed.store._claims import claims_of
from skembed.store._errors import STORE_ERRORS, StaleError, describe_failure, is_full
from skembed.store._folder import Folder, User, close_folders, leave_folder, open_folder
from skembed.store._info import StoreInfo
from skembed.store._memory import MemoryTier

__all__ = ["EmbeddingStore"]

T = TypeVar("T")

_MEMORY_ONLY_BYTES = 1 << 30
_MEMORY_TIER_BYTES = 128 << 20


class EmbeddingStore:
    """Vectors by content, kept in memory and, if asked, in a folder.

    Give one to an embedder's `cache` to bound a folder, to share a store in memory between
    estimators, or to look at what it holds. An estimator's clones share the store itself. A pickle
    carries the path and the bound only; a store in memory arrives empty.

    The folder is an LMDB database that any number of processes of one machine may use at the same
    time; it must lie on a local file system. Each value carries a checksum. If the folder fails (a
    full disk, damage, no permission), the store warns once and goes on in memory.

    Parameters
    ----------
    path : str or path-like, default=None
        The folder, created at first use with what leads to it; ``~`` is the user's home. None keeps
        vectors in the memory of this process only.
    max_bytes : int, default=None
        Keep at most so many bytes of vectors, and drop the least recently used beyond. The folder
        itself is two to three times as large (pages are partly filled, and a write needs fresh ones
        before the old are free), and several times if the bound is a few MB. None is no bound for
        a folder, and 1 GiB in memory.

    Attributes
    ----------
    path : Path or None
        The folder, absolute.
    max_bytes : int or None
        The bound.

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
        self.path = _check_path(path)
        self.max_bytes = _check_bound(max_bytes)
        if self.path is None:
            self.max_bytes = self.max_bytes or _MEMORY_ONLY_BYTES
            in_memory = self.max_bytes
        else:
            in_memory = min(_MEMORY_TIER_BYTES, self.max_bytes or _MEMORY_TIER_BYTES)
        self._memory = MemoryTier(in_memory)
        self._claims = claims_of(self.path)
        self._user = User()
        self._folder: Folder | None = None
        self._is_off = self.path is None
        self._is_full = False
        self._counts: Counter[str] = Counter()
        self._counts_lock = ForkSafeLock()
        self._warned: set[str] = set()
        self._untold: list[str] = []

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the value of each key, None where there is none.

        Parameters
        ----------
        keys : sequence of bytes

        Returns
        -------
        values : list of bytes or None
        """
        found = self._memory.get_many(keys)
        missing = [row for row, value in enumerate(found) if value is None]
        asked = [keys[row] for row in missing]
        if asked and (read := self._on_disk(lambda folder: folder.vectors.get_many(asked))):
            values, n_damaged = read
            for row, value in zip(missing, values, strict=True):
                found[row] = value
            pairs = zip(asked, values, strict=True)
            self._memory.put_many((key, value) for key, value in pairs if value is not None)
            self._note_damage(n_damaged)
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
        """Keep a value for each key, and give back the holder's claims on the keys.

        Parameters
        ----------
        keys : sequence of bytes
        values : sequence of bytes
            One for each key.
        holder : object, default=None
            As for `claim`.
        """
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
        """Claim keys for the caller to encode.

        Parameters
        ----------
        keys : sequence of bytes
        holder : object, default=None
            Who claims, in this process. After an interrupt the holder releases whatever it meant
            to claim, and gives back what it holds, not what another call does.

        Returns
        -------
        is_ours : list of bool
            True: not stored, and now the caller's to put or release. False: stored already, or
            claimed by another process or another call in this one.
        """
        is_ours = self._claims.take(keys, holder)
        rows = [row for row, is_free in enumerate(is_ours) if is_free]
        taken = [keys[row] for row in rows]
        try:
            kept = self._confirm(taken)
        except BaseException:
            self._give_back(taken, holder)
            raise
        lost = [key for key, is_kept in zip(taken, kept, strict=True) if not is_kept]
        if lost:
            self._claims.drop(lost)
        for row, is_kept in zip(rows, kept, strict=True):
            is_ours[row] = is_kept
        self._tell()
        return is_ours

    def release(self, keys: Sequence[bytes], holder: object = None) -> None:
        """Give claims back without a value; keys that `holder` does not hold are passed over.

        Parameters
        ----------
        keys : sequence of bytes
        holder : object, default=None
            As for `claim`.
        """
        self._give_back(keys, holder)
        self._tell()

    def wait(self, keys: Sequence[bytes], timeout: float) -> None:
        """Sleep until one of the keys is stored or free to claim, or the time is over.

        Parameters
        ----------
        keys : sequence of bytes
        timeout : float
            Seconds at most.
        """
        if keys:
            self._claims.wait(lambda: self._is_any_settled(keys), timeout)
        self._tell()

    def info(self) -> StoreInfo:
        """Return what the store holds and what it did.

        Returns
        -------
        info : StoreInfo
        """
        count = self._on_disk(lambda folder: folder.vectors.count())
        n_entries, n_bytes = count or (len(self._memory), self._memory.n_bytes)
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
        )

    def clear(self) -> None:
        """Drop every vector, for every process that uses the folder; this repairs a damaged folder."""
        self._memory.clear()
        if self.path is not None:
            self._is_off = self._is_full = False
            self._warned.clear()
            self._on_disk(lambda folder: folder.vectors.clear(), is_write=True)
        self._tell()

    def close(self) -> None:
        """Close the files and forget what is in memory; the next use opens the folder again."""
        self._memory.clear()
        folder, self._folder = self._folder, None
        if folder is not None:
            leave_folder(folder, self._user)
        self._tell()

    def _find_folder(self) -> Folder:
        """Open the folder; raise one of `STORE_ERRORS` if that cannot be done."""
        assert self.path is not None
        self.path.mkdir(parents=True, exist_ok=True)
        return open_folder(self.path, self._user, is_durable=True)

    def _lose_folder(self, folder: Folder) -> None:
        """Leave a folder that is gone or closed; the next use makes or opens it again."""
        # Another thread may have done so already, and opened the next one.
        if self._folder is folder:
            self._folder = None
        leave_folder(folder, self._user)

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
                if folder is not None:
                    self._lose_folder(folder)
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

    def _confirm(self, keys: Sequence[bytes]) -> list[bool]:
        """Claim keys among processes too; keep only those that nobody has stored."""
        if not keys:
            return []
        kept = self._on_disk(lambda folder: folder.claims.take(keys, folder.token), is_write=True)
        kept = kept or [True] * len(keys)
        # Looked at after the claim: who stored a value did so before giving up its own.
        ours = [key for key, is_kept in zip(keys, kept, strict=True) if is_kept]
        on_disk = self._on_disk(lambda folder: folder.vectors.has_many(ours)) or [False] * len(ours)
        stored = {
            key
            for key, is_stored in zip(ours, on_disk, strict=True)
            if is_stored or self._memory.has(key)
        }
        if stored:
            self._on_disk(lambda folder: _drop_shared(folder, list(stored)), is_write=True)
        return [is_kept and key not in stored for key, is_kept in zip(keys, kept, strict=True)]

    def _give_back(self, keys: Sequence[bytes], holder: object) -> None:
        held = self._claims.held_by(holder, keys)
        if held:
            try:
                self._on_disk(lambda folder: _drop_shared(folder, held), is_write=True)
            finally:
                self._claims.drop(held)

    def _is_any_settled(self, keys: Sequence[bytes]) -> bool:
        if any(self._memory.has(key) for key in keys):
            return True
        held_here = set(self._claims.held(keys))
        others = [key for key in keys if key not in held_here]
        if not others:
            return False
        held = self._on_disk(lambda folder: folder.claims.held(others, folder.token), is_write=True)
        if len(held or ()) < len(others):
            return True
        return any(self._on_disk(lambda folder: folder.vectors.has_many(others)) or ())

    def _count(self, **more: int) -> None:
        with self._counts_lock:
            self._counts.update(more)

    def _note_damage(self, n_damaged: int) -> None:
        if n_damaged:
            self._count(damaged=n_damaged)
            self._warn(
                "damage",
                f"{n_damaged} stored vectors in {self.path} were damaged; they are computed and "
                "stored again. If this is seen often, check the disk.",
            )

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

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EmbeddingStore):
            return NotImplemented
        if self.path is None or other.path is None:
            return self is other
        return (self.path, self.max_bytes) == (other.path, other.max_bytes)

    def __hash__(self) -> int:
        return hash((self.path, self.max_bytes)) if self.path else id(self)

    def __copy__(self) -> EmbeddingStore:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> EmbeddingStore:
        # scikit-learn's clone copies parameters deeply; clones are to share the store.
        return self

    def __reduce__(self) -> tuple[Callable[..., EmbeddingStore | None], tuple[object, ...]]:
        return _restore, (None if self.path is None else str(self.path), self.max_bytes)


def _restore(path: str | None, max_bytes: int | None) -> EmbeddingStore:
    return EmbeddingStore(path, max_bytes=max_bytes)


def _drop_shared(folder: Folder, keys: Sequence[bytes]) -> None:
    folder.claims.drop(keys, folder.token)


def _check_path(path: object) -> Path | None:
    """Return the folder that `path` names, absolute; None for None."""
    if path is None:
        return None
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise InvalidParameterError(
            f"path must be None or the name of a folder; got {path!r} of type "
            f"{type(path).__name__}."
        )
    # Absolute, so that a worker that starts elsewhere finds the same folder.
    return Path(os.fsdecode(path)).expanduser().absolute()


def _check_bound(max_bytes: object) -> int | None:
    if max_bytes is None:
        return None
    if isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes <= 0:
        raise InvalidParameterError(
            f"max_bytes must be None or a positive number of bytes; got {max_bytes!r}."
        )
    return max_bytes


atexit.register(close_folders)
