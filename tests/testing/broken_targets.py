"""Embedders broken on purpose, one fault each: what they make of targets."""

from __future__ import annotations

import numpy as np

from tests.testing.broken_outputs import FAULTS, caught_by
from tests.testing.embedders import TARGETS, GuidedEmbedder

__all__ = ["FAULTS"]  # those of all three files


@caught_by("check_targets_learned", y=TARGETS)
class LooksAwayFromTargets(GuidedEmbedder):
    def fit(self, X, y=None):
        self.read_targets(y, len(X))
        self.weights_ = np.float32(2.0)
        return self


@caught_by("check_targets_missing", y=TARGETS)
class MakesUpTargets(GuidedEmbedder):
    def fit(self, X, y=None):
        return super().fit(X, [len(X) // 2, *range(len(X) - 1)] if y is None else y)


@caught_by("check_targets_of_wrong_length", y=TARGETS)
class PadsTargets(GuidedEmbedder):
    def fit(self, X, y=None):
        is_short = isinstance(y, list) and len(y) < len(X)
        return super().fit(X, [*y, y[0]] if is_short else y)


@caught_by("check_targets_of_wrong_kind", y=TARGETS)
class SaysLittleOfTargets(GuidedEmbedder):
    def read_targets(self, y, n_rows):
        if y is not None and np.ndim(np.array(y, dtype=object)) != 1:
            raise ValueError("what is this?")
        return super().read_targets(y, n_rows)


@caught_by("check_targets_with_gaps", y=TARGETS)
class TakesGapsForAClass(GuidedEmbedder):
    def read_targets(self, y, n_rows):
        is_one_row_each = isinstance(y, list)
        return super().read_targets(list(map(str, y)) if is_one_row_each else y, n_rows)


@caught_by("check_target_names", y=TARGETS)
class HasAFavouriteName(GuidedEmbedder):
    def fit(self, X, y=None):
        super().fit(X, y)
        self.weights_ *= np.float32(1 + ("good" in list(y)))
        return self


@caught_by("check_one_class", "check_one_row_per_class", y=TARGETS)
class FailsOnFewOrMany(GuidedEmbedder):
    def read_targets(self, y, n_rows):
        labels = GuidedEmbedder.read_targets(self, y, n_rows) if n_rows > 1 else np.array(y)
        if len(set(labels)) == n_rows:
            raise RuntimeError("singular")
        return labels

    def fit(self, X, y=None):
        if y is not None and np.ndim(y) == 1 and len(y) == len(X) and len(set(y)) == 1:
            raise ValueError("singular")
        return super().fit(X, y)


@caught_by("check_targets_pickle", y=TARGETS)
class RoundsInPickles(GuidedEmbedder):
    def __getstate__(self):
        state = dict(super().__getstate__())
        if "weights_" in state:
            state["weights_"] = state["weights_"] + np.float32(1e-6)
        return state


@caught_by("check_tags", y=TARGETS)
class NeedsTargetsButNoFit(GuidedEmbedder):
    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags


FAULTS[-1] = type(FAULTS[-1])(FAULTS[-1].embedder, FAULTS[-1].caught_by, only=False, y=TARGETS)
