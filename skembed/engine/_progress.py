"""One progress bar for a run, shown once the work has taken a second.

Calls, threads and workers that embed at the same time would write over each other's bars: the first
to show one is the only one until it is done. Bars are plain text, because a saved notebook keeps
only the initial state of a widget.
"""

from __future__ import annotations

import os
import threading
import time

from tqdm import tqdm

from skembed.store import lock_in_run

__all__ = ["Progress"]

_DELAY_SECONDS = 1.0

_of_process = threading.Lock()


class Progress:
    """Counts rows, under a title; shows nothing without one."""

    def __init__(self, title: str | None, total: int) -> None:
        self._title, self._total, self._n_done = title, total, 0
        self._started = time.monotonic()
        self._bar: tqdm | None = None
        self._descriptor: int | None = None

    def update(self, n_rows: int, note: str = "") -> None:
        """Count rows that are done, with a note; called by one thread at a time."""
        self._n_done += n_rows
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(n_rows)
        elif self._title is not None and self._n_done < self._total and self._is_due():
            self._bar = tqdm(desc=self._title, total=self._total, initial=self._n_done, unit="row")

    def _is_due(self) -> bool:
        """Return whether a bar is wanted by now and no other one is shown, which holds it back."""
        if time.monotonic() - self._started < _DELAY_SECONDS:
            return False
        if not _of_process.acquire(blocking=False):
            return False
        try:
            self._descriptor = lock_in_run("bar")
        except OSError:  # without a file other processes are not known of
            return True
        if self._descriptor is None:
            _of_process.release()
        return self._descriptor is not None

    def close(self) -> None:
        """Leave the bar as it is, and let another one be shown."""
        if self._bar is None:
            return
        self._bar.close()
        self._bar = None
        if self._descriptor is not None:
            os.close(self._descriptor)
        _of_process.release()
