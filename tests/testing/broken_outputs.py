"""Embedders broken on purpose, one fault each: outputs, rows, containers, errors."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd

from skembed.testing._letters import read_texts
from tests.testing.broken import FAULTS, caught_by
from tests.testing.embedders import Letters

__all__ = ["FAULTS", "caught_by"]  # the faults of both files


@caught_by("check_output_format")
class ReturnsFlatArray(Letters):
    def transform(self, X):
        return self.count(X).sum(axis=1)


@caught_by("check_output_format")
class ReturnsList(Letters):
    def transform(self, X):
        return self.count(X).tolist()


@caught_by("check_output_format")
class ReturnsIntegers(Letters):
    def transform(self, X):
        return self.count(X).astype(int)


@caught_by("check_output_format")
class ReturnsSliceOfMore(Letters):
    def transform(self, X):
        return self.count(X)[:, ::2]

    def get_feature_names_out(self, input_features=None):
        return super().get_feature_names_out()[::2]


@caught_by("check_output_format")
class FailsToTransform(Letters):
    def transform(self, X):
        raise RuntimeError("no model")


@caught_by("check_output_finite", "check_pipeline")
class DividesByZero(Letters):
    def transform(self, X):
        out = self.count(X)
        with np.errstate(all="ignore"):
            return out / (out[:, :1] + out[:, 1:2])


@caught_by("check_output_deterministic", "check_order_invariance", only=False)
class IsRandom(Letters):
    def transform(self, X):
        out = self.count(X)
        return out + np.random.default_rng().normal(size=out.shape)


@caught_by("check_output_is_the_callers")
class ReturnsWhatItCaches(Letters):
    def transform(self, X):
        texts = tuple(read_texts(X))
        cache = self.__dict__.setdefault("cache", {})
        key = texts, self.alphabet
        if key not in cache:
            cache[key] = self.count(X)
        return cache[key]

    def __getstate__(self):
        return {name: value for name, value in super().__getstate__().items() if name != "cache"}


@caught_by("check_output_is_the_callers")
class ReturnsReadOnlyArray(Letters):
    def transform(self, X):
        out = self.count(X)
        out.flags.writeable = False
        return out


@caught_by("check_output_is_the_callers", "check_two_threads", only=False)
class ReusesItsBuffer(Letters):
    def transform(self, X):
        out = self.count(X)
        if not hasattr(self, "buffer_"):
            self.buffer_ = np.empty((1000, 100), dtype=out.dtype)
        self.buffer_[: len(out), : out.shape[1]] = out
        time.sleep(0.001)
        return self.buffer_[: len(out), : out.shape[1]]


@caught_by("check_feature_names_out", "check_set_output")
class NamesOneFeatureTooMany(Letters):
    def get_feature_names_out(self, input_features=None):
        return np.append(super().get_feature_names_out(), "more")


@caught_by("check_feature_names_out", "check_set_output")
class RepeatsFeatureNames(Letters):
    def get_feature_names_out(self, input_features=None):
        return np.array(["letter"] * len(self.alphabet), dtype=object)


@caught_by("check_set_output")
class LosesIndex(Letters, auto_wrap_output_keys=None):
    def set_output(self, *, transform=None):
        self.frame = transform
        return self

    def transform(self, X):
        out = self.count(list(X[X.columns[0]]) if hasattr(X, "columns") else X)
        return pd.DataFrame(out) if getattr(self, "frame", None) == "pandas" else out


@caught_by("check_rows_untouched")
class SortsRowsInPlace(Letters):
    def transform(self, X):
        out = self.count(X)
        if isinstance(X, list):
            X.sort()
        return out


@caught_by("check_order_invariance", "check_one_row", only=False)
class LosesOrder(Letters):
    def transform(self, X):
        return self.count(sorted(read_texts(X)))


@caught_by("check_order_invariance")
class KeepsOrderOfFirstBatch(Letters):
    """Sorts a full batch of six by length, and puts it back by the order of the fitted rows."""

    def fit(self, X, y=None):
        self.lengths_ = [len(text) for text in read_texts(X)]
        return self

    def transform(self, X):
        out = self.count(X)
        lengths = [len(text) for text in read_texts(X)]
        lengths_of_fit = getattr(self, "lengths_", lengths)
        is_same_batch = sorted(lengths) == sorted(lengths_of_fit)
        if not is_same_batch or lengths == lengths_of_fit:
            return out
        back = np.empty_like(out)
        back[np.argsort(lengths_of_fit, kind="stable")] = out[np.argsort(lengths, kind="stable")]
        return back


@caught_by("check_subset_invariance", "check_one_row", "check_neighbours", only=False)
class NormalisesByBatch(Letters):
    def transform(self, X):
        out = self.count(X)
        return out - out.mean(axis=0) if len(out) else out


@caught_by("check_neighbours", "check_one_row", only=False)
class PadsToLongest(Letters):
    def transform(self, X):
        longest = max(map(len, read_texts(X)), default=0)
        return self.count(X) + np.float32(longest)


@caught_by("check_neighbours")
class MixesPairs(Letters):
    def transform(self, X):
        out = self.count(X)
        return out + out[::-1] if len(out) == 2 else out


@caught_by("check_one_row")
class SqueezesOneRow(Letters):
    def transform(self, X):
        return self.count(X).squeeze()


@caught_by("check_zero_rows")
class StacksNothing(Letters):
    def transform(self, X):
        return np.stack([self.count([x])[0] for x in read_texts(X)])


@caught_by("check_duplicate_rows")
class DropsDuplicates(Letters):
    def transform(self, X):
        return self.count(list(dict.fromkeys(read_texts(X))))


@caught_by("check_batch_size")
class ForgetsLastBatch(Letters):
    def __init__(self, alphabet="abcdef", batch_size="auto"):
        super().__init__(alphabet)
        self.batch_size = batch_size

    def transform(self, X):
        out = self.count(X)
        if self.batch_size != "auto":
            out[len(out) // self.batch_size * self.batch_size :] = 0
        return out


@caught_by("check_containers", "check_column_transformer", "check_set_output")
class ReadsSeriesByLabel(Letters):
    def transform(self, X):
        if isinstance(X, pd.DataFrame):
            X = X.iloc[:, 0]
        if isinstance(X, pd.Series):
            X = [X[row] for row in range(len(X))]
        return self.count(X)


@caught_by(
    "check_containers",
    "check_column_transformer",
    "check_set_output",
    "check_zero_rows",
)
class ReadsListsOnly(Letters):
    def transform(self, X):
        if not isinstance(X, list):
            raise TypeError("expected a list")
        return self.count(X)


@caught_by("check_containers")
class KnowsNoPolars(Letters):
    def transform(self, X):
        if type(X).__module__.startswith("polars"):
            raise TypeError("expected a list, array or pandas Series")
        return self.count(X)


@caught_by("check_single_row_refused")
class SpellsBareString(Letters):
    def transform(self, X):
        return self.count(list(X) if isinstance(X, str) else X)


@caught_by("check_single_row_refused")
class RefusesWithoutWord(Letters):
    def transform(self, X):
        if isinstance(X, str):
            raise ValueError("bad input")
        return self.count(X)


@caught_by("check_bad_rows_named")
class NamesNoBadRow(Letters):
    def transform(self, X):
        if isinstance(X, list) and not all(isinstance(text, str) for text in X):
            raise ValueError("expected texts")
        return self.count(X)


@caught_by("check_bad_rows_named")
class NamesFirstBadRowOnly(Letters):
    def transform(self, X):
        for row, text in enumerate(X if isinstance(X, list) else ()):
            if not isinstance(text, str):
                raise ValueError(f"row {row} is no text")
        return self.count(X)


@caught_by("check_bad_rows_named", "check_usable_after_error")
class EmbedsBadRows(Letters):
    def transform(self, X):
        return self.count(list(map(str, X)) if isinstance(X, list) else X)


@caught_by("check_usable_after_error")
class IsLeftHalfway(Letters):
    def transform(self, X):
        try:
            return self.count(X) + getattr(self, "halfway", 0)
        except (TypeError, ValueError):
            self.halfway = 1
            raise
