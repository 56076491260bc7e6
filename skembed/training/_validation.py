"""Rows held out of training, and by what epochs are compared on them.

Knows targets and scorers, not rows or models.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import get_scorer
from sklearn.model_selection import KFold, StratifiedKFold, train_test_split

from skembed.exceptions import InvalidParameterError
from skembed.training._targets import Targets

__all__ = ["find_folds", "score_by", "scorer_of", "split", "without_advice"]

_SHARE, _LEAST = 0.1, 20
"""What "auto" holds out, and how few rows are too few to tell epochs apart."""


def split(
    targets: Targets, fraction: float | str | None, seed: int, keys: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows to train on and those held out, as many of each class if there are any.

    They may be pairs; those of equal keys, (n,) or (n * sides,), stay together.
    """
    table = keys.reshape(len(targets.values), -1)
    _, first, group = np.unique(table, axis=0, return_index=True, return_inverse=True)
    rows, group = np.sort(first), group.reshape(-1)
    if fraction == "auto":
        fraction = _SHARE if round(_SHARE * len(rows)) >= _LEAST else None
    n_held_out = round(float(fraction or 0) * len(rows))
    strata = targets.values[rows] if targets.kind == "classes" else None
    if strata is not None:
        _, counts = np.unique(strata, return_counts=True)
        if n_held_out < len(counts) or len(rows) - n_held_out < len(counts) or counts.min() < 2:
            n_held_out = 0
    if not n_held_out or n_held_out >= len(rows):
        return np.arange(len(group)), rows[:0]
    _, held_out = train_test_split(
        rows, test_size=n_held_out, random_state=seed % (1 << 32), stratify=strata
    )
    is_held_out = np.isin(group, group[held_out])
    return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)


def find_folds(
    keys: NDArray[np.int64], targets: Targets, n_folds: int, seed: int
) -> NDArray[np.int64]:
    """Return the fold of each row: rows of one key share one, classes are spread over all.

    Of equal rows with several classes, the first says which it is.
    """
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    if len(first) < n_folds:
        raise InvalidParameterError(
            f"training__cross_fit={n_folds}: expected at least as many distinct rows, got "
            f"{len(first):,}."
        )
    splitter: Any = KFold
    values = np.zeros(len(first), dtype=np.int64)
    if targets.classes is not None:
        values = targets.values[first]
        counts = np.bincount(values)
        if counts.max() >= n_folds:  # else each row may go anywhere
            splitter = StratifiedKFold
        if np.sum(counts > 0) == 2 and counts[counts > 0].min() < 2:
            rare = targets.classes.tolist()[int(np.flatnonzero(counts == 1)[0])]
            raise InvalidParameterError(
                f"training__cross_fit={n_folds}: expected at least two distinct rows of each "
                f"class, got one of {rare!r}: without it, a fold's model has one class only."
            )
    folds = np.empty(len(first), dtype=np.int64)
    split = splitter(n_folds, shuffle=True, random_state=seed % (1 << 32))
    with without_advice():  # that some folds lack rare classes
        for fold, (_, held_out) in enumerate(split.split(values, values)):
            folds[held_out] = fold
    return folds[inverse]


def scorer_of(scoring: Any) -> Any:
    """Return a scorer of scikit-learn; None for the loss."""
    if scoring == "loss":
        return None
    return get_scorer(scoring) if isinstance(scoring, str) else scoring


def score_by(scorer: Any, estimator: Any, vectors: NDArray[np.float32], y: NDArray[Any]) -> float:
    """Return what a scorer says of held-out rows, or refuse a scorer that cannot say it."""
    try:
        score = float(scorer(estimator, vectors, y))
    except (TypeError, ValueError) as error:
        raise InvalidParameterError(
            f"training__scoring: the scorer fails on {len(y):,} held-out rows: {error}"
        ) from error
    if math.isnan(score):
        raise InvalidParameterError(
            f"training__scoring: the scorer gives NaN on {len(y):,} held-out rows. Hold out more "
            "(training__validation_fraction), or take another scorer."
        )
    return score


@contextmanager
def without_advice() -> Iterator[None]:
    """Keep scikit-learn's advice on fits that are not the user's: more steps, fewer classes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
