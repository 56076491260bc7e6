"""A few rows that others may be embedding: left to them if loading a model here takes longer.

A process without the model takes seconds to import torch and load it; one that has it takes
milliseconds for a few rows. The workers of a search all want the same rows, and soon ask for them.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from skembed.engine._job import Job
from skembed.store import content_key, is_worker, run_folder

__all__ = ["leave_to_others", "tell_others"]

_WAIT_SECONDS, _PATIENCE_SECONDS = 10.0, 60.0
# A worker that has embedded one fold's rows will soon be asked for another's.
_GRACE_SECONDS, _PAUSE_SECONDS = 1.0, 0.02

_holder = object()


def leave_to_others(job: Job, missing: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows that are to be encoded here, claimed if they are few.

    As long as another process or thread embeds some of a few missing rows, they are left to it. A
    worker gives another one, which has the model, the time to begin with them.
    """
    if job.store is None or len(missing) > job.encoder.n_few:
        return missing
    started = time.monotonic()
    if is_worker() and _is_with_another(job):
        missing = _look_up_for_a_while(job, missing)
    while len(missing):
        is_ours = job.claim(missing)
        if is_ours.all():
            break
        job.give_up(missing[is_ours])
        if time.monotonic() - started > _PATIENCE_SECONDS:
            break
        job.wait(missing[~is_ours], _WAIT_SECONDS)
        missing = _look_up_for_a_while(job, missing)
    return missing


def tell_others(job: Job) -> None:
    """Let the other workers of this run know that one of them has the model, while it lives."""
    if job.store is not None and is_worker():
        job.store.claim([_key_of_model(job)], holder=_holder)


def _is_with_another(job: Job) -> bool:
    assert job.store is not None
    keys = [_key_of_model(job)]
    job.store.release(keys, holder=_holder)  # of a model that this process has no more
    (is_free,) = job.store.claim(keys, holder=_holder)
    job.store.release(keys, holder=_holder)
    return not is_free


def _key_of_model(job: Job) -> bytes:
    return content_key(job.encoder.model_key, str(run_folder()).encode())


def _look_up_for_a_while(job: Job, missing: NDArray[np.int64]) -> NDArray[np.int64]:
    """Fetch rows as they are stored, until all are here or none has come for some time."""
    until = time.monotonic() + _GRACE_SECONDS
    while True:
        left = job.look_up(missing)
        if len(left) < len(missing):
            until = time.monotonic() + _GRACE_SECONDS
        if not len(left) or time.monotonic() > until:
            return left
        missing = left
        time.sleep(_PAUSE_SECONDS)
