"""Which store an embedder's `cache` means: the store of the run, or one named by a folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from uuid import uuid4

from skembed.exceptions import InvalidParameterError
from skembed.store._errors import StaleError
from skembed.store._folder import Folder, is_in_use, open_folder
from skembed.store._locks import lock_file
from skembed.store._run import create_run_folder, run_folder, run_limit, sweep_runs
from skembed.store._store import EmbeddingStore, absolute_path

__all__ = ["keep_in_run", "lock_in_run", "resolve_store"]

# Each keeps seven files open, and up to 128 MiB in memory.
_N_RECENT = 8

# One at most; a dictionary lets the first of several threads win.
_runs: dict[str, _RunStore] = {}


class _RunStore(EmbeddingStore):
    """The store that a process, its clones and its workers share while they run."""

    def __init__(self) -> None:
        super().__init__(run_folder())
        self._has_begun = False

    def _find_folder(self) -> Folder:
        assert self.path is not None
        is_new = not self.path.exists()
        if is_new and self._has_begun:
            # Its owner has exited: nobody would remove a folder made now.
            self._is_off = True
            raise StaleError(f"{self.path} was taken away")
        create_run_folder(self.path)
        if is_new:
            sweep_runs(is_in_use)
        # Not durable: the folder dies with the run. Its bound is known only now.
        folder = open_folder(self.path, self, is_durable=False)
        if self.max_bytes is None:
            self.max_bytes = run_limit(self.path)
        self._has_begun = True
        return folder

    def __reduce__(self) -> tuple[Callable[..., EmbeddingStore | None], tuple[object, ...]]:
        # In another process it is the store of that process's run, usually the same.
        return resolve_store, ("run",)


def resolve_store(cache: object) -> EmbeddingStore | None:
    """Return the store that `cache` means.

    ``"run"`` is the store of this run, shared with its workers; any other string and a path name a
    folder (a folder called run is ``"./run"``); None is no store.

    Examples
    --------
    >>> from skembed.store import resolve_store
    >>> resolve_store("run") is resolve_store("run")
    True
    >>> resolve_store(None) is None
    True
    """
    if cache is None or isinstance(cache, EmbeddingStore):
        return cache
    if not isinstance(cache, (str, os.PathLike)) or not os.fspath(cache):
        raise InvalidParameterError(
            'cache must be "run", the name of a folder, an EmbeddingStore or None; got '
            f"{cache!r} of type {type(cache).__name__}."
        )
    if cache == "run":
        return _run_store()
    return _find_named(absolute_path(cache))


def _run_store() -> _RunStore:
    return _runs.get("run") or _runs.setdefault("run", _RunStore())


def keep_in_run(name: str, data: memoryview) -> Path | None:
    """Return a file in this run's folder with these bytes, written once; None if it can't be.

    It stays for as long as a process of the run lives.
    """
    folder = _run_store()._on_disk(lambda folder: folder.path, is_write=True)
    if folder is None or (folder / name).exists():
        return folder and folder / name
    written = folder / f"{name}-{uuid4().hex}"
    try:
        n_kept = sum(each.stat().st_size for each in folder.iterdir() if each.is_file())
        if n_kept + data.nbytes > run_limit(folder):
            return None
        written.write_bytes(data)
        return written.replace(folder / name)
    except OSError:  # the disk is full, or the folder gone
        written.unlink(missing_ok=True)
        return None


def lock_in_run(name: str) -> int | None:
    """Lock a file of this run's folder, unless another process has; return its descriptor."""
    folder = run_folder()
    create_run_folder(folder)
    return lock_file(folder / name)


# The last few are kept, so that each call of an estimator meets what the last one left in memory.
@lru_cache(_N_RECENT)
def _find_named(path: Path) -> EmbeddingStore:
    return EmbeddingStore(path)
