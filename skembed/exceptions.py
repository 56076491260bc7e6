"""The errors and warnings of skembed.

Every error that a user can meet is a `SkembedError` and also the built-in that a user would catch::

    SkembedError
    ├── InvalidParameterError     (ValueError)   a parameter's value or a combination of values
    ├── InvalidRowsError          (ValueError)   rows that cannot be embedded, each named
    │   └── TruncatedRowsError                   rows longer than the model reads
    ├── InvalidInputError         (TypeError)    the whole input is of the wrong kind
    ├── MissingDependencyError    (ImportError)  an optional library; says how to install it
    ├── ModelNotFoundError        (OSError)      no model by that name; says what was tried
    └── UnsupportedModelError     (ValueError)   a model that was found but cannot be run here
        └── UnsafeModelError                     ... because loading it would run foreign code

    SkembedWarning                (UserWarning)
    ├── TruncationWarning         rows were cut at the model's limit
    ├── InvalidRowsWarning        rows became NaN because `on_error="nan"`
    ├── ModelWarning              a model runs otherwise than what comes with it says
    ├── QualityWarning            sound is silent, clipped or truncated, and was embedded
    ├── StoreWarning              the embedding store failed; work went on without it
    └── MemoryWarning             the device ran out of memory; batches were made smaller
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

__all__ = [
    "InvalidInputError",
    "InvalidParameterError",
    "InvalidRowsError",
    "InvalidRowsWarning",
    "MemoryWarning",
    "MissingDependencyError",
    "ModelNotFoundError",
    "ModelWarning",
    "QualityWarning",
    "SkembedError",
    "SkembedWarning",
    "StoreWarning",
    "TruncatedRowsError",
    "TruncationWarning",
    "UnsafeModelError",
    "UnsupportedModelError",
    "describe_rows",
    "warn_user",
    "warnings_sent_to",
]

_N_NAMED = 10


class SkembedError(Exception):
    """Base class of every error that skembed raises on purpose."""


class InvalidParameterError(SkembedError, ValueError):
    """A parameter has a value that cannot be used; the message lists every such parameter."""


class InvalidRowsError(SkembedError, ValueError):
    """Rows that cannot be embedded.

    Parameters
    ----------
    message : str
        What was expected and what to do.
    faults : mapping of int to str
        What is wrong with each bad row, by position (0-based), complete.

    Attributes
    ----------
    faults : dict of int to str
        As given; the message names only the first few.
    """

    def __init__(self, message: str, faults: Mapping[int, str] | None = None) -> None:
        super().__init__(message)
        self.faults: dict[int, str] = dict(faults or {})

    def __reduce__(self) -> tuple[type, tuple[str, dict[int, str]]]:
        return type(self), (str(self), self.faults)


class TruncatedRowsError(InvalidRowsError):
    """Rows are longer than the model reads, and the user asked that none be cut."""


class InvalidInputError(SkembedError, TypeError):
    """The input as a whole is not a collection of rows that this embedder reads."""


class MissingDependencyError(SkembedError, ImportError):
    """An optional library is not installed; the message has the line that installs it."""


class ModelNotFoundError(SkembedError, OSError):
    """No model answers to the name; the message says what was tried, in order."""


class UnsupportedModelError(SkembedError, ValueError):
    """The model was found, but skembed cannot run it; the message says why."""


class UnsafeModelError(UnsupportedModelError):
    """Loading the model would run code that came with it."""


class SkembedWarning(UserWarning):
    """Base class of every warning that skembed issues."""


class TruncationWarning(SkembedWarning):
    """Rows were longer than the model reads and were cut."""


class InvalidRowsWarning(SkembedWarning):
    """Rows could not be embedded and became rows of NaN, as `on_error="nan"` asks."""


class QualityWarning(SkembedWarning):
    """Clips of sound were embedded although they are silent, clipped or truncated."""


class ModelWarning(SkembedWarning):
    """A model runs otherwise than what comes with it says; the message says how."""


class StoreWarning(SkembedWarning):
    """The embedding store failed; embedding went on without it and results are right."""


class MemoryWarning(SkembedWarning):
    """The device ran out of memory; smaller batches were used."""


def describe_rows(faults: Mapping[int, str]) -> str:
    """Describe bad rows for a message: the first few by number and reason, then a count."""
    shown = [f"row {row}: {reason}" for row, reason in sorted(faults.items())[:_N_NAMED]]
    if len(faults) > _N_NAMED:
        shown.append(f"... and {len(faults) - _N_NAMED} more")
    return "\n  ".join(["", *shown])


_LIBRARY_ROOTS = ("skembed", "sklearn", "joblib")

_of_thread = threading.local()


def warn_user(message: str, category: type[SkembedWarning]) -> None:
    """Issue a warning that points at the user's own line, past the frames of libraries."""
    send: Callable[[str, type[SkembedWarning]], object] | None
    send = getattr(_of_thread, "send", None)
    if send is not None:
        send(message, category)
        return
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and _is_library(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
        level += 1
    warnings.warn(message, category, stacklevel=level)


@contextmanager
def warnings_sent_to(send: Callable[[str, type[SkembedWarning]], object]) -> Iterator[None]:
    """Hand this thread's `warn_user` calls to `send`, to be made again in the user's thread.

    In a thread of the library's own no frame leads to the user's line, and a warning that is an
    error would be raised where nobody waits for it.
    """
    _of_thread.send = send
    try:
        yield
    finally:
        del _of_thread.send


def _is_library(module: str) -> bool:
    return module.split(".", 1)[0] in _LIBRARY_ROOTS
