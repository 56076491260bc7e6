"""Claims: who encodes a row, so that nobody else does at the same time.

Owns the claims of this process's threads and those between processes. Must not know values or
keys' meaning; who is alive is told from outside.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from skembed.store._environment import Environment
from skembed.store._fork import watch_forks

__all__ = ["TABLE", "LocalClaims", "SharedClaims", "claims_of"]

TABLE = b"claims 1"

# Other processes cannot wake this one; between these pauses their claims are looked at again.
_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.05


class LocalClaims:
    """The claims of this process: one holder for each key, whichever thread it is in."""

    def __init__(self) -> None:
        self._holders: dict[bytes, object] = {}
        self._n_changes = 0
        self._changed = threading.Condition()
        watch_forks(self)

    def take(self, keys: Iterable[bytes], holder: object) -> list[bool]:
        """Claim keys for a holder; say for each whether it was free."""
        taken = []
        with self._changed:
            for key in keys:
                taken.append(key not in self._holders)
                self._holders.setdefault(key, holder)
        return taken

    def drop(self, keys: Iterable[bytes]) -> None:
        """Give claims back and wake who waits for them."""
        with self._changed:
            for key in keys:
                self._holders.pop(key, None)
            self._n_changes += 1
            self._changed.notify_all()

    def held(self, keys: Iterable[bytes]) -> list[bytes]:
        """Return those keys that are claimed."""
        with self._changed:
            return [key for key in keys if key in self._holders]

    def held_by(self, holder: object, keys: Iterable[bytes]) -> list[bytes]:
        """Return those keys that this holder claims."""
        nobody = object()
        with self._changed:
            return [key for key in keys if self._holders.get(key, nobody) is holder]

    def wait(self, is_over: Callable[[], bool], timeout: float) -> None:
        """Sleep until `is_over`, asked after each change here and every few milliseconds."""
        deadline = time.monotonic() + timeout
        pause = _FIRST_PAUSE
        while True:
            with self._changed:
                n_changes = self._n_changes
            if is_over():
                return
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return
            with self._changed:
                if self._n_changes == n_changes:
                    self._changed.wait(min(remaining, pause))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def before_fork(self) -> None:
        """Nothing to bring to rest: a child starts empty."""

    def after_fork(self, *, in_child: bool) -> None:
        """Start empty in a child: its parent's claims are not its own."""
        if in_child:
            self._holders = {}
            self._changed = threading.Condition()


_claims_by_path: weakref.WeakValueDictionary[str, LocalClaims] = weakref.WeakValueDictionary()


def claims_of(path: Path | None) -> LocalClaims:
    """Return the claims between this process's threads on a folder, or new ones for none.

    They are kept apart from the open folder: they hold even while it cannot be used.
    """
    if path is None:
        return LocalClaims()
    return _claims_by_path.setdefault(os.path.realpath(path), LocalClaims())


class SharedClaims:
    """The claims of every process that uses a folder.

    Parameters
    ----------
    environment : Environment
        With the table `TABLE`. Claims mean nothing after a restart, so it need not be durable.
    is_alive : callable
        Says whether the process with a token still lives.
    """

    def __init__(self, environment: Environment, is_alive: Callable[[bytes], bool]) -> None:
        self.environment = environment
        self._is_alive = is_alive

    def take(self, keys: Sequence[bytes], token: bytes) -> list[bool]:
        """Claim keys for the process with `token`; say for each whether it is now its own."""

        def work(transaction: Any, tables: dict[bytes, Any]) -> list[bool]:
            living = _Living(self._is_alive, token)
            table = tables[TABLE]
            taken = []
            for key in keys:
                holder = transaction.get(key, db=table)
                is_free = holder is None or not living.has(holder)
                if is_free:
                    transaction.put(key, token, db=table)
                taken.append(is_free)
            return taken

        return self.environment.write(work, 64 * len(keys))

    def drop(self, keys: Sequence[bytes], token: bytes) -> None:
        """Give back those of `keys` that the process with `token` holds."""

        def work(transaction: Any, tables: dict[bytes, Any]) -> None:
            for key in keys:
                if transaction.get(key, db=tables[TABLE]) == token:
                    transaction.delete(key, db=tables[TABLE])

        self.environment.write(work)

    def held(self, keys: Sequence[bytes], token: bytes) -> list[bytes]:
        """Return those keys that another live process claims."""

        def work(transaction: Any, tables: dict[bytes, Any]) -> list[bytes]:
            living = _Living(self._is_alive, token)
            holders = ((key, transaction.get(key, db=tables[TABLE])) for key in keys)
            return [key for key, holder in holders if holder is not None and living.has(holder)]

        return self.environment.read(work)


class _Living:
    """Asks once for each process, within one transaction; oneself is not another."""

    def __init__(self, is_alive: Callable[[bytes], bool], token: bytes) -> None:
        self._is_alive = is_alive
        self._known = {token: False}

    def has(self, holder: bytes) -> bool:
        if holder not in self._known:
            self._known[holder] = self._is_alive(holder)
        return self._known[holder]
