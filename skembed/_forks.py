"""What happens to locks and files when the process forks.

A child must never meet a lock that another thread of its parent held, or use files that its parent
opened. Knows neither the locks nor the files.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Hashable
from types import MethodType

__all__ = ["KeyLocks", "after_fork_in_child", "fork_safe_lock", "one_at_a_time"]

_resets: list[Callable[[], Callable[[], object] | None]] = []
_locks: weakref.WeakSet[threading.Lock] = weakref.WeakSet()
_fork_lock = threading.Lock()
# Those that the fork under way holds.
_held: list[threading.Lock] = []


def after_fork_in_child(reset: Callable[[], object]) -> None:
    """Call `reset` in every forked child; if it is a method, for as long as its object lives."""
    if isinstance(reset, MethodType):
        _resets.append(weakref.WeakMethod(reset, _resets.remove))
    else:
        _resets.append(lambda: reset)


def fork_safe_lock() -> threading.Lock:
    """Return a lock that forks wait for: a child finds it free, and what it guards in order.

    While it is held, neither take nor make another one. This waits while a fork is under way, so
    that no lock is put to use between the taking of the others and the fork.
    """
    lock = threading.Lock()
    with _fork_lock:
        _locks.add(lock)
    return lock


class KeyLocks:
    """Re-entrant locks by key: holding one key never blocks another; a forked child has its own."""

    def __init__(self) -> None:
        self._reset()
        after_fork_in_child(self._reset)

    def _reset(self) -> None:
        self._locks: dict[Hashable, threading.RLock] = {}

    def hold(self, key: Hashable) -> threading.RLock:
        """Return the lock of `key`, for a `with` statement."""
        return self._locks.setdefault(key, threading.RLock())


_library_locks = KeyLocks()


def one_at_a_time() -> threading.RLock:
    """Return the lock for what libraries do to the whole process, for a `with` statement.

    Under it they are first imported (transformers, torchvision and timm import each other in
    circles, and threads that meet there see half a module), trace modules and change settings.
    """
    return _library_locks.hold(None)


def _before() -> None:
    _fork_lock.acquire()
    _held[:] = _locks
    for lock in _held:
        lock.acquire()


def _after() -> None:
    for lock in _held:
        lock.release()
    _held.clear()
    _fork_lock.release()


def _after_in_child() -> None:
    _after()
    for find in list(_resets):
        reset = find()
        if reset is not None:
            reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after_in_child)
