"""What each strategy checks and minimises, and the folds that it is trained without.

Knows strategies, rows and targets, not how they are learned from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skembed._inputs import CheckedRows, take
from skembed.engine import BackboneEncoder
from skembed.exceptions import InvalidInputError, InvalidParameterError
from skembed.training._cells import check_rows_alone, make_self_supervised
from skembed.training._contrast import check_contrast, make_contrast
from skembed.training._contrastive import Contrastive
from skembed.training._examples import equal_rows
from skembed.training._fine_tune import FineTune
from skembed.training._in_context import InContext
from skembed.training._objective import Objective
from skembed.training._self_supervised import SelfSupervised
from skembed.training._strategy import Strategy
from skembed.training._supervised import check_labels, make_supervised
from skembed.training._targets import Targets, check_targets
from skembed.training._validation import find_folds, without_advice

__all__ = ["OBJECTIVES", "can_be_folded", "check_folds", "check_targets_of", "folds_of"]


def _check_context(
    strategy: InContext, y: Any, rows: CheckedRows, owner: str, sample_weight: Any
) -> Targets:
    """Check what is kept beside good rows."""
    if y is None:
        return Targets("views", np.arange(len(rows.items)), np.ones(len(rows.items), np.float32))
    return check_targets(y, rows, owner, loss=strategy.loss, has_steps=False)


_CHECKS: dict[type[Strategy], Callable[..., Targets]] = {
    FineTune: check_labels,
    Contrastive: check_contrast,
    SelfSupervised: check_rows_alone,
    InContext: _check_context,
}

OBJECTIVES: dict[type[Strategy], Callable[..., Objective]] = {
    FineTune: make_supervised,
    Contrastive: make_contrast,
    SelfSupervised: make_self_supervised,
}
"""What makes the objective of a strategy that trains."""


def check_targets_of(
    strategy: Strategy, y: Any, rows: CheckedRows, name: str, sample_weight: Any = None, **step: Any
) -> Targets:
    """Check and encode what good rows are to be told by; messages call who needs it `name`."""
    return _CHECKS[type(strategy)](strategy, y, rows, name, sample_weight, **step)


def folds_of(
    strategy: Strategy, encoder: BackboneEncoder, rows: CheckedRows, targets: Targets
) -> NDArray[np.int64]:
    """Return the fold of each good row, for `cross_fit`."""
    assert strategy.cross_fit is not None
    keys = equal_rows(encoder, rows.items)
    return find_folds(keys, targets, strategy.cross_fit, strategy.random_state or 0)


def can_be_folded(
    strategy: Strategy, encoder: BackboneEncoder, rows: CheckedRows, y: Any, name: str
) -> bool:
    """Return whether there are enough rows to train without those of each fold."""
    try:
        with without_advice():
            targets = check_targets_of(strategy, y, rows, name)
    except (InvalidInputError, InvalidParameterError):
        return True  # it says itself what is wrong
    try:
        folds = folds_of(strategy, encoder, rows, targets)
        check_folds(folds, strategy.settled(targets.kind), y, rows, name)
    except InvalidParameterError:
        return False
    return True


def check_folds(
    folds: NDArray[np.int64], strategy: Strategy, y: Any, rows: CheckedRows, *given: Any
) -> None:
    """Refuse folds without which too little is left to learn from, before hours of training."""
    for fold in range(folds.max() + 1):
        others = np.flatnonzero(folds != fold)
        try:
            with without_advice():
                check_targets_of(strategy, y, take(rows, others), *given)
        except (InvalidInputError, InvalidParameterError) as error:
            raise InvalidParameterError(
                f"training__cross_fit={strategy.cross_fit}: {len(folds):,} rows are too few. One "
                f"of the folds leaves {len(others):,} to learn from, which are refused:\n{error}\n"
                "Give more rows, or set cross_fit to None or to another number of folds."
            ) from None
