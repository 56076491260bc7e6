"""scikit-learn's callbacks (1.9 and later), and nothing where it has none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

try:
    from sklearn import callback as _callback
except ImportError:  # scikit-learn before 1.9
    _callback = None

__all__ = ["CallbackSupportMixin", "fit_task", "with_callbacks"]

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
