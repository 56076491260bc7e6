"""What must happen to this process's stores when it forks.

Owns the list of objects that hold locks or files. Must not know what they are. A child must never
meet a lock that another thread of its parent held, nor use files that its parent opened.
"""

from __future__ import annotations

import os
import threading
import weakref
from functools import partial
from typing import Protocol

__all__ = ["ForkAware", "watch_forks"]


class ForkAware(Protocol):
    """An object that is told of forks."""

    def before_fork(self) -> None:
        """Come to rest: the child copies the state that is left here."""

    def after_fork(self, *, in_child: bool) -> None:
        """Go on; in the child, with new locks and files."""


_watchers: weakref.WeakSet[ForkAware] = weakref.WeakSet()
_fork_lock = threading.Lock()
# Those at rest, alive until they have gone on.
_resting: list[ForkAware] = []


def watch_forks(watcher: ForkAware) -> None:
    """Tell `watcher` of every fork for as long as it lives.

    Comes last in a constructor: while a fork is under way it waits, so that no object is put to
    use between the rest of the others and the fork.
    """
    with _fork_lock:
        _watchers.add(watcher)


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


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before,
        after_in_parent=partial(_after, False),
        after_in_child=partial(_after, True),
    )
