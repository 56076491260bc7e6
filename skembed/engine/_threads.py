"""Threads: those that torch computes with in forked processes, and those that share work.

Knows torch and processes, not what is computed.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from skembed._encoder import Fault, Prepared
from skembed.exceptions import SkembedWarning, warn_user, warnings_sent_to

__all__ = ["map_in_threads", "most_threads", "prepare_in_threads", "stay_safe_after_fork"]

T = TypeVar("T")
R = TypeVar("R")

_PROCESS_OF_IMPORT = os.getpid()


def stay_safe_after_fork() -> None:
    """Keep the calling thread of a forked child from asking for more threads.

    OpenMP's threads do not survive a fork; a child that asks for them hangs. A child that runs
    single-threaded never asks. OpenMP's settings are those of the calling thread: each thread that
    computes has to call this.
    """
    torch = sys.modules.get("torch")  # which has started no threads where it is not imported
    if os.getpid() != _PROCESS_OF_IMPORT and torch is not None and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


@contextmanager
def most_threads(n_threads: int | None) -> Iterator[None]:
    """Let torch compute with so many threads at most in this one; None is as many as ever."""
    import torch

    before = torch.get_num_threads()
    if n_threads is None or n_threads >= before:
        yield
        return
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def map_in_threads(function: Callable[[T], R], items: Sequence[T], *, name: str) -> list[R]:
    """Return a function's value for each item, computed by as many threads as torch would use.

    The items are begun in order.
    """
    import torch

    n_threads = min(len(items), torch.get_num_threads())
    if n_threads < 2:
        return [function(item) for item in items]
    said: dict[tuple[str, type[SkembedWarning], str], None] = {}

    def call(item: T) -> R:
        with warnings_sent_to(lambda *warning: said.setdefault(warning)):
            return function(item)

    with ThreadPoolExecutor(n_threads, name, stay_safe_after_fork) as pool:
        found = list(pool.map(call, items))
    for warning in said:  # each once, in the thread that leads to the user's line
        warn_user(*warning)
    return found


def prepare_in_threads(
    prepare_one: Callable[[T], Prepared | Fault],
    items: Sequence[T],
    size_of: Callable[[Prepared], int],
    most_bytes: int,
) -> list[Prepared | Fault]:
    """Prepare items in threads, fewer than all once what is prepared takes `most_bytes`."""
    n_bytes, guard = 0, threading.Lock()

    def prepare_unless_full(i: int) -> Prepared | Fault | None:
        nonlocal n_bytes
        if i and n_bytes >= most_bytes:
            return None
        found = prepare_one(items[i])
        if isinstance(found, Prepared):
            with guard:
                n_bytes += size_of(found)
        return found

    prepared: list[Prepared | Fault] = []
    for each in map_in_threads(prepare_unless_full, range(len(items)), name="skembed-decode"):
        if each is None:  # one of another thread may have been done after it
            break
        prepared.append(each)
    return prepared
