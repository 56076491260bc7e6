"""Loaded models and small objects made from their files: one of each per process and key.

Owns which stay in memory; the least recently used are dropped first. Must not know what they are
or how they are loaded; torch is never imported here.
"""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

from skembed._forks import KeyLocks, after_fork_in_child, one_at_a_time
from skembed.weights._memory import available_memory

__all__ = [
    "forget_model",
    "free_memory",
    "is_loaded",
    "kept_recent",
    "shared_model",
    "unload_models",
]

T = TypeVar("T")

# Loading takes the weights and, for a while, part of them again.
_HEADROOM = 1.5

_N_RECENT = 64

_loading, _making = KeyLocks(), KeyLocks()
_guard = threading.RLock()
_models: OrderedDict[bytes, Any] = OrderedDict()  # least recently used first
_recent: OrderedDict[Hashable, Any] = OrderedDict()  # too
_n_bytes_loading: dict[bytes, int] = {}
# Models dropped from `_models` that someone still holds: loading them again takes memory.
_held_elsewhere: weakref.WeakValueDictionary[bytes, Any] = weakref.WeakValueDictionary()


def _after_fork() -> None:
    """Reset what belonged to threads of the parent; loaded models are shared with it."""
    global _guard
    _guard = threading.RLock()
    _n_bytes_loading.clear()


after_fork_in_child(_after_fork)


def shared_model(key: bytes, load: Callable[[], T], n_bytes: Callable[[], int]) -> T:
    """Return this process's copy of a model, loading it if there is none.

    Two threads that ask for one key at once load it once. Before loading, models are dropped, the
    least recently used first, while less than 1.5 times `n_bytes()` of memory is available.
    """
    with _loading.hold(key):
        found = _find(key)
        if found:
            return cast(T, found[0])
        size = n_bytes()
        with _guard:
            _n_bytes_loading[key] = size
        try:
            _make_room()
            loaded = load()
        finally:
            with _guard:
                _n_bytes_loading.pop(key, None)
        with _guard:
            _models[key] = loaded
        return loaded


def is_loaded(key: bytes) -> bool:
    """Return whether this process has a model in memory."""
    return key in _models or key in _held_elsewhere


def kept_recent(key: Hashable, make: Callable[[], T], *, imports: bool = True) -> T:
    """Return what `make` returned for `key`, now or lately; the last 64 small things are kept.

    Only one thread at a time makes something, as that is when libraries are first imported. Where
    it `imports` none, as it runs a user's function, only those that want the same wait.
    """

    def find() -> list[T]:
        with _guard:
            if key not in _recent:
                return []
            _recent.move_to_end(key)
            return [_recent[key]]

    found = find()
    if not found:
        with one_at_a_time() if imports else _making.hold(key):
            found = find() or [make()]
            with _guard:
                _recent[key] = found[0]
                while len(_recent) > _N_RECENT:
                    _recent.popitem(last=False)
    return found[0]


def unload_models() -> int:
    """Forget every loaded model, and return how many; the next use of one loads it again."""
    with _guard:
        _recent.clear()
        _held_elsewhere.clear()
        dropped = list(_models.values())
        _models.clear()
    return _release(dropped)


def forget_model(key: bytes) -> None:
    """Forget one loaded model, which nobody will ask for again."""
    with _guard:
        dropped = [_models.pop(key, None)]
        _held_elsewhere.pop(key, None)
    if dropped[0] is not None:
        _release(dropped)


def free_memory(*keep: bytes) -> int:
    """Drop every model but those with these keys, because memory ran out; return how many."""
    with _guard:
        dropped = [_drop(key) for key in list(_models) if key not in keep]
    return _release(dropped)


def _find(key: bytes) -> tuple[Any] | None:
    """Return the model in a tuple, as a model may be of any type, or None."""
    with _guard:
        if key not in _models:
            held = _held_elsewhere.pop(key, None)
            if held is None:
                return None
            _models[key] = held
        _models.move_to_end(key)
        return (_models[key],)


def _make_room() -> None:
    """Drop models until what is being loaded fits, or none is left."""
    while True:
        available = available_memory()
        with _guard:
            needed = _HEADROOM * sum(_n_bytes_loading.values())
            if available is None or available >= needed or not _models:
                return
            dropped = [_drop(next(iter(_models)))]
        _release(dropped)


def _drop(key: bytes) -> Any:
    model = _models.pop(key)
    try:
        _held_elsewhere[key] = model
    except TypeError:  # a type that takes no weak references, such as a tuple
        _held_elsewhere.pop(key, None)
    return model


def _release(dropped: list[Any]) -> int:
    """Give the memory of dropped models back, outside of the lock: their deletion may take long."""
    n_dropped = len(dropped)
    dropped.clear()
    if n_dropped:
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
    return n_dropped
