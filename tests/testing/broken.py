"""Embedders broken on purpose, one fault each: construction, state, parameters, processes.

Each stands with the checks that have to catch it; `broken_outputs.py` and `broken_targets.py` have
the rest.
"""

from __future__ import annotations

import copy
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from skembed.testing import LetterCountEmbedder
from skembed.testing._letters import read_texts
from tests.testing.embedders import CentredEmbedder, Letters


@dataclass(frozen=True)
class Fault:
    embedder: BaseEstimator
    caught_by: frozenset[str]
    only: bool = True  # no other check may fail
    time_limit: float = 60.0
    y: list | None = None


FAULTS: list[Fault] = []


def caught_by(*checks, **expectations):
    """Register the embedder that a class makes without parameters."""

    def register(kind):
        FAULTS.append(Fault(kind(), frozenset(checks), **expectations))
        return kind

    return register


@caught_by("check_init_only_assigns")
class KeepsMoreThanParameters(Letters):
    def __init__(self, alphabet="abcdef"):
        super().__init__(alphabet)
        self.n_letters = len(alphabet)


@caught_by("check_init_only_assigns")
class TakesAnyKeyword(Letters):
    def __init__(self, alphabet="abcdef", **ignored):
        super().__init__(alphabet)


@caught_by("check_init_only_assigns", "check_clone")
class ChangesParameterInInit(Letters):
    def __init__(self, alphabet="abcdef"):
        super().__init__(list(alphabet))


class HasSettingBesideParameters(Letters):
    pass


with_setting = HasSettingBesideParameters()
with_setting.prefix = "query: "
FAULTS.append(Fault(with_setting, frozenset({"check_clone"})))


@caught_by("check_clone_of_fitted")
class CloneKeepsWhatWasLearnt(CentredEmbedder):
    def __sklearn_clone__(self):
        return copy.copy(self)


@caught_by("check_tags")
class SaysRowsAreVectors(Letters):
    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags


@caught_by("check_parameters_untouched")
class AppendsToParameter(Letters):
    def __init__(self, alphabet="abcdef", stop_words=("the",)):
        super().__init__(alphabet)
        self.stop_words = stop_words

    def fit(self, X, y=None):
        if isinstance(self.stop_words, list):
            self.stop_words.append("a")
        return super().fit(X)


FAULTS[-1] = Fault(AppendsToParameter(stop_words=["the"]), FAULTS[-1].caught_by)


@caught_by("check_parameters_untouched")
class OverwritesParameter(Letters):
    def fit(self, X, y=None):
        self.alphabet = "".join(list(self.alphabet))
        return super().fit(X)


@caught_by(
    "check_fit_transform",
    "check_pipeline",
    "check_column_transformer",
)
class FitReturnsNothing(Letters):
    def fit(self, X, y=None):
        super().fit(X)


@caught_by("check_fit_transform", "check_column_transformer")
class FitTransformDiffers(Letters):
    def fit_transform(self, X, y=None):
        return self.fit(X).transform(X) + 1


@caught_by("check_pipeline")
class FitTakesNoTargets(Letters):
    def fit(self, X):
        return super().fit(X)


@caught_by("check_requires_fit", "check_set_params_without_refit")
class IsNotStatelessAsItSays(CentredEmbedder):
    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags


@caught_by("check_requires_fit")
class FailsUnfittedInItsOwnWay(CentredEmbedder):
    def transform(self, X):
        return self.count(X) - self.mean_


@caught_by("check_requires_fit")
class EmbedsUnfitted(CentredEmbedder):
    def transform(self, X):
        return self.count(X) - getattr(self, "mean_", 0)


@caught_by("check_refit")
class RemembersEarlierFits(CentredEmbedder):
    def fit(self, X, y=None):
        self.seen_ = [*getattr(self, "seen_", ()), *read_texts(X)]
        return super().fit(self.seen_)


@caught_by("check_refit_after_set_params")
class LoadsOnlyOnce(CentredEmbedder):
    def fit(self, X, y=None):
        self.letters_ = getattr(self, "letters_", self.alphabet)
        self.mean_ = self._count(X).mean(axis=0)
        return self

    def transform(self, X):
        if not hasattr(self, "mean_"):
            raise NotFittedError("call fit first")
        return self._count(X) - self.mean_

    def _count(self, X):
        return LetterCountEmbedder(self.letters_).transform(X)


@caught_by("check_set_params_without_refit")
class PrefersWhatItFitted(Letters):
    def fit(self, X, y=None):
        self.letters_ = self.alphabet
        return super().fit(X)

    def transform(self, X):
        return LetterCountEmbedder(getattr(self, "letters_", self.alphabet)).transform(X)


@caught_by("check_global_random_state")
class SeedsGlobalGenerator(Letters):
    def transform(self, X):
        np.random.seed(0)  # noqa: NPY002 (the fault)
        return self.count(X)


@caught_by("check_global_random_state")
class DrawsFromGlobalGenerator(Letters):
    def fit(self, X, y=None):
        random.random()
        return super().fit(X)


@caught_by("check_deepcopy")
class DeepCopiesUnfitted(CentredEmbedder):
    def __deepcopy__(self, memo):
        return type(self)(**self.get_params())


@caught_by("check_pickle", "check_deepcopy", "check_loky_worker")
class PicklesWithoutWhatWasLearnt(CentredEmbedder):
    def __getstate__(self):
        return {name: value for name, value in super().__getstate__().items() if name != "mean_"}


@caught_by("check_pickle", "check_pickle_forgets_rows")
class HoldsLambda(Letters):
    def fit(self, X, y=None):
        self.lower_ = lambda text: text.lower()
        return super().fit(X)


@caught_by("check_pickle_forgets_rows")
class KeepsEveryRow(Letters):
    def transform(self, X):
        out = self.count(X)
        self.rows_ = [*getattr(self, "rows_", ()), *X]
        return out


@caught_by("check_two_threads")
class SharesScratchBetweenThreads(Letters):
    def transform(self, X):
        self.scratch = X
        time.sleep(0.002)
        out = self.count(self.scratch)
        self.scratch = None
        return out


@caught_by("check_fork", "check_loky_worker")
class DependsOnProcess(Letters):
    def fit(self, X, y=None):
        self.process_ = os.getpid()
        return super().fit(X)

    def transform(self, X):
        is_elsewhere = getattr(self, "process_", os.getpid()) != os.getpid()
        return self.count(X) + np.float32(is_elsewhere)


@caught_by("check_loky_worker")
class KeepsStateInItsProcess(CentredEmbedder):
    means: ClassVar[dict[str, np.ndarray]] = {}

    def fit(self, X, y=None):
        super().fit(X)
        self.means[self.alphabet] = self.mean_
        self.mean_ = None
        return self

    def transform(self, X):
        if not hasattr(self, "mean_"):
            raise NotFittedError("call fit first")
        return self.count(X) - self.means[self.alphabet]


@caught_by("check_fork", time_limit=2.0)
class HangsInForkedProcess(Letters):
    # The pool's thread does not exist in a forked process, yet the pool believes that it does.
    pool: ClassVar[ThreadPoolExecutor] = ThreadPoolExecutor(1)

    def transform(self, X):
        return self.pool.submit(self.count, X).result()


_forked = []
os.register_at_fork(after_in_child=lambda: _forked.append(True))


@caught_by("check_fork")
class DiesInForkedProcess(Letters):
    def transform(self, X):
        if _forked:
            os._exit(3)
        return self.count(X)
