"""The errors and warnings of skembed.

Every error that a user can meet is a `SkembedError` and also the built-in that a user would catch::

    SkembedError
    ├── InvalidParameterError     (ValueError)   a bad parameter value or combination of values
    ├── InvalidRowsError          (ValueError)   rows that cannot be embedded, each named
    │   └── TruncatedRowsError                   rows too long for the model
    ├── InvalidInputError         (TypeError)    the whole input is of the wrong kind
    │   └── InvalidTargetsError   (ValueError)   ... or y is, from which training learns
    ├── MissingDependencyError    (ImportError)  an optional library is missing; says how to get it
    ├── ModelNotFoundError        (OSError)      no model by that name; says what was tried
    ├── UnsupportedModelError     (ValueError)   a model that was found but cannot be run here
    │   └── UnsafeModelError                     ... because loading it would run foreign code
    ├── FunctionError             (RuntimeError) your own function failed; its error is the cause
    ├── ServiceError              (RuntimeError) a server that embeds failed or refused
    └── TrainingError             (RuntimeError) training cannot go on, as its loss is no number

    SkembedWarning                (UserWarning)
    ├── TruncationWarning         rows were cut at the model's limit
    ├── InvalidRowsWarning        rows became NaN or were not learned from (`on_error="nan"`), or
    │                             cells of a table count as missing
    ├── ModelWarning              a model does not run as its files say
    ├── QualityWarning            silent or clipped sound, or text of unknown words, was embedded
    ├── StoreWarning              the embedding store failed; work went on without it
    ├── TrainingWarning           a checkpoint was of no use, or a parameter of training
    └── MemoryWarning             memory ran out, batches were made smaller; or it will be scarce
"""

from __future__ import annotations

import difflib
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = [
    "FunctionError",
    "InvalidInputError",
    "InvalidParameterError",
    "InvalidRowsError",
    "InvalidRowsWarning",
    "InvalidTargetsError",
    "MemoryWarning",
    "MissingDependencyError",
    "ModelNotFoundError",
    "ModelWarning",
    "QualityWarning",
    "ServiceError",
    "SkembedError",
    "SkembedWarning",
    "StoreWarning",
    "TrainingError",
    "TrainingWarning",
    "TruncatedRowsError",
    "TruncationWarning",
    "UnsafeModelError",
    "UnsupportedModelError",
    "describe_rows",
    "did_you_mean",
    "line_of_user",
    "name_rows",
    "note_line_of_user",
    "once_in_run",
    "warn_user",
    "warnings_sent_to",
]

_N_NAMED = 10
_N_NAMED_TOGETHER = 5


class SkembedError(Exception):
    """Base class of every error that skembed raises on purpose."""


class InvalidParameterError(SkembedError, ValueError):
    """A parameter has an unusable value; the message lists every such parameter."""


class InvalidRowsError(SkembedError, ValueError):
    """Rows that cannot be embedded.

    Parameters
    ----------
    message : str
        What was expected and what to do.
    faults : mapping of int to str
        What is wrong with each bad row, by position (0-based).

    Attributes
    ----------
    faults : dict of int to str
        All faults, as given; the message names only the first few.
    """

    def __init__(self, message: str, faults: Mapping[int, str] | None = None) -> None:
        super().__init__(message)
        self.faults: dict[int, str] = dict(faults or {})

    def __reduce__(self) -> tuple[type, tuple[str, dict[int, str]]]:
        return type(self), (str(self), self.faults)


class TruncatedRowsError(InvalidRowsError):
    """Rows are too long for the model, and the user asked not to cut any."""


class InvalidInputError(SkembedError, TypeError):
    """The input as a whole is not a collection of rows that this embedder can read."""


class InvalidTargetsError(InvalidInputError, ValueError):
    """Nothing can be learned from y, or from its weights."""


class MissingDependencyError(SkembedError, ImportError):
    """An optional library is not installed; the message has the command that installs it."""


class ModelNotFoundError(SkembedError, OSError):
    """No model has this name; the message says what was tried, in order."""


class UnsupportedModelError(SkembedError, ValueError):
    """The model was found, but skembed cannot run it; the message says why."""


class UnsafeModelError(UnsupportedModelError):
    """Loading the model would run code that came with it."""


class FunctionError(SkembedError, RuntimeError):
    """The user's function failed or returned no vectors; its own error is the `__cause__`."""


class ServiceError(SkembedError, RuntimeError):
    """A server that embeds cannot be reached, refused, or answered what makes no sense."""


class TrainingError(SkembedError, RuntimeError):
    """Training cannot go on; the message names the rows and what to change."""


class SkembedWarning(UserWarning):
    """Base class of every warning that skembed issues."""


class TruncationWarning(SkembedWarning):
    """Rows were too long for the model and were cut."""


class InvalidRowsWarning(SkembedWarning):
    """Rows became NaN or were not learned from, or cells of theirs cannot be read."""


class QualityWarning(SkembedWarning):
    """What was embedded says little: sound that is silent or clipped, texts of unknown words."""


class ModelWarning(SkembedWarning):
    """A model does not run as its files say; the message says how it runs instead."""


class StoreWarning(SkembedWarning):
    """The embedding store failed; embedding went on without it, and results are correct."""


class TrainingWarning(SkembedWarning):
    """Training does not go on from a checkpoint, or a parameter of it had nothing to act on."""


class MemoryWarning(SkembedWarning):
    """The device ran out of memory, and smaller batches were used; or a model takes most of it."""


def describe_rows(faults: Mapping[int, str], labels: Sequence[Any] | None = None) -> str:
    """Describe bad rows for a message: the first reasons and rows, then a count.

    `labels` are the names that rows have in the user's index, if it has one.
    """
    by_reason: dict[str, list[int]] = {}
    for row, reason in sorted(faults.items()):
        by_reason.setdefault(reason, []).append(row)
    lines = [f"{name_rows(rows, labels)}: {why}" for why, rows in by_reason.items()]
    if len(lines) > _N_NAMED:
        n_left = len(faults) - sum(map(len, list(by_reason.values())[:_N_NAMED]))
        lines[_N_NAMED:] = [f"... and {n_left:,} more"]
    return "\n  ".join(["", *lines])


def name_rows(rows: Sequence[int], labels: Sequence[Any] | None = None) -> str:
    """Name rows by position and, if there are any, by label: the first few and a count."""
    named = [f"{row}{_label_of(row, labels)}" for row in rows[:_N_NAMED_TOGETHER]]
    n_left = len(rows) - len(named)
    more = f" and {n_left:,} more" if n_left else ""
    return f"row{'s' * (len(rows) > 1)} {', '.join(named)}{more}"


def _label_of(row: int, labels: Sequence[Any] | None) -> str:
    if labels is None:
        return ""
    label = labels[row]
    return f" (index {getattr(label, 'item', lambda: label)()!r:.60})"


def did_you_mean(
    value: Any,
    options: Iterable[str],
    *,
    n: int = 1,
    cutoff: float = 0.6,
    meaning: Mapping[str, str] | None = None,
) -> str:
    """Return " Did you mean ...?" for the closest options, or "" if none is close.

    `meaning` maps an option to the name to show for it.
    """
    said = str(value).lower()
    known = {option.lower(): (meaning or {}).get(option, option) for option in sorted(options)}
    found = difflib.get_close_matches(said, known, n=1 if said in known else n, cutoff=cutoff)
    if len(said) > 2 and said not in known:
        found += [option for option in known if said in option]
    close = list(dict.fromkeys(known[option] for option in found if known[option] != value))[:n]
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else ""


_LIBRARY_ROOTS = ("skembed", "sklearn", "joblib", "cloudpickle")
# What stands below the libraries' frames in a worker, where none is the user's.
_LAUNCHERS = ("concurrent", "multiprocessing", "runpy", "threading")

Line = tuple[str, int, str]
"""A file, the number of a line in it, and the name of its module."""

_of_thread = threading.local()
_told: set[str] = set()
# What was shown from a file, as `warnings` notes it for the action "default".
_shown: dict[str, dict[Any, Any]] = {}
# Where the code is that sent this process its work.
_line_noted: Line | None = None
# Says whether another worker of this run has told something. Set by the store, which knows the run.
_is_told_in_run: Callable[[str], bool] | None = None


def warn_user(message: str, category: type[SkembedWarning], once: str = "") -> None:
    """Issue a warning that points at the user's own line, past the frames of libraries.

    Warnings of one category with the same `once` are issued once per process, and a worker skips
    those that another worker of the run has issued. Warnings turned into errors are always raised.
    """
    send: Callable[[str, type[SkembedWarning], str], object] | None
    send = getattr(_of_thread, "send", None)
    if send is not None:
        send(message, category, once)
        return
    action = _action_for(message, category)
    if action == "ignore":
        return
    if once and action != "error":
        key = f"{category.__name__} {once}"
        if key in _told or (_is_told_in_run is not None and _is_told_in_run(key)):
            return
        _told.add(key)
    file, number, module = line_of_user() or _line_of(sys._getframe(1))
    registry = _shown.setdefault(file, {})
    warnings.warn_explicit(message, category, file, number, module, registry)


def once_in_run(is_told: Callable[[str], bool]) -> None:
    """Let `is_told` say whether another process of this run has issued a warning."""
    global _is_told_in_run
    _is_told_in_run = is_told


def _action_for(message: str, category: type[Warning]) -> str:
    """Return what the current filters do with a warning."""
    # From Python 3.14 on they may be those of a context.
    filters = getattr(warnings, "_get_filters", lambda: warnings.filters)()
    for action, pattern, kind, module, _ in filters:
        is_of_kind = module is None and issubclass(category, kind)
        if is_of_kind and (pattern is None or re.match(pattern, message)):
            return str(action)
    return "default"


def line_of_user() -> Line | None:
    """Return the user's line: the innermost one, of this thread, outside the libraries.

    In a worker thread it is the line that waits for joblib's workers, if that is one line, and in a
    worker process the one that was noted.
    """
    user = _user_above(sys._getframe(1))
    if user is not None:
        return _line_of(user)
    waiting = filter(None, map(_user_of_workers, sys._current_frames().values()))
    lines = set(map(_line_of, waiting))
    return lines.pop() if len(lines) == 1 else _line_noted


def note_line_of_user(line: Line | None) -> None:
    """Note the line that sent this process its work."""
    global _line_noted
    _line_noted = line


def _user_above(frame: FrameType | None) -> FrameType | None:
    """Return the innermost frame that is not a library's, if a library did not start its thread."""
    while frame is not None and _is_of(frame, _LIBRARY_ROOTS):
        frame = frame.f_back
    return None if frame is None or _is_of(frame, _LAUNCHERS) else frame


def _user_of_workers(frame: FrameType | None) -> FrameType | None:
    """Return the user's frame in a thread that waits for joblib's workers."""
    while frame is not None:
        is_call = frame.f_code.co_name == "__call__"
        if is_call and frame.f_globals.get("__name__") == "joblib.parallel":
            return _user_above(frame)
        frame = frame.f_back
    return None


def _line_of(frame: FrameType) -> Line:
    return frame.f_code.co_filename, frame.f_lineno, frame.f_globals.get("__name__", "")


def _is_of(frame: FrameType, roots: tuple[str, ...]) -> bool:
    return frame.f_globals.get("__name__", "").split(".", 1)[0] in roots


@contextmanager
def warnings_sent_to(
    send: Callable[[str, type[SkembedWarning], str], object],
) -> Iterator[None]:
    """Hand this thread's `warn_user` calls to `send`, to be repeated in the user's thread.

    In one of the library's own threads no frame leads to the user's line, and a warning turned into
    an error would be raised where nothing catches it.
    """
    before = getattr(_of_thread, "send", None)
    _of_thread.send = send
    try:
        yield
    finally:
        _of_thread.send = before
