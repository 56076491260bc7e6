"""Prepare what comes next while the present batch runs.

Knows iterables and threads, nothing else.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

__all__ = ["run_ahead"]

T = TypeVar("T")

_POLL_SECONDS = 0.05


class _End:
    """What the thread leaves behind: the exception that ended it, or None."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def run_ahead(source: Iterator[T], depth: int = 2) -> Iterator[T]:
    """Yield from `source`, which runs in a thread of its own up to `depth` items ahead.

    The thread ends with the generator: exhausted, closed, or left by an exception. An exception of
    `source` is raised here, after the items that came before it.
    """
    ready: queue.Queue[T | _End] = queue.Queue(maxsize=depth)
    is_over = threading.Event()

    def offer(item: T | _End) -> bool:
        while not is_over.is_set():
            try:
                ready.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        end = _End(None)
        try:
            for item in source:
                if not offer(item):
                    return
        except BaseException as error:  # handed to the consumer, who raises it
            end = _End(error)
        offer(end)

    thread = threading.Thread(target=work, name="skembed-prepare", daemon=True)
    try:
        thread.start()  # inside: an interrupt while it starts must end it too
        while True:
            item = ready.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        is_over.set()
        if thread.ident is not None:
            thread.join()
