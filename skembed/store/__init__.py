"""Content keys and the embedding store.

The store keeps bytes by key, in memory and in LMDB, for one run or for good. Only what announces a
run is loaded at import, since that is part of importing the package; the rest loads at first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from skembed.store._keys import VECTOR_FORMAT, content_key, digest_of
from skembed.store._run import announce_run, is_worker, run_folder

if TYPE_CHECKING:
    from skembed.store._info import StoreInfo
    from skembed.store._large import write_whole
    from skembed.store._resolve import keep_in_run, lock_in_run, resolve_store
    from skembed.store._store import EmbeddingStore

__all__ = [
    "VECTOR_FORMAT",
    "EmbeddingStore",
    "StoreInfo",
    "announce_run",
    "content_key",
    "digest_of",
    "is_worker",
    "keep_in_run",
    "lock_in_run",
    "resolve_store",
    "run_folder",
    "write_whole",
]

_HOMES = {"EmbeddingStore": "_store", "StoreInfo": "_info", "write_whole": "_large"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES.get(name, "_resolve")
    return getattr(import_module(f"skembed.store.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
