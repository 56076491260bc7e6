"""Rows held out of training, and by what epochs are compared on them.

Knows targets and scorers, not rows or models.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import get_scorer
from sklearn.model_selection import train_test_split

from skembed.exceptions import InvalidParameterError
from skembed.training._targets import Targets

__all__ = ["scorer_of", "split"]

_SHARE, _LEAST = 0.1, 20
"""What "auto" holds out, and how few rows are too few to tell epochs apart."""


def split(
    targets: Targets, fraction: float | str | None, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows to train on and those held out, as many of each class if there are any."""
    rows = np.arange(len(targets.values))
    if fraction == "auto":
        fraction = _SHARE if round(_SHARE * len(rows)) >= _LEAST else None
    n_held_out = round(float(fraction or 0) * len(rows))
    strata = targets.values if targets.kind == "classes" else None
    if strata is not None:
        _, counts = np.unique(strata, return_counts=True)
        if n_held_out < len(counts) or len(rows) - n_held_out < len(counts) or counts.min() < 2:
            n_held_out = 0
    if not n_held_out or n_held_out >= len(rows):
        return rows, rows[:0]
    train, held_out = train_test_split(
        rows, test_size=n_held_out, random_state=seed % (1 << 32), stratify=strata
    )
    return np.sort(train), np.sort(held_out)


def scorer_of(scoring: Any) -> Any:
    """Return a scorer of scikit-learn; None for the loss."""
    if scoring == "loss":
        return None
    try:
        return get_scorer(scoring) if isinstance(scoring, str) else scoring
    except ValueError as error:
        raise InvalidParameterError(f"training__scoring={scoring!r}: {error}") from None
