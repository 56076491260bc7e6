"""Requests that arrive while the model is busy are joined into its next call.

One thread runs the model; requests wait for it in a bounded queue. Knows texts and what embeds
them, not HTTP.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Batcher", "Overloaded", "Vectors"]

logger = logging.getLogger("skembed.serving")

_LONGEST_WAIT = 60
_SECONDS_TO_END = 10.0


class Overloaded(Exception):
    """The queue is full, for about `seconds`."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"try again in {seconds} s")
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class Vectors:
    """Vectors (n, d) of texts; tokens of each, 0 if they aren't counted; what is wrong with some.

    `truncated` are the positions of texts that were cut.
    """

    vectors: NDArray[np.float32]
    n_tokens: NDArray[np.int64]
    faults: dict[int, str] = field(default_factory=dict)
    truncated: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def part(self, start: int, stop: int) -> Vectors:
        """Return those of a run of texts."""
        cut = self.truncated[(self.truncated >= start) & (self.truncated < stop)]
        return Vectors(
            self.vectors[start:stop],
            self.n_tokens[start:stop],
            {i - start: why for i, why in self.faults.items() if start <= i < stop},
            cut - start,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    texts: list[str]
    answer: Future[Vectors]


class Batcher:
    """Runs `embed` in a thread of its own, on the texts of all requests that wait.

    Parameters
    ----------
    embed : callable
        Takes a list of texts and returns their `Vectors`. If it raises, all requests of that call
        get the error: what is wrong with single texts belongs in `faults`.
    max_batch : int
        Most texts in one call, unless a single request has more.
    max_queue : int
        Most texts that wait. A request that comes when none waits is accepted, however large.
    """

    def __init__(
        self, embed: Callable[[list[str]], Vectors], *, max_batch: int, max_queue: int
    ) -> None:
        self._embed = embed
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._queue: deque[_Waiting] = deque()
        self._n_texts = 0
        self._texts_per_second = 0.0
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self.is_ready = False

    def start(
        self, get_ready: Callable[[], object], when_ready: Callable[[BaseException | None], object]
    ) -> None:
        """Start the thread, which first calls `get_ready`, then `when_ready` with its error."""
        # If the process has to end while a model loads, this thread must not keep it.
        self._thread = threading.Thread(
            target=self._run, args=(get_ready, when_ready), name="skembed-serving", daemon=True
        )
        self._thread.start()

    def submit(self, texts: list[str]) -> Future[Vectors]:
        """Let texts wait for the next call; if their future is cancelled before it, they don't run.

        Raises
        ------
        Overloaded
            If too many texts wait.
        """
        with self._changed:
            self._refuse_more_than(self._max_queue - len(texts))
            waiting = _Waiting(texts, Future())
            self._queue.append(waiting)
            self._n_texts += len(texts)
            self._changed.notify()
        waiting.answer.add_done_callback(lambda answer: self._forget_if_cancelled(waiting))
        return waiting.answer

    def _forget_if_cancelled(self, waiting: _Waiting) -> None:
        """Give the room of a request that was cancelled to others."""
        if not waiting.answer.cancelled():
            return
        with self._changed:
            if waiting in self._queue:
                self._queue.remove(waiting)
                self._n_texts -= len(waiting.texts)

    @property
    def n_waiting(self) -> int:
        """Number of texts that wait."""
        return self._n_texts

    def refuse_if_full(self) -> None:
        """Raise an Overloaded error if not one text more may wait."""
        self._refuse_more_than(self._max_queue - 1)

    def _refuse_more_than(self, n_texts: int) -> None:
        if self._n_texts and self._n_texts > n_texts:
            rate = self._texts_per_second or self._n_texts
            raise Overloaded(min(math.ceil(self._n_texts / rate), _LONGEST_WAIT))

    def close(self) -> None:
        """End the thread after the requests that wait."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_SECONDS_TO_END)

    def _run(
        self, get_ready: Callable[[], object], when_ready: Callable[[BaseException | None], object]
    ) -> None:
        try:
            get_ready()
        except BaseException as error:
            when_ready(error)
            return
        self.is_ready = True
        when_ready(None)
        while batch := self._next_batch():
            self._answer(batch)

    def _next_batch(self) -> list[_Waiting]:
        """Wait for requests; return those of the next call, none when the end has come."""
        batch: list[_Waiting] = []
        n_texts = 0
        with self._changed:
            while not batch:
                while not self._queue and not self._is_closed:
                    self._changed.wait()
                if not self._queue:
                    break
                while self._queue:
                    n_more = len(self._queue[0].texts)
                    if batch and n_texts + n_more > self._max_batch:
                        break
                    waiting = self._queue.popleft()
                    self._n_texts -= n_more
                    if waiting.answer.set_running_or_notify_cancel():  # its client is still there
                        batch.append(waiting)
                        n_texts += n_more
        return batch

    def _answer(self, batch: list[_Waiting]) -> None:
        started = time.perf_counter()
        texts = [text for waiting in batch for text in waiting.texts]
        try:
            found = self._embed(texts)
        except BaseException as error:
            logger.exception("the model failed on %d texts of %d requests", len(texts), len(batch))
            for waiting in batch:
                waiting.answer.set_exception(error)
            return
        rate = len(texts) / max(time.perf_counter() - started, 1e-6)
        self._texts_per_second = 0.8 * (self._texts_per_second or rate) + 0.2 * rate
        start = 0
        for waiting in batch:
            stop = start + len(waiting.texts)
            waiting.answer.set_result(found.part(start, stop))
            start = stop
