"""What mpg123, within libsndfile, prints of damage: read instead of shown.

There is no way to ask libsndfile for these messages, nor to turn them off.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["captured_mpg123"]

_STDERR = 2

# "[src/libmpg123/layer3.c:INT123_do_layer3():1804] error: ...", "Note: ..." and "Warning: ..."
_MESSAGE = re.compile(
    rb"\[[^\]\n]*\.c:[^\]\n]*\]|Note: |Warning: (?=Xing |Encountered |Real |Free)"
)

_MOST_BYTES = 1 << 20

_guard = threading.Lock()
_saved = -1


def _after_fork() -> None:
    """Replace a lock that a thread of the parent may hold, and put the real stderr back."""
    global _guard, _saved
    _guard = threading.Lock()
    if _saved >= 0:
        os.dup2(_saved, _STDERR)
        os.close(_saved)
        _saved = -1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def captured_mpg123() -> Iterator[list[str]]:
    """Take what the block has mpg123 print; the list that is given has it after the block.

    Stderr belongs to the whole process, so that one thread at a time is let in. What others write
    meanwhile is written to the real stderr when the block ends.
    """
    global _saved
    messages: list[str] = []
    with _guard, tempfile.TemporaryFile(buffering=0) as taken:
        try:
            _saved = os.dup(_STDERR)
        except OSError:  # no stderr: nothing can be printed
            yield messages
            return
        os.dup2(taken.fileno(), _STDERR)
        try:
            yield messages
        finally:
            os.dup2(_saved, _STDERR)
            os.close(_saved)
            _saved = -1
            if os.fstat(taken.fileno()).st_size:
                taken.seek(0)
                _sort(taken.read(_MOST_BYTES), messages)


def _sort(printed: bytes, messages: list[str]) -> None:
    for line in printed.splitlines(keepends=True):
        if _MESSAGE.match(line):
            messages.append(line.decode(errors="replace").strip().split("] ")[-1])
        elif line.strip():
            os.write(_STDERR, line)
