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
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import joblib
import numpy as np

from skembed.testing._case import Case, fail, skip, take

_N_ROUNDS = (3, 50)  # at least and at most, of two threads side by side for about a second
_N_ROWS_REMEMBERED = 300  # rows transformed before a pickle is weighed
_PICKLE_SLACK = 512  # bytes that counters and reports may add to a pickle


def check_deepcopy(case: Case) -> None:
    """Check that a deep copy embeds as the original does."""
    case.assert_all(copy.deepcopy(case.used()), "deep copy of a used embedder")


def check_pickle(case: Case) -> None:
    """Check that it embeds the same when read from a pickle, made unfitted, fitted or used."""
    unfitted = pickle.loads(pickle.dumps(case.unfitted()))
    case.assert_all(case.fit(unfitted), "pickled unfitted, then fitted")
    estimator = case.fitted()
    case.assert_all(pickle.loads(pickle.dumps(estimator)), "pickled fitted")
    estimator.transform(case.rows)
    file = io.BytesIO()
    joblib.dump(estimator, file)
    file.seek(0)
    case.assert_all(joblib.load(file), "dumped by joblib after transform")
    case.assert_all(estimator, "the original after pickling")


def check_pickle_forgets_rows(case: Case) -> None:
    """Check that the pickle of an embedder does not grow with the rows it has embedded."""
    estimator = case.fitted()
    estimator.transform(take(case.rows, [0]))
    n_bytes = len(pickle.dumps(estimator))
    n_times = math.ceil(_N_ROWS_REMEMBERED / case.n_rows)
    if case.seconds > 0:  # a slow model embeds fewer
        n_times = max(2, min(n_times, int(5.0 / case.seconds)))
    estimator.transform(take(case.rows, list(range(case.n_rows)) * n_times))
    if (growth := len(pickle.dumps(estimator)) - n_bytes) > _PICKLE_SLACK:
        n_rows = n_times * case.n_rows
        fail(f"expected a pickle of {n_bytes} bytes, got {growth} more after {n_rows} rows")


def check_two_threads(case: Case) -> None:
    """Check that two threads that embed different rows by one instance get what one thread gets."""
    estimator = case.fitted()
    half = case.n_rows // 2
    n_rounds = int(np.clip(1.0 / max(case.seconds, 1e-3), *_N_ROUNDS))
    faults: list[str] = []

    def embed(part: range) -> None:
        try:
            for _ in range(n_rounds):
                case.assert_rows(estimator, part, "one of two threads")
        except Exception as error:
            faults.append(f"expected an output from each thread, got {error!r:.300}")

    parts = range(half), range(half, case.n_rows)
    threads = [threading.Thread(target=embed, args=(part,), daemon=True) for part in parts]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # switch often, to meet races that are rare otherwise
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(_time_limit(case))
    finally:
        sys.setswitchinterval(interval)
    if any(thread.is_alive() for thread in threads):
        fail(f"expected both threads to finish, one hangs after {_time_limit(case):.0f} s")
    if faults:
        fail("; ".join(faults))


def _time_limit(case: Case) -> float:
    """Seconds for work that takes `case.seconds` when nothing else runs."""
    return case.time_limit + 20 * case.seconds


def _embed_twice(fitted: Any, unfitted: Any, rows: Any, targets: Any) -> tuple[int, Any, Any] | str:
    """Embed by an embedder fitted elsewhere and by one fitted here; an error comes back as text."""
    try:
        embedded = fitted.transform(copy.copy(rows))
        unfitted.fit(rows, *targets)
        return os.getpid(), embedded, unfitted.transform(rows)
    except Exception:
        return traceback.format_exc()


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
    call = partial(_embed_twice, case.used(), case.unfitted(), case.rows, case.targets)
    _assert_twice(case, _call_in_fork(call, _time_limit(case)), "a forked process")


def _call_in_fork(call: Callable[[], Any], time_limit: float) -> Any:
    """Return what `call` returns in a forked process, or a text that says what went wrong."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(call()))
    with warnings.catch_warnings():  # Python >= 3.12 warns of forking beside threads
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


def check_loky_worker(case: Case) -> None:
    """Check that a joblib worker in another process embeds the same."""
    task = joblib.delayed(_embed_twice)
    # A worker first starts Python and imports the embedder, hence the wider limit.
    workers = joblib.Parallel(n_jobs=2, backend="loky", timeout=3 * _time_limit(case))
    call = task(case.used(), case.unfitted(), case.rows, case.targets)
    answers = workers([call, call])
    for answer in answers:
        if answer[0] == os.getpid():
            skip("this process may not start workers")
        _assert_twice(case, answer, "a loky worker")
