"""Which GPU a worker takes where there are several, so that two do not share one by accident.

Knows numbers of devices and the locks of the run, not models.
"""

from __future__ import annotations

from itertools import count

from skembed._forks import KeyLocks, after_fork_in_child
from skembed.store import is_worker, lock_in_run

__all__ = ["own_cuda_device"]

_locks = KeyLocks()
_own: list[int] = []
"""The place of this process among the run's workers, once it has taken one."""

after_fork_in_child(_own.clear)


def own_cuda_device(n_devices: int, chosen: int) -> int:
    """Return the CUDA device of this process.

    It is `chosen`, the one that torch has set, in the process that the run began with, and where
    somebody chose another than the first. Each worker takes the next device, for as long as it
    lives; where there are more workers than devices, they share them evenly.
    """
    if n_devices < 2 or chosen != 0 or not is_worker():
        return chosen
    with _locks.hold(None):
        if not _own:
            _own.append(_take_place())
    return _own[0] % n_devices


def _take_place() -> int:
    """Take the first place that no living worker has; its lock is held until the process ends."""
    try:
        return next(place for place in count() if lock_in_run(f"device-{place}") is not None)
    except OSError:  # without a folder of the run others are not known of
        return 0
