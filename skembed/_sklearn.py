"""What differs between releases of scikit-learn, and how estimators are shown.

Callbacks (1.9), the index of a Series (1.7).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    "show_abridged",
    "with_callbacks",
    "with_index",
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
def fit_task(estimator: Any, X: Any, y: Any) -> Iterator[None]:
    """Tell callbacks of the one task of a fit: its begin and, if it succeeds, its end."""
    if _callback is None:
        yield
        return
    context = estimator._init_callback_context()
    context.call_on_fit_task_begin(estimator=estimator, X=X, y=y)
    yield
    context.call_on_fit_task_end(estimator=estimator, X=X, y=y, reconstruction_attributes={})


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
