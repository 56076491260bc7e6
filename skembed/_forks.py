"""What happens to locks and files when the process forks.

A child must never meet a lock that another thread of its parent held, nor use files that its parent
opened. Knows neither.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Protocol

__all__ = ["ForkAware", "ForkSafeLock", "after_fork_in_child", "watch_forks"]


class ForkAware(Protocol):
    """An object that is told of forks."""

    def before_fork(self) -> None:
        """Come to rest: the child copies the state that is left here."""

    def after_fork(self, *, in_child: bool) -> None:
        """Go on; in the child, with new locks and files."""


_watchers: weakref.WeakSet[ForkAware] = weakref.WeakSet()
_resets: list[Callable[[], Callable[[], object] | None]] = []
_fork_lock = threading.Lock()
# Those at rest, alive until they have gone on.
_resting: list[ForkAware] = []


def watch_forks(watcher: ForkAware) -> None:
    """Tell `watcher` of every fork for as long as it lives.

    Comes last in a constructor. It waits while a fork is under way, so that no object is put to use
    between the rest of the others and the fork.
    """
    with _fork_lock:
        _watchers.add(watcher)


def after_fork_in_child(reset: Callable[[], object]) -> None:
    """Call `reset` in every forked child; if it is a method, for as long as its object lives."""
    is_method = isinstance(reset, MethodType)
    _resets.append(weakref.WeakMethod(reset) if is_method else lambda: reset)


class ForkSafeLock:
    """A lock that forks wait for: a child finds it free, and what it guards in order.

    While it is held, make nothing that watches forks and take no other lock of this kind.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        watch_forks(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def before_fork(self) -> None:
        """Wait for who holds the lock."""
        self._lock.acquire()

    def after_fork(self, *, in_child: bool) -> None:
        """Let go."""
        self._lock.release()


def _before() -> None:
    _fork_lock.acquire()
    _resting[:] = _watchers
    for watcher in _resting:
        watcher.before_fork()


def _after(in_child: bool) -> None:
    watchers = list(_resting)
    _resting.clear()
    for watcher in watchers:
        watcher.after_fork(in_child=in_child)
    _fork_lock.release()
    _resets[:] = [reset for reset in _resets if reset() is not None]
    if in_child:
        for reset in [found for ref in _resets if (found := ref())]:
            reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before,
        after_in_parent=partial(_after, False),
        after_in_child=partial(_after, True),
    )
