"""What goes along when an embedder is sent to joblib's worker processes, and in no other pickle.

There a warning cannot find the line that the user has written: it is sent. And where psutil is
installed, as in every notebook, joblib takes a worker that grew by 300 MB for one that leaks memory
and replaces it; a worker that loads a model has to grow.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from joblib.externals.loky.backend.reduction import register

from skembed.exceptions import Line, line_of_user, note_line_of_user
from skembed.weights import available_memory

__all__ = ["send_with_line"]


def send_with_line(kind: type) -> None:
    """Let objects of a class take the user's line along to joblib's workers."""
    register(kind, _reduce)


def _reduce(sent: Any) -> tuple[Any, ...]:
    make, arguments, *rest = sent.__reduce_ex__(5)
    return (_made, (line_of_user(), make, arguments), *rest)


def _made(line: Line | None, make: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    note_line_of_user(line)
    _may_grow()
    return make(*arguments)


def _may_grow() -> None:
    """Let this worker take its share of the available memory before it counts as leaking."""
    loky: Any = sys.modules.get("joblib.externals.loky.process_executor")
    # Private to joblib: without it workers are replaced as before, and the results are the same.
    bound = getattr(loky, "_MAX_MEMORY_LEAK_SIZE", None)
    room = available_memory()
    if bound is not None and room is not None:
        loky._MAX_MEMORY_LEAK_SIZE = max(bound, room // (os.cpu_count() or 1))
