"""What all ways of training have in common: their parameters, declared, checked and searchable.

Does not import torch. Must not know modalities, models or estimators that are trained.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar, TypeVar

from sklearn.base import BaseEstimator, clone
from sklearn.metrics import get_scorer_names
from sklearn.utils._param_validation import Interval, StrOptions

from skembed._parameters import fault_of, plain
from skembed.exceptions import InvalidParameterError, did_you_mean

__all__ = ["METHODS", "Strategy"]

METHODS = ("full", "lora", "head")

_share = Interval(Real, 0, 1, closed="left")
_positive = Interval(Real, 0, None, closed="neither")


S = TypeVar("S", bound="Strategy")


class Strategy(BaseEstimator):
    """Base class of the ways to train an embedder in `fit`: an object with parameters of its own.

    It is the value of an embedder's parameter `training`, so that a search reaches its parameters
    as `training__learning_rate`. It holds no state: what is learned is the embedder's `trained_`.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "method": [StrOptions(set(METHODS))],
        "n_epochs": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "learning_rate": [_positive, StrOptions({"auto"})],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "warmup": [_share],
        "max_grad_norm": [_positive, None],
        "freeze": [Interval(Integral, 0, None, closed="left"), None],
        "lora_rank": [Interval(Integral, 1, None, closed="left")],
        "lora_alpha": [_positive],
        "lora_dropout": [_share],
        "lora_targets": [StrOptions({"auto"}), str, list, tuple],
        "augment": ["boolean"],
        "validation_fraction": [_share, StrOptions({"auto"}), None],
        "scoring": [str, callable],
        "patience": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"}), None],
        "cross_fit": [Interval(Integral, 2, None, closed="left"), None],
        "checkpoint": [str, os.PathLike, None],
        "warm_start": ["boolean"],
        "dtype": [StrOptions({"auto", "float32", "bfloat16"})],
        "random_state": [Interval(Integral, 0, None, closed="left"), None],
    }

    _learning_rates: ClassVar[Mapping[str, float]] = {"full": 5e-5, "lora": 5e-4, "head": 1e-3}
    """What `learning_rate="auto"` is, by the method."""

    _least_epochs: ClassVar[int] = 1
    _least_steps: ClassVar[int] = 50
    """What `n_epochs="auto"` comes to at least, of few rows in steps."""

    batch_size: int | str = "auto"

    # Of strategies that have no such parameters.
    loss: str = ""
    method: str = "full"
    freeze: int | None = None
    augment: bool = False
    scoring: str | Callable[..., float] = "loss"
    cross_fit: int | None = None
    checkpoint: str | os.PathLike[str] | None = None
    warm_start: bool = False
    lora_rank: int = 8
    lora_alpha: float = 16
    lora_dropout: float = 0.0
    lora_targets: str | Sequence[str] = "auto"

    # What does not change the weights that are learned.
    _changes_nothing: ClassVar[frozenset[str]] = frozenset(
        {"checkpoint", "cross_fit", "warm_start"}
    )

    @property
    def _n_per_step(self) -> int:
        """Rows, or pairs, per step."""
        return 32 if isinstance(self.batch_size, str) else self.batch_size

    @property
    def _needs_y(self) -> bool:
        """Whether rows can be learned from only with their targets."""
        return True

    def settled(self: S, kind: str) -> S:
        """Return a copy for parts of the rows: their targets are of the kind that all are of."""
        other: S = clone(self)
        if kind == "numbers" and other.loss == "auto":  # few of them may look like classes
            other.loss = "squared_error"
        return other

    def _takes_pairs(self, X: Any) -> bool:
        """Return whether rows given to `fit` are pairs of what `transform` takes."""
        return False

    def check(self) -> None:
        """Refuse unusable parameters, all at once."""
        params = self.get_params(deep=False)
        name, constraints = type(self).__name__, self._parameter_constraints
        found = [
            fault_of(name, k, v, constraints[k]) for k, v in params.items() if k in constraints
        ]
        faults = [fault for fault in found if fault is not None]
        scoring = params.get("scoring", "loss")
        if isinstance(scoring, str) and scoring not in ("loss", *get_scorer_names()):
            close = did_you_mean(scoring, ["loss", *get_scorer_names()])
            faults.append(
                f"{name}(scoring={scoring!r}): expected 'loss', a scorer of scikit-learn or a "
                f"callable.{close}"
            )
        if faults:
            raise InvalidParameterError("\n".join(faults))

    def deciding(self) -> dict[str, Any]:
        """Return the parameters that decide what is learned."""
        params = self.get_params(deep=False)
        kept = {k: v for k, v in params.items() if k not in self._changes_nothing}
        return {"strategy": type(self).__name__, **kept}

    def decides(self) -> dict[str, str]:
        """Return the parameters that decide what is learned, as text that can be compared."""
        return {name: _spelled(value) for name, value in self.deciding().items()}


def _spelled(value: Any) -> str:
    """Return a value's repr, and of a function its name, without places in memory."""
    name = getattr(value, "__qualname__", None)
    if name is not None:
        return f"{value.__module__}.{name}"
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(plain(value)))
