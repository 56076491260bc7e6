"""Checks that an embedder survives copying, and works in threads, workers and forked processes."""

from __future__ import annotations

import copy
import io
import math
import multiprocessing
import os
import pickle
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import joblib
import numpy as np

from skembed.testing._case import Case, fail, skip

__all__ = ["CHECKS"]

_N_ROUNDS = (3, 50)  # at least and at most, of two threads side by side
_ROUNDS_SECONDS = 1.0  # no further round is begun after this long
_N_ROWS_REMEMBERED = 300  # rows transformed before a pickle is weighed
_PICKLE_SLACK = 512  # bytes that counters and reports may add to a pickle


def check_deepcopy(case: Case) -> None:
    """Check that a deep copy embeds as the original does."""
    estimator = case.fitted()
    copied = copy.deepcopy(estimator)
    case.assert_same(copied.transform(case.rows), case.reference, "deep copy")
    estimator.transform(case.rows)
    copied = copy.deepcopy(estimator)
    case.assert_same(copied.transform(case.rows), case.reference, "deep copy of a used embedder")


def check_pickle(case: Case) -> None:
    """Check that it embeds the same when read from a pickle, made unfitted, fitted or used."""
    unfitted = pickle.loads(pickle.dumps(case.unfitted()))
    got = case.fit(unfitted).transform(case.rows)
    case.assert_same(got, case.reference, "pickled unfitted, then fitted")
    estimator = case.fitted()
    got = pickle.loads(pickle.dumps(estimator)).transform(case.rows)
    case.assert_same(got, case.reference, "pickled fitted")
    estimator.transform(case.rows)
    file = io.BytesIO()
    joblib.dump(estimator, file)
    file.seek(0)
    got = joblib.load(file).transform(case.rows)
    case.assert_same(got, case.reference, "dumped by joblib after transform")
    case.assert_same(estimator.transform(case.rows), case.reference, "the original after pickling")


def check_pickle_forgets_rows(case: Case) -> None:
    """Check that the pickle of an embedder does not grow with the rows it has embedded."""
    estimator = case.fitted()
    estimator.transform(case.take([0]))
    before = _dumps(estimator)
    n_times = math.ceil(_N_ROWS_REMEMBERED / case.n_rows)
    if case.seconds > 0:  # a slow model embeds fewer
        n_times = max(2, min(n_times, int(5.0 / case.seconds)))
    estimator.transform(case.take(list(range(case.n_rows)) * n_times))
    after = _dumps(estimator)
    if (growth := len(after) - len(before)) > _PICKLE_SLACK:
        n_rows = n_times * case.n_rows
        fail(f"expected a pickle of {len(before)} bytes, got {growth} more after {n_rows} rows")
    contents = [] if case.is_table else [_content(row) for row in case.given_rows]
    found = [row for row, content in enumerate(contents) if _is_new(content, before, after)]
    if found:
        fail(f"expected a pickle without the rows that were transformed, got rows {found} in it")


def _dumps(estimator: Any) -> bytes:
    try:
        return pickle.dumps(estimator)
    except Exception:
        skip("the embedder cannot be pickled: see check_pickle")


def _content(row: Any) -> bytes:
    if isinstance(row, str):
        return row.encode("utf-8", "surrogatepass")
    if isinstance(row, np.ndarray) and row.dtype != object:
        return row.tobytes()
    return row if isinstance(row, bytes) else b""


def _is_new(content: bytes, before: bytes, after: bytes) -> bool:
    """Whether a row's content (if long enough to tell) occurs in the later pickle only."""
    return len(content) >= 8 and content in after and content not in before


def check_two_threads(case: Case) -> None:
    """Check that two threads that embed different rows by one instance get what one thread gets."""
    estimator = case.fitted()
    half = case.n_rows // 2
    parts = (range(half), range(half, case.n_rows))
    faults: list[str] = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # switch often, to meet races that are rare otherwise
    try:
        began = time.monotonic()
        for n_rounds in range(_N_ROUNDS[1]):
            if n_rounds >= _N_ROUNDS[0] and time.monotonic() - began > _ROUNDS_SECONDS:
                break
            faults += _run_round(case, estimator, parts)
            if faults:
                break
    finally:
        sys.setswitchinterval(interval)
    if faults:
        fail("; ".join(faults))


def _run_round(case: Case, estimator: Any, parts: tuple[range, range]) -> list[str]:
    """Embed both parts at once, and say what went wrong."""
    start = threading.Barrier(len(parts))
    outputs: dict[int, Any] = {}
    faults: list[str] = []

    def embed(thread: int, rows: Any) -> None:
        start.wait()
        try:
            outputs[thread] = estimator.transform(rows)
        except Exception as error:
            faults.append(f"thread {thread}: expected an output, got {error!r:.300}")

    threads = [
        threading.Thread(target=embed, args=(thread, case.take(part)), daemon=True)
        for thread, part in enumerate(parts)
    ]
    deadline = time.monotonic() + _time_limit(case)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if any(thread.is_alive() for thread in threads):
        return [f"expected both threads to finish, one hangs after {_time_limit(case):.0f} s"]
    for thread_number, part in enumerate(parts):
        if thread_number in outputs:
            try:
                what = f"thread {thread_number} of 2"
                case.assert_same(outputs[thread_number], case.reference[part], what)
            except AssertionError as fault:
                faults.append(str(fault))
    return faults


def _time_limit(case: Case) -> float:
    """Seconds for work that takes `case.seconds` when nothing else runs."""
    return case.time_limit + 20 * case.seconds


def _embed_twice(
    fit: Callable[[Any], Any], fitted: Any, unfitted: Any, rows: tuple[Any, Any]
) -> tuple[int, Any, Any] | str:
    """Embed by an embedder fitted elsewhere and by one fitted here; also say where.

    An error comes back as text: raised, it would end the workers that the caller shares.
    """
    try:
        return os.getpid(), fitted.transform(rows[0]), fit(unfitted).transform(rows[1])
    except Exception:
        return traceback.format_exc()


class _Fit:
    """`fit` on these rows; unlike the case it can be sent to a worker."""

    def __init__(self, rows: Any, y: Any) -> None:
        self.rows = rows
        self.y = y

    def __call__(self, estimator: Any) -> Any:
        estimator.fit(self.rows) if self.y is None else estimator.fit(self.rows, self.y)
        return estimator


def _assert_twice(case: Case, got: tuple[int, Any, Any] | str, where: str) -> None:
    if isinstance(got, str):
        fail(f"expected an output from {where}, got {got}")
    case.assert_same(got[1], case.reference, f"fitted here, embedding in {where}")
    case.assert_same(got[2], case.reference, f"fitted and embedding in {where}")


def check_fork(case: Case) -> None:
    """Check that a process forked after the embedder was used embeds the same and ends."""
    if sys.platform in ("win32", "darwin"):
        skip("forking is not safe on this platform")
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        skip("a forked process cannot use CUDA once its parent has")
    fitted, unfitted, rows = case.fitted(), case.unfitted(), (case.rows, case.rows)
    fitted.transform(case.rows)
    fit = _Fit(case.rows, case.y)
    outcome = _call_in_fork(lambda: _embed_twice(fit, fitted, unfitted, rows), _time_limit(case))
    _assert_twice(case, outcome, "a forked process")


def _call_in_fork(call: Callable[[], Any], time_limit: float) -> Any:
    """Return what `call` returns in a forked process, or a text that says what went wrong."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_outcome, args=(sender, call))
    with warnings.catch_warnings():
        # Python >= 3.12 warns of forking beside threads, which is what is checked here.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    sender.close()
    try:
        if not receiver.poll(time_limit):
            return f"no end after {time_limit:.0f} s"
        return receiver.recv()
    except EOFError:
        process.join()
        return f"its end with code {process.exitcode}"
    finally:
        process.kill()
        process.join()
        receiver.close()


def _send_outcome(sender: Connection, call: Callable[[], Any]) -> None:
    sender.send(call())


def check_loky_worker(case: Case) -> None:
    """Check that a joblib worker in another process embeds the same."""
    fitted = case.fitted()
    fitted.transform(case.rows)
    task = joblib.delayed(_embed_twice)
    fit = _Fit(case.rows, case.y)
    # A worker first starts Python and imports the embedder, hence the wider limit.
    workers = joblib.Parallel(n_jobs=2, backend="loky", timeout=3 * _time_limit(case))
    answers = workers(task(fit, fitted, case.unfitted(), (case.rows, case.rows)) for _ in range(2))
    for answer in answers:
        if answer[0] == os.getpid():
            skip("this process may not start workers")
        _assert_twice(case, answer, "a loky worker")


CHECKS = (
    check_deepcopy,
    check_pickle,
    check_pickle_forgets_rows,
    check_two_threads,
    check_fork,
    check_loky_worker,
)
