"""What differs between releases of scikit-learn, and how estimators are shown.

Callbacks (1.9), the index of a Series (1.7).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, TypeVar

import sklearn
from sklearn.base import BaseEstimator
from sklearn.utils._pprint import _EstimatorPrettyPrinter as _Printer
from sklearn.utils._set_output import _get_output_config

try:
    from sklearn import callback as _callback
except ImportError:  # scikit-learn before 1.9
    _callback = None

__all__ = [
    "CallbackSupportMixin",
    "abridged",
    "fit_task",
    "has_watchers",
    "show_abridged",
    "watch_epochs",
    "with_callbacks",
    "with_index",
    "without_callbacks",
]

_KEEPS_INDEX = tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 7)

F = TypeVar("F", bound=Callable[..., Any])


class _NoCallbackSupport:
    """Stands in where scikit-learn has no callbacks."""


CallbackSupportMixin: type = (
    _NoCallbackSupport if _callback is None else _callback.CallbackSupportMixin
)


def with_callbacks(method: F) -> F:
    """Tear callbacks down when `method` ends, however it ends."""
    if _callback is None:
        return method
    decorated: F = _callback.with_callbacks(method)
    return decorated


@contextmanager
def fit_task(estimator: Any, X: Any, y: Any, sample_weight: Any = None) -> Iterator[None]:
    """Tell callbacks of the task of a fit: its begin and, if it succeeds, its end."""
    if _callback is None:
        yield
        return
    told = _told(estimator, X, y, sample_weight)
    has_training = getattr(estimator, "training", None) is not None
    context = estimator._init_callback_context(max_subtasks=int(has_training))
    context.call_on_fit_task_begin(**told)
    yield
    context.call_on_fit_task_end(**told, reconstruction_attributes={})


def watch_epochs(
    estimator: Any, X: Any, y: Any, sample_weight: Any
) -> Callable[..., AbstractContextManager[None]] | None:
    """Return what tells callbacks of a training, if there are callbacks."""
    if not _callbacks_of(estimator):
        return None
    return partial(_tell_of_epochs, estimator, _told(estimator, X, y, sample_weight))


@contextmanager
def _tell_of_epochs(
    estimator: Any, told: dict[str, Any], loop: Any, learned: Callable[[], Any]
) -> Iterator[None]:
    """Tell callbacks of a training, a task in that of the fit, and of each epoch, a task in it.

    The number of epochs is known when the loop is there, and not when the fit begins.
    """
    training = estimator._callback_fit_ctx.subcontext("train", max_subtasks=loop.settings.n_epochs)
    epoch, hooks = None, (loop.before_epoch, loop.after_epoch)

    def begin() -> None:
        nonlocal epoch
        epoch = training.subcontext("epoch").call_on_fit_task_begin(**told)

    def end(loop: Any) -> None:
        hooks[1](loop)
        if epoch is not None:  # before the first, the model is only scored
            loop.is_stopped = epoch.call_on_fit_task_end(**told, reconstruction_attributes=fitted)

    def fitted() -> dict[str, Any]:
        made_with = {"_learned_with": estimator._objects(), "_has_been_fitted": True}
        return {"trained_": learned(), **made_with}

    training.call_on_fit_task_begin(**told)
    loop.before_epoch, loop.after_epoch = begin, end
    try:
        yield
    finally:
        loop.before_epoch, loop.after_epoch = hooks  # `end` holds the loop
    training.call_on_fit_task_end(**told)


def has_watchers(estimator: Any) -> bool:
    """Return whether callbacks have to see each epoch, as all but progress bars do.

    Any of them may score it, or stop the training.
    """
    return any(not isinstance(each, _callback.ProgressBar) for each in _callbacks_of(estimator))


def without_callbacks(estimator: Any) -> Any:
    """Take the callbacks off an estimator, for a fit inside of its own."""
    if _callback is not None:
        estimator.set_callbacks()
    return estimator


def _callbacks_of(estimator: Any) -> list[Any]:
    """Return the callbacks of an estimator, and those that were propagated to it."""
    callbacks: list[Any] = getattr(estimator, "_skl_callbacks", [])
    return callbacks


def _told(estimator: Any, X: Any, y: Any, sample_weight: Any) -> dict[str, Any]:
    """Return what callbacks are told of each task."""
    metadata = None if sample_weight is None else {"sample_weight": sample_weight}
    return {"estimator": estimator, "X": X, "y": y, "metadata": metadata}


def with_index(estimator: Any, vectors: Any, X: Any) -> Any:
    """Give vectors the index of a pandas Series, where the output is to be a frame of pandas.

    scikit-learn before 1.7 takes over the index of frames only.
    """
    if _KEEPS_INDEX or _get_output_config("transform", estimator)["dense"] != "pandas":
        return vectors
    import pandas as pd

    return pd.DataFrame(vectors, index=X.index) if isinstance(X, pd.Series) else vectors


_MOST_SHOWN = 60


class _Abridged:
    """A value of which little is shown."""

    def __init__(self, shown: str) -> None:
        self._shown = shown

    def __repr__(self) -> str:
        return self._shown


def abridged(estimator: Any) -> Any:
    """Return a stand-in that shows as the estimator, but for modules and long paths."""
    kind = type(estimator)
    kept = {"__init__": kind.__init__, "__doc__": kind.__doc__, "__module__": kind.__module__}
    stand_in: Any = object.__new__(type(kind.__name__, (BaseEstimator,), kept))
    for name, value in estimator.get_params(deep=False).items():
        setattr(stand_in, name, _abridge(value))
    return stand_in


def show_abridged(show: Callable[..., str]) -> Callable[..., str]:
    """Let an estimator whose `__repr__` this is be abridged inside of pipelines, too."""

    def write(printer: Any, estimator: Any, *rest: Any) -> None:
        _Printer._pprint_estimator(printer, abridged(estimator), *rest)

    _Printer._dispatch[show] = write
    return show


def _abridge(value: Any) -> Any:
    if isinstance(value, type) or hasattr(value, "get_params"):
        return value
    if hasattr(value, "named_modules"):  # whose repr may take long
        return _Abridged(f"{type(value).__name__}(...)")
    shown = repr(value)
    if len(shown) <= _MOST_SHOWN or isinstance(value, (list, tuple, dict)) or shown[0] == "<":
        return value
    if isinstance(value, (str, os.PathLike)):
        return _Abridged(f"{shown[:20]}...{shown[23 - _MOST_SHOWN :]}")
    return _Abridged(f"{type(value).__name__}(...)")
