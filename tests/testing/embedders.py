"""Small embedders that are right, and the rows that they and the broken ones embed."""

from __future__ import annotations

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import NotFittedError

from skembed.testing import LetterCountEmbedder

ROWS = ["Bee", "a sea foam", "deed", "easy does it, easy goes it", "off", "deaf bead"]
BAD_ROWS = [3.5, b"bytes", None]
TARGETS = ["good", "bad"] * 3
NEW_PARAMS = {"alphabet": "ebx"}


class Letters(LetterCountEmbedder):
    """Letter counts, for embedders that change them."""

    def count(self, X):
        # `super().transform(X)` in a subclass is a frame already where `set_output` asks for one.
        return LetterCountEmbedder.transform.__wrapped__(self, X)


class CentredEmbedder(Letters):
    """Letter counts less their mean over the rows of `fit`: state that `fit` learns."""

    def fit(self, X, y=None):
        self.mean_ = self.count(X).mean(axis=0)
        return self

    def transform(self, X):
        if not hasattr(self, "mean_"):
            raise NotFittedError("This CentredEmbedder is not fitted; call fit first.")
        return self.count(X) - self.mean_

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = True
        return tags


class GuidedEmbedder(Letters):
    """Letter counts, each weighted by how far classes differ in it: learned from targets."""

    def fit(self, X, y=None):
        counts = self.count(X)
        labels = self.read_targets(y, len(counts))
        means = [counts[labels == label].mean(axis=0) for label in np.unique(labels)]
        self.weights_ = np.std(means, axis=0).astype(np.float32)
        return self

    def read_targets(self, y, n_rows):
        if y is None or np.ndim(np.array(y, dtype=object)) != 1:
            raise ValueError("expected y with a label per row")
        labels = list(y)
        if len(labels) != n_rows:
            raise ValueError(f"expected y with {n_rows} labels, got {len(labels)}")
        if gaps := [row for row, label in enumerate(labels) if label is None or label != label]:
            raise ValueError(f"expected labels, got none in rows {gaps}")
        if len(set(labels)) < 2:
            raise ValueError("expected labels of two classes, got one")
        return np.array(labels)

    def transform(self, X):
        if not hasattr(self, "weights_"):
            raise NotFittedError("This GuidedEmbedder is not fitted; call fit first.")
        return self.count(X) * self.weights_

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = tags.target_tags.required = True
        return tags


class WaveEmbedder(TransformerMixin, BaseEstimator):
    """Mean and deviation of waveforms of any length, some rows at a time."""

    def __init__(self, scale=1.0, batch_size="auto"):
        self.scale = scale
        self.batch_size = batch_size

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        if not hasattr(X, "__len__"):
            raise TypeError(f"expected a collection of waveforms, got {X!r}")
        waves = list(X)
        if bad := [row for row, wave in enumerate(waves) if not isinstance(wave, np.ndarray)]:
            raise ValueError(f"expected 1-D arrays, got others in rows {bad}")
        step = max(len(waves), 1) if self.batch_size == "auto" else self.batch_size
        out = np.empty((len(waves), 2), dtype=np.float64)
        for start in range(0, len(waves), step):
            for row, wave in enumerate(waves[start : start + step], start):
                out[row] = self.scale * wave.mean(), self.scale * wave.std()
        return out

    def get_feature_names_out(self, input_features=None):
        return np.array(["mean", "deviation"], dtype=object)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.two_d_array = False
        return tags
