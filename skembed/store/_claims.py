"""Claims: who encodes a row, so that nobody else does at the same time."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import compress
from pathlib import Path
from typing import Any

from skembed._forks import after_fork_in_child
from skembed.store._environment import Environment, Tables

__all__ = ["TABLE", "LocalClaims", "SharedClaims", "claims_of"]

TABLE = b"claims 1"

# Other processes cannot wake this one; between these pauses their claims are looked at again.
_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.05


class LocalClaims:
    """The claims of this process: one holder for each key, whichever thread it is in."""

    def __init__(self) -> None:
        self._reset()
        after_fork_in_child(self._reset)

    def _reset(self) -> None:
        # A child starts empty: its parent's claims are not its own.
        self._holders: dict[bytes, object] = {}
        self._n_changes = 0
        self._changed = threading.Condition()

    def take(self, keys: Iterable[bytes], holder: object) -> list[bool]:
        """Claim keys for a holder; say for each whether it was free."""
        taken = []
        with self._changed:
            for key in keys:
                taken.append(key not in self._holders)
                self._holders.setdefault(key, holder)
        return taken

    def drop(self, keys: Iterable[bytes]) -> None:
        """Give claims back and wake whoever waits for them."""
        with self._changed:
            for key in keys:
                self._holders.pop(key, None)
            self._n_changes += 1
            self._changed.notify_all()

    def free(self, keys: Iterable[bytes]) -> list[bytes]:
        """Return those keys that nobody in this process claims."""
        with self._changed:
            return [key for key in keys if key not in self._holders]

    def held_by(self, holder: object, keys: Iterable[bytes]) -> list[bytes]:
        """Return those keys that this holder claims."""
        with self._changed:
            return [key for key in keys if self._holders.get(key, self) is holder]

    def wait(self, is_over: Callable[[], bool], timeout: float) -> None:
        """Sleep until `is_over`, asked after each change here and every few milliseconds."""
        deadline = time.monotonic() + timeout
        pause = _FIRST_PAUSE
        while True:
            n_changes = self._n_changes
            if is_over() or (remaining := deadline - time.monotonic()) <= 0:
                return
            with self._changed:
                if self._n_changes == n_changes:
                    self._changed.wait(min(remaining, pause))
            pause = min(2 * pause, _LONGEST_PAUSE)


_claims_by_path: weakref.WeakValueDictionary[str, LocalClaims] = weakref.WeakValueDictionary()


def claims_of(path: Path | None) -> LocalClaims:
    """Return the claims between this process's threads on a folder, or new ones for none."""
    if path is None:
        return LocalClaims()
    return _claims_by_path.setdefault(os.path.realpath(path), LocalClaims())


class SharedClaims:
    """The claims of every process that uses a folder, in the table `TABLE` of an environment.

    A process is known by its token; `is_alive` says whether the one with a token still lives.
    """

    def __init__(self, environment: Environment, is_alive: Callable[[bytes], bool]) -> None:
        self.environment = environment
        self._is_alive = is_alive

    def take(self, keys: Sequence[bytes], token: bytes) -> list[bool]:
        """Claim keys for the process with `token`; say for each whether it is now its own."""

        def work(transaction: Any, tables: Tables) -> list[bool]:
            is_anothers = self._ask_once(token)
            taken = [not is_anothers(transaction.get(key, db=tables[TABLE])) for key in keys]
            for key in compress(keys, taken):
                transaction.put(key, token, db=tables[TABLE])
            return taken

        return self.environment.write(work, 64 * len(keys))

    def drop(self, keys: Sequence[bytes], token: bytes) -> None:
        """Give back those of `keys` that the process with `token` holds."""

        def work(transaction: Any, tables: Tables) -> None:
            for key in keys:
                if transaction.get(key, db=tables[TABLE]) == token:
                    transaction.delete(key, db=tables[TABLE])

        self.environment.write(work)

    def held(self, keys: Sequence[bytes], token: bytes) -> list[bytes]:
        """Return those keys that another live process claims."""

        def work(transaction: Any, tables: Tables) -> list[bytes]:
            is_anothers = self._ask_once(token)
            return [key for key in keys if is_anothers(transaction.get(key, db=tables[TABLE]))]

        return self.environment.read(work)

    def _ask_once(self, token: bytes) -> Callable[[bytes | None], bool]:
        """Return a function that says whether a holder is another live process."""
        return cache(lambda holder: holder not in (None, token) and self._is_alive(holder))
