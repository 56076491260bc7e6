"""What must be made anew in a child process after a fork: locks that threads of the parent held.

Must not know whose they are.
"""

from __future__ import annotations

import os
from collections.abc import Callable

__all__ = ["after_fork_in_child"]


def after_fork_in_child(reset: Callable[[], None]) -> None:
    """Call `reset` in every child of this process, where the system forks at all."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=reset)
