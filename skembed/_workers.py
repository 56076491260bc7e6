"""What goes along when an embedder is sent to joblib's worker processes, and in no other pickle.

There a warning cannot find the line that the user has written: it is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from joblib.externals.loky.backend.reduction import register

from skembed.exceptions import Line, line_of_user, note_line_of_user

__all__ = ["send_with_line"]


def send_with_line(kind: type) -> None:
    """Let objects of a class take the user's line along to joblib's workers."""
    register(kind, _reduce)


def _reduce(sent: Any) -> tuple[Any, ...]:
    make, arguments, *rest = sent.__reduce_ex__(5)
    return (_made, (line_of_user(), make, arguments), *rest)


def _made(line: Line | None, make: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    note_line_of_user(line)
    return make(*arguments)
