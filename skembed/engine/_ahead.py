"""Work in threads: what comes next while the current batch runs, or several devices at once.

Knows iterables and threads, and that warnings belong to the user's own thread; nothing else.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any, Generic, TypeVar

from skembed.exceptions import warn_user, warnings_sent_to

__all__ = ["TakenInTurn", "run_ahead"]

T = TypeVar("T")

_POLL_SECONDS = 0.05


class _End:
    """What a thread leaves behind: the exception that ended it, or None."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class _Warning:
    """A warning of a thread, to be issued by the consumer."""

    def __init__(self, *said: Any) -> None:
        self.said = said


class TakenInTurn(Generic[T]):
    """An iterator from which several threads take; each item goes to one of them."""

    def __init__(self, source: Iterator[T]) -> None:
        self._source = source
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        with self._lock:
            return next(self._source)


def run_ahead(
    *sources: Iterator[T],
    depth: int = 2,
    name: str = "skembed-prepare",
    stop: Callable[[], object] = lambda: None,
) -> Iterator[T]:
    """Yield from `sources`, each of which runs in a thread of its own, as items become ready.

    Up to `depth` items wait to be taken. The threads end with the generator: exhausted, closed, or
    left by an exception; a source that is a generator is then closed in its thread. An exception of
    a source is raised here, after the items that came before it, and ends the other sources at
    their next item. `stop` is called where it ends early, before the threads are waited for.
    """
    ready: queue.Queue[T | _Warning | _End] = queue.Queue(maxsize=depth)
    is_over = threading.Event()

    def offer(item: T | _Warning | _End) -> bool:
        while not is_over.is_set():
            try:
                ready.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False

    def work(source: Iterator[T]) -> None:
        end = _End(None)
        with warnings_sent_to(lambda *warning: offer(_Warning(*warning))):
            try:
                for item in source:
                    if not offer(item):
                        if isinstance(source, Generator):
                            source.close()
                        return
            except BaseException as error:  # handed to the consumer, who raises it
                end = _End(error)
        offer(end)

    threads = [
        threading.Thread(target=work, args=(source,), name=name, daemon=True) for source in sources
    ]
    n_running = len(threads)
    try:
        for thread in threads:
            thread.start()  # inside: an interrupt while it starts must end it too
        while n_running:
            item = ready.get()
            if isinstance(item, _Warning):
                warn_user(*item.said)
            elif not isinstance(item, _End):
                yield item
            elif item.error is not None:
                raise item.error
            else:
                n_running -= 1
    finally:
        is_over.set()
        if n_running:
            stop()
        interrupt: KeyboardInterrupt | None = None
        for thread in threads:
            while thread.is_alive():  # a second interrupt must not leave it behind
                try:
                    thread.join()
                except KeyboardInterrupt as error:
                    interrupt = error
        if interrupt is not None:
            raise interrupt
