"""Threads that torch computes with, in processes that were forked.

Knows torch and processes, not what is computed.
"""

from __future__ import annotations

import os

__all__ = ["stay_safe_after_fork"]

_PROCESS_OF_IMPORT = os.getpid()


def stay_safe_after_fork() -> None:
    """Keep the calling thread of a forked child from asking for more threads.

    OpenMP's threads do not survive a fork; a child that asks for them hangs. A child that runs
    single-threaded never asks. OpenMP's settings are those of the calling thread: each thread that
    computes has to call this.
    """
    import torch

    if os.getpid() != _PROCESS_OF_IMPORT and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
