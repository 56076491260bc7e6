"""Training inside scikit-learn: pipelines, searches, routing, parameters of parameters."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import FeatureUnion, make_pipeline

from skembed import Contrastive, FineTune, TextEmbedder, _base
from skembed.exceptions import (
    InvalidParameterError,
    InvalidRowsWarning,
    SkembedError,
    TrainingError,
    TrainingWarning,
    TruncatedRowsError,
)
from skembed.testing import embedder_checks
from tests.text.checkpoints import write_checkpoint

PETS = ["a cat", "a kitten", "a dog", "a puppy"]
MONEY = ["a bill", "a tax return", "a fee", "a fine"]
X, Y = (PETS + MONEY) * 2, (["pet"] * 4 + ["money"] * 4) * 2
WEIGHTS = np.linspace(0, 3, 16)
HEAD = FineTune("head", n_epochs=2, learning_rate=0.01, validation_fraction=None)
METHODS = ["head", "lora", "full"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return write_checkpoint(tmp_path_factory.mktemp("model") / "bert")


def embedder_of(folder, training=HEAD, **params):
    training = None if training is None else clone(training)
    return TextEmbedder(folder, training=training, dtype="float32", **params)


def pipe_of(folder, training=HEAD):
    return make_pipeline(embedder_of(folder, training), LogisticRegression())


# The common checks ---------------------------------------------------------------------------

ROWS = ["one row", "two rows", "many more rows than two", "x", "a kernel", "a metric space"]


NAMES = [name for name, _ in embedder_checks(TextEmbedder(), ROWS)]
OF_STATE = [
    *(name for name in NAMES if "target" in name or "pickle" in name),
    *("check_clone_of_fitted", "check_fit_transform", "check_refit", "check_requires_fit"),
    *("check_one_row", "check_one_class", "check_one_row_per_class", "check_fork", "check_tags"),
]
TRAININGS = {
    "head": (FineTune("head"), NAMES),
    "lora": (FineTune("lora"), OF_STATE),
    "full": (FineTune("full"), OF_STATE),
    "contrastive": (Contrastive("labels", method="head"), OF_STATE),
}


@pytest.mark.parametrize(
    ("way", "name"), [(way, name) for way, (_, names) in TRAININGS.items() for name in names]
)
def test_trained_embedders_keep_the_common_contract(folder, way, name):
    training = clone(TRAININGS[way][0]).set_params(n_epochs=1, learning_rate=0.01)
    checks = embedder_checks(
        embedder_of(folder, training, on_truncate="ignore"),
        ROWS,
        y=["good", "bad"] * 3,
        set_params={"training__n_epochs": 2},
        bad_rows=[3.5, b"bytes", None],
    )
    dict(checks)[name]()


# Where estimators stand ----------------------------------------------------------------------


def test_a_pipeline_is_cross_validated_without_what_it_learned_before(folder):
    pipe = pipe_of(folder).fit(X, Y)
    before = pipe[0].trained_.digest
    assert np.isfinite(cross_val_score(pipe, X, Y, cv=2, error_score="raise")).all()
    assert pipe[0].trained_.digest == before


def test_a_search_compares_trainings_with_none(folder):
    trainings = [None, FineTune("head", n_epochs=1), FineTune("lora", n_epochs=1)]
    search = GridSearchCV(
        pipe_of(folder), {"textembedder__training": trainings}, cv=2, error_score="raise"
    ).fit(X, Y)
    assert search.cv_results_["params"] == [{"textembedder__training": t} for t in trainings]
    best = search.best_estimator_[0]
    assert hasattr(best, "trained_") == (best.training is not None)


def test_a_search_in_workers_finds_what_one_process_finds(folder):
    grid = {"textembedder__training__learning_rate": [1e-3, 0.1]}
    options = {"cv": 2, "error_score": "raise", "scoring": "neg_log_loss"}
    alone = GridSearchCV(pipe_of(folder), grid, **options).fit(X, Y)
    shared = GridSearchCV(pipe_of(folder), grid, n_jobs=2, **options).fit(X, Y)
    found, wanted = (s.cv_results_["mean_test_score"] for s in (shared, alone))
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    assert abs(wanted[0] - wanted[1]) > 1e-3
    assert shared.best_estimator_[0].trained_.digest == alone.best_estimator_[0].trained_.digest


def test_a_column_transformer_hands_targets_on(folder):
    frame = pd.DataFrame({"text": X, "n": 1.0}, index=range(16, 0, -1))
    columns = ColumnTransformer(
        [("text", embedder_of(folder), "text"), ("rest", "passthrough", ["n"])]
    )
    found = columns.fit_transform(frame, Y)
    alone = embedder_of(folder).fit(X, Y).transform(X)
    np.testing.assert_allclose(found[:, :-1], alone, atol=1e-6)


def test_a_union_sets_trained_vectors_beside_frozen_ones(folder):
    union = FeatureUnion([("trained", embedder_of(folder)), ("frozen", embedder_of(folder, None))])
    found = union.fit_transform(X, Y)
    width = found.shape[1] // 2
    np.testing.assert_allclose(
        found[:, width:], embedder_of(folder, None).fit_transform(X), atol=1e-6
    )
    assert np.abs(found[:, :width] - found[:, width:]).max() > 1e-3


# Weights of rows -----------------------------------------------------------------------------


@pytest.fixture
def weighted(folder):
    """The digest of what rows of different weight teach."""
    found = embedder_of(folder).fit(X, Y, sample_weight=WEIGHTS).trained_.digest
    assert found != embedder_of(folder).fit(X, Y).trained_.digest
    return found


def test_weights_are_given_to_a_step_by_name(folder, weighted):
    pipe = pipe_of(folder).fit(X, Y, textembedder__sample_weight=WEIGHTS)
    assert pipe[0].trained_.digest == weighted


def test_weights_are_routed_through_pipelines_and_searches(folder, weighted):
    with sklearn.config_context(enable_metadata_routing=True):
        embedder = embedder_of(folder).set_fit_request(sample_weight=True)
        last = LogisticRegression()
        last.set_fit_request(sample_weight=False)
        pipe = make_pipeline(embedder, last)
        assert clone(pipe).fit(X, Y, sample_weight=WEIGHTS)[0].trained_.digest == weighted
        scorer = get_scorer("accuracy").set_score_request(sample_weight=True)
        grid = {"logisticregression__C": [1.0]}
        search = GridSearchCV(pipe, grid, cv=2, scoring=scorer, error_score="raise")
        search.fit(X, Y, sample_weight=WEIGHTS)
        assert search.best_estimator_[0].trained_.digest == weighted


def test_a_frozen_embedder_ignores_targets_and_weights(folder):
    frozen = embedder_of(folder, None).fit(X, ["odd", None], sample_weight=[1])
    assert not hasattr(frozen, "trained_")


# Parameters of parameters --------------------------------------------------------------------


def test_parameters_of_the_training_are_the_embedders():
    embedder = TextEmbedder(training=FineTune("lora"))
    assert embedder.get_params()["training__lora_rank"] == 8
    copied = clone(embedder).set_params(training__lora_rank=4, training__method="full")
    assert (copied.training.lora_rank, copied.training.method) == (4, "full")
    assert (embedder.training.lora_rank, embedder.training.method) == (8, "lora")


def test_a_repr_says_what_was_set():
    embedder = TextEmbedder(training=FineTune("lora", n_epochs=5))
    assert repr(embedder) == "TextEmbedder(training=FineTune(method='lora', n_epochs=5))"
    shown = make_pipeline(embedder, LogisticRegression())._repr_html_()
    assert "FineTune(method=" in shown


def test_unusable_parameters_are_named_all_at_once_before_a_row_is_read(monkeypatch):
    read = []
    monkeypatch.setattr(_base.BaseEmbedder, "_checked", lambda self, X: read.append(X))
    training = FineTune("heat", n_epochs=0, learning_rate=-1, scoring="acuracy", cross_fit=1)
    with pytest.raises(InvalidParameterError, match="FineTune") as caught:
        TextEmbedder(training=training, pooling="maen").fit(X, Y)
    for name in (
        "pooling='maen'",
        "method='heat'",
        "n_epochs=0",
        "learning_rate=-1",
        "cross_fit=1",
    ):
        assert name in str(caught.value)
    assert "Did you mean 'head'?" in str(caught.value)
    assert "Did you mean 'accuracy'?" in str(caught.value)
    assert not read


@pytest.mark.parametrize(
    ("training", "message"),
    [
        (
            "head",
            r"training='head'\): expected a FineTune, a Contrastive, a WordWeights or None"
            r".*FineTune\('head'",
        ),
        (FineTune, r"<class FineTune>.* This is a class: give an object of it, as FineTune\(\)"),
        (
            LogisticRegression(),
            r"<LogisticRegression>\): expected a FineTune, a Contrastive, a WordWeights or None",
        ),
    ],
)
def test_a_training_that_is_none_is_refused(training, message):
    with pytest.raises(InvalidParameterError, match=message):
        TextEmbedder(training=training).fit(X, Y)


def test_parameters_of_no_training_are_refused_in_words():
    with pytest.raises(InvalidParameterError, match="has training=None, which has no parameters"):
        TextEmbedder().set_params(training__learning_rate=0.1)
    grid = {"training": [None, HEAD], "training__learning_rate": [0.1]}
    with pytest.raises(InvalidParameterError, match="in a search, put None into a grid of its own"):
        GridSearchCV(TextEmbedder(), grid, scoring=lambda *_: 0.0).fit(X, Y)


def test_a_training_and_its_parameters_are_set_together():
    embedder = TextEmbedder().set_params(training__learning_rate=0.1, training=FineTune("head"))
    assert repr(embedder.training) == "FineTune(learning_rate=0.1, method='head')"
    with pytest.raises(ValueError, match="Invalid parameter 'poolin'"):
        embedder.set_params(poolin="cls")


def test_an_error_of_training_does_not_show_the_library_from_within(folder):
    with pytest.raises(SkembedError, match="target y is None") as caught:
        embedder_of(folder).fit(X)
    assert not any("training" in str(entry.path) for entry in caught.traceback[1:])


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"scoring": "accuracy"}, "scoring='accuracy'"),
        ({"patience": 1}, "patience=1"),
        ({"scoring": "accuracy", "patience": 1, "validation_fraction": 0.01}, "scoring=.* and pat"),
    ],
)
def test_epochs_that_are_to_be_compared_on_no_rows_are_a_warning(folder, options, names):
    training = FineTune("head", n_epochs=1, **options)
    with pytest.warns(TrainingWarning, match=f"{names}.* changed nothing: .* none of so few rows"):
        embedder_of(folder, training, cache=None).fit(X, Y)


@pytest.mark.parametrize("share", [0.5, None])
def test_epochs_that_are_compared_or_need_not_be_are_none(folder, share):
    training = FineTune("head", n_epochs=1, scoring="r2", patience=1, validation_fraction=share)
    embedder_of(folder, training).fit(X, np.arange(16) / 7)


def test_bad_rows_that_are_not_learned_from_are_named_by_fit(folder):
    some, good = embedder_of(folder, on_error="nan"), embedder_of(folder).fit(X, Y)
    rows = pd.Series([*X, None], index=range(1, 18))
    message = r"1 of 17 rows were not learned from:\s+row 16 \(index 17\): missing"
    with pytest.warns(InvalidRowsWarning, match=message):
        some.fit(rows, [*Y, None])
    assert some.trained_.digest == good.trained_.digest
    with pytest.warns(InvalidRowsWarning, match="not learned from"):
        some.partial_fit(rows, [*Y, None])


def test_pairs_that_are_not_learned_from_are_named_by_fit(folder):
    some = embedder_of(folder, Contrastive(method="head", n_epochs=1), on_error="nan")
    with pytest.warns(
        InvalidRowsWarning, match=r"1 of 9 pairs .*\s+row 8: second of the pair: mis"
    ):
        some.fit([*pairwise(X[:9]), ("a cat", None)])


@pytest.mark.parametrize("training", [FineTune("head"), Contrastive(method="head")])
def test_notebooks_show_a_training_and_an_embedder_that_has_one(training):
    # scikit-learn reads the docstring for it, and fails where a section comes twice.
    for shown in (training, TextEmbedder(training=training)):
        assert "learning_rate" in shown._repr_html_()


def test_a_misspelt_parameter_is_refused_by_name():
    with pytest.raises(ValueError, match="Invalid parameter 'learning_rat' for estimator FineTune"):
        TextEmbedder(training=FineTune()).set_params(training__learning_rat=0.1)


# What training never does --------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_training_that_makes_held_out_rows_worse_leaves_the_published_weights(folder, method):
    # Targets by chance, and steps that break the model: no epoch is better than none.
    y = np.random.default_rng(0).permutation(Y)
    training = FineTune(method, learning_rate=30.0, n_epochs=2, validation_fraction=0.5)
    rows = [f"{text} {i}" for i, text in enumerate(X)]
    embedder = embedder_of(folder, training).fit(rows, y)
    score = embedder.history_["score"]
    assert len(score) == 3
    assert score[0] > max(score[1:])
    frozen = embedder_of(folder, None).fit_transform(rows)
    np.testing.assert_allclose(embedder.transform(rows), frozen, atol=1e-5)


def test_epochs_that_all_score_minus_infinity_leave_the_published_weights(folder):
    training = FineTune("head", scoring=worthless, n_epochs=2, validation_fraction=0.25)
    embedder = embedder_of(folder, training).fit(X, Y)
    frozen = embedder_of(folder, None).fit_transform(X)
    np.testing.assert_allclose(embedder.transform(X), frozen, atol=1e-5)


def worthless(classifier, vectors, y):
    return -np.inf


@pytest.mark.parametrize("method", ["head", "full"])
def test_texts_that_are_not_to_be_cut_are_not_learned_from_either(folder, method):
    rows = ["a metric space " * 100, *X[1:]]
    embedder = embedder_of(folder, FineTune(method), on_truncate="raise")
    with pytest.raises(TruncatedRowsError, match=r"row 0: \d+ tokens"):
        embedder.fit(rows, Y)


def test_a_loss_that_is_no_number_names_the_batch_and_loses_nothing(folder):
    embedder = embedder_of(folder).fit(X, Y)
    before, vectors = embedder.trained_.digest, embedder.transform(X)
    rows = pd.Series(X, index=[f"id{i}" for i in range(16)])
    embedder.set_params(training__learning_rate=1e38, training__batch_size=2)
    with pytest.raises(
        TrainingError, match=r"loss is (nan|inf).*rows? \d+ \(index 'id\d+'\)"
    ) as caught:
        embedder.fit(rows, Y)
    assert "learning rate" in str(caught.value)
    assert embedder.trained_.digest == before
    assert not hasattr(embedder, "encoder_")
    embedder.set_params(training__learning_rate=HEAD.learning_rate, training__batch_size="auto")
    np.testing.assert_array_equal(embedder.transform(X), vectors)


@pytest.mark.parametrize("method", METHODS)
def test_weights_that_the_last_step_has_broken_are_not_kept(folder, method):
    training = FineTune(method, learning_rate=1e38, n_epochs=1, warmup=0, validation_fraction=None)
    with pytest.raises(TrainingError, match=r"not finite after 1 steps. .*rate \(now 1e\+38"):
        embedder_of(folder, training).fit(X, Y)


def test_numbers_in_the_millions_train_as_small_ones_do(folder):
    y = np.sqrt([len(text) for text in X])
    training = FineTune("head", n_epochs=30, learning_rate=0.003, validation_fraction=None)
    small = embedder_of(folder, training).fit(X, y)
    large = embedder_of(folder, training).fit(X, y * 2**20)
    assert small.history_["loss"][-1] < small.history_["loss"][1]
    assert large.trained_.digest == small.trained_.digest
