"""Which store an embedder's `cache` means.

Owns the store of the run. Must not know what a store does.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from skembed.exceptions import InvalidParameterError
from skembed.store._folder import Folder, has_life, open_folder
from skembed.store._run import create_run_folder, run_folder, run_limit, sweep_runs
from skembed.store._store import EmbeddingStore

__all__ = ["resolve_store"]


class _RunStore(EmbeddingStore):
    """The store that a process, its clones and its workers share while they run."""

    def __init__(self) -> None:
        super().__init__(run_folder())

    def _find_folder(self) -> Folder:
        assert self.path is not None
        is_new = not self.path.exists()
        create_run_folder(self.path)
        if is_new:
            sweep_runs(has_life)
        # No flush: the folder dies with the run, and with the machine. Its bound is known only now.
        folder = open_folder(self.path, self._seat, is_durable=False)
        if self.max_bytes is None:
            self.max_bytes = run_limit(self.path)
        return folder

    def _lose_folder(self, folder: Folder) -> None:
        # Its owner has exited or it was swept: a folder made now would have nobody to remove it.
        super()._lose_folder(folder)
        self._is_off = True

    def __repr__(self) -> str:
        return f"<store of this run at {self.path}>"

    def __reduce__(self) -> tuple[Callable[..., EmbeddingStore | None], tuple[object, ...]]:
        # In another process it is the store of that process's run, usually the same.
        return resolve_store, ("run",)


# Kept, so that each call of an estimator meets what the last one left in memory.
_stores: dict[str, EmbeddingStore] = {}


def resolve_store(cache: object) -> EmbeddingStore | None:
    """Return the store that `cache` means.

    Parameters
    ----------
    cache : {"run"}, str, path-like, EmbeddingStore or None
        ``"run"`` is the store of this run, shared with its workers; any other string and a path
        name a folder (a folder called run is ``"./run"``); None is no store.

    Returns
    -------
    store : EmbeddingStore or None

    Raises
    ------
    InvalidParameterError
        If `cache` is anything else.

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
        return _stores.get("run") or _stores.setdefault("run", _RunStore())
    store = EmbeddingStore(cache)
    return _stores.setdefault(str(store.path), store)
