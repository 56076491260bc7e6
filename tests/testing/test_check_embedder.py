"""The checks pass what is right, and catch and name what is broken."""

from __future__ import annotations

import doctest
import pickle
from unittest import SkipTest

import numpy as np
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import SkipTestWarning
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from skembed.exceptions import InvalidInputError, InvalidParameterError, SkembedError
from skembed.testing import (
    EmbedderCheckError,
    LetterCountEmbedder,
    _check_embedder,
    _letters,
    check_embedder,
    embedder_checks,
)
from tests.testing.broken_targets import FAULTS
from tests.testing.embedders import (
    BAD_ROWS,
    NEW_PARAMS,
    ROWS,
    TARGETS,
    CentredEmbedder,
    GuidedEmbedder,
    WaveEmbedder,
)

NAMES = [name for name, _ in embedder_checks(LetterCountEmbedder(), ROWS)]


@pytest.fixture(autouse=True)
def _numpy_settings_are_put_back():
    with np.errstate():
        yield


OF_TARGETS = {name for name in NAMES if "target" in name or name.startswith("check_one_")}
OF_TARGETS -= {"check_one_row"}


@pytest.mark.parametrize(
    ("embedder", "y", "skipped"),
    [
        (LetterCountEmbedder(), None, OF_TARGETS),
        (CentredEmbedder(), None, {*OF_TARGETS, "check_set_params_without_refit"}),
        (GuidedEmbedder(), TARGETS, {"check_set_params_without_refit"}),
    ],
    ids=["letter counts", "centred", "guided"],
)
def test_a_right_text_embedder_passes_every_check(embedder, y, skipped):
    results = check_embedder(embedder, ROWS, y=y, set_params=NEW_PARAMS, bad_rows=BAD_ROWS)
    assert set(results.skipped) == {*skipped, "check_batch_size"}
    assert [name for name in NAMES if name not in results.skipped] == list(results.passed)


def test_a_right_embedder_of_arrays_passes_every_check():
    rng = np.random.default_rng(0)
    waves = [rng.normal(size=n_samples) for n_samples in (5, 5, 40, 9, 200, 1)]
    results = check_embedder(
        WaveEmbedder(), waves, set_params={"scale": 2.0}, bad_rows=[None, "text"]
    )
    assert set(results.skipped) == OF_TARGETS


def test_a_transformer_of_tables_passes_what_applies():
    X = np.random.default_rng(0).normal(size=(8, 3))
    results = check_embedder(
        StandardScaler(), X, set_params={"with_std": False}, skip=["check_zero_rows"]
    )
    assert "check_order_invariance" in results.passed
    assert results.skipped["check_zero_rows"] == "left out by the caller"
    assert results.skipped["check_containers"] == "the rows are a table"


@pytest.mark.parametrize("fault", FAULTS, ids=[type(fault.embedder).__name__ for fault in FAULTS])
def test_a_broken_embedder_is_caught_by_the_checks_of_its_fault(fault):
    with pytest.raises(EmbedderCheckError, match="failed") as caught:
        check_embedder(
            fault.embedder,
            ROWS,
            y=fault.y,
            set_params=NEW_PARAMS,
            bad_rows=BAD_ROWS,
            time_limit=fault.time_limit,
        )
    failed = set(caught.value.failures)
    assert failed >= fault.caught_by, str(caught.value)
    if fault.only:
        assert failed == fault.caught_by, str(caught.value)
    assert all(name in str(caught.value) for name in failed)


def test_every_check_is_seen_to_fail():
    assert set().union(*(fault.caught_by for fault in FAULTS)) == set(NAMES)


def test_all_failures_are_listed_with_expected_and_got():
    class TwiceBroken(LetterCountEmbedder):
        def transform(self, X):
            return (
                super().transform(X).squeeze() if len(X) == 1 else super().transform(list(set(X)))
            )

    with pytest.raises(
        EmbedderCheckError, match=r"^TwiceBroken failed \d+ of \d+ checks:"
    ) as caught:
        check_embedder(TwiceBroken(), ROWS, skip=[n for n in NAMES if "row" not in n])
    assert {"check_one_row", "check_duplicate_rows"} <= set(caught.value.failures)
    assert "check_one_row: a row alone gives the vector that it has among others.\n" in str(
        caught.value
    )
    assert "expected an array of shape (1, 26), got ndarray of shape (26,)" in str(caught.value)


def test_an_unexpected_error_is_reported_with_its_place():
    class Failing(LetterCountEmbedder):
        def transform(self, X):
            raise RuntimeError("no model")

    check = dict(embedder_checks(Failing(), ROWS))["check_output_format"]
    with pytest.raises(
        EmbedderCheckError, match=r"RuntimeError\(.no model.\) \(.*test_check_embedder"
    ):
        check()


def test_the_error_is_an_assertion_of_the_package_and_can_be_pickled():
    error = EmbedderCheckError("Broken() failed:", {"check_one_row": "expected this, got that"})
    assert isinstance(error, AssertionError)
    assert isinstance(error, SkembedError)
    copied = pickle.loads(pickle.dumps(error))
    assert str(copied) == str(error)
    assert copied.failures == error.failures


@pytest.mark.parametrize(
    ("name", "check"), embedder_checks(WaveEmbedder(), [np.ones(n) * n for n in range(1, 6)])
)
def test_the_checks_can_be_parametrized(name, check):
    if name in {
        "check_refit_after_set_params",
        "check_set_params_without_refit",
        "check_bad_rows_named",
        *OF_TARGETS,
    }:
        with pytest.raises(SkipTest, match=r"given|needs no targets"):
            check()
    else:
        check()


def test_names_are_those_of_the_checks_without_repeats():
    assert len(set(NAMES)) == len(NAMES) >= 30
    assert all(name.startswith("check_") for name in NAMES)


def test_the_embedder_and_the_rows_handed_in_are_left_as_they_were():
    embedder, rows = CentredEmbedder(), list(ROWS)
    before = dict(vars(embedder))
    check_embedder(embedder, rows)
    assert vars(embedder) == before
    assert rows == ROWS


def test_targets_are_handed_to_fit():
    class TargetEmbedder(LetterCountEmbedder):
        def fit(self, X, y):
            self.classes_ = np.unique(y)
            return self

    # A class that is defined in a function cannot be pickled.
    skip = ["check_pickle", "check_pickle_forgets_rows"]
    results = check_embedder(TargetEmbedder(), ROWS, y=["good", "bad"] * 3, skip=skip)
    assert {"check_pipeline", "check_column_transformer", "check_refit"} <= set(results.passed)
    check = dict(embedder_checks(TargetEmbedder(), ROWS))["check_output_format"]
    with pytest.raises(EmbedderCheckError, match="missing 1 required positional argument: 'y'"):
        check()


def test_bad_arguments_are_refused_all_at_once():
    with pytest.raises(InvalidInputError, match="Expected rows to be a list of rows, got str"):
        check_embedder(LetterCountEmbedder(), "text")
    with pytest.raises(
        InvalidParameterError, match=r"at least 4 rows, got 2; .*length 2, got 1; .*typo"
    ):
        check_embedder(LetterCountEmbedder(), ["a", "b"], y=[1], skip=["check_typo"])


def test_targets_that_the_tags_ask_for_are_missed():
    with pytest.raises(InvalidParameterError, match="expected y, since the embedder's tags say"):
        check_embedder(GuidedEmbedder(), ROWS)


def test_tolerance_is_the_callers():
    class Noisy(LetterCountEmbedder):
        def transform(self, X):
            out = super().transform(X)
            return out + np.float32(1e-3) * len(out)

    check = dict(embedder_checks(Noisy(), ROWS, atol=0.1))["check_one_row"]
    check()
    check = dict(embedder_checks(Noisy(), ROWS))["check_one_row"]
    with pytest.raises(EmbedderCheckError, match=r"in row 0, feature \d+, expected .* got"):
        check()


class _ForgetsAlmostEverything(TransformerMixin, BaseEstimator):
    """Loses order, needs company, and is random: nothing that a pipeline could use."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        noise = np.random.default_rng().normal(size=(len(X), 2))
        return np.sort(noise + np.array([[len(text)] for text in X]), axis=0)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags


def test_scikit_learn_finds_nothing_wrong_with_an_embedder_that_these_checks_refuse():
    embedder = _ForgetsAlmostEverything()
    with pytest.warns(SkipTestWarning, match="Can't test estimator"):
        results = check_estimator(embedder)
    assert {result["status"] for result in results} == {"passed"}
    with pytest.raises(EmbedderCheckError, match="check_output_deterministic") as caught:
        check_embedder(embedder, ROWS)
    assert len(caught.value.failures) > 10


@pytest.mark.parametrize("module", [_check_embedder, _letters], ids=lambda module: module.__name__)
def test_the_examples_in_the_docstrings_run(module):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0
