"""Fits that fail, parameters that change, parts that go on."""

import copy
import pickle

import numpy as np
import pytest
from sklearn.decomposition import TruncatedSVD
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline

from skembed import FineTune, SelfSupervised, TabularEmbedder
from skembed.exceptions import InvalidParameterError, TrainingWarning
from tests.tabular.houses import FEW, N, frame, labels


def test_a_fit_that_fails_leaves_nothing_to_transform_with():
    X = frame()
    embedder = TabularEmbedder(training=FineTune(**FEW))
    with pytest.raises(ValueError, match="one target for each of 80 rows, got 3"):
        embedder.fit(X, [0, 1, 0])
    with pytest.raises(NotFittedError):
        embedder.transform(X)
    assert not hasattr(embedder, "columns_")


@pytest.mark.parametrize("is_auto", [True, False])
def test_a_fit_that_fails_takes_nothing_from_the_one_before(is_auto):
    X = frame()
    training = "auto" if is_auto else SelfSupervised(**FEW)
    embedder = TabularEmbedder(n_components=8, training=training).fit(X, labels(X))
    vectors, columns = embedder.transform(X), embedder.columns_
    for bad, y in (
        (X.assign(price=X["price"].where(X.index != 7, np.inf)), labels(X)),
        (X.drop(columns="city"), [0]),
        (X.iloc[:30], [0]),
    ):
        with pytest.raises(ValueError, match="rows"):
            embedder.fit(bad, y)
        np.testing.assert_array_equal(embedder.transform(X), vectors)
        assert embedder.columns_ == columns
        assert embedder.n_features_in_ == 5


@pytest.mark.parametrize("is_rare", [False, True])
def test_few_distinct_rows_and_rare_classes_need_no_folds(is_rare):
    X = frame() if is_rare else frame()[["city"]]
    y = ["a"] * (N - 1) + ["b"] if is_rare else labels(frame())
    with pytest.warns(TrainingWarning, match="too few distinct rows"):
        vectors = TabularEmbedder(n_components=4).fit_transform(X, y)
    assert np.isfinite(vectors).all()


@pytest.mark.parametrize("is_pickled", [False, True])
def test_another_training_or_text_asks_for_another_fit(is_pickled):
    X = frame().assign(title=[f"a {i} of {i * 7}" for i in range(N)])
    fitted = TabularEmbedder(training=FineTune(**FEW)).fit(X, labels(X))
    fitted.transform(X)
    for changes in (
        {"training": SelfSupervised(**FEW)},
        {"training": "auto"},
        {"training__n_epochs": 4},
        {"text": make_pipeline(TfidfVectorizer(), TruncatedSVD(2))},
        {"columns": {"rooms": "number"}},
    ):
        changed = copy.deepcopy(fitted).set_params(**changes)
        changed = pickle.loads(pickle.dumps(changed)) if is_pickled else changed
        with pytest.raises(NotFittedError, match=r"fitted with other parameters: .* Fit again"):
            changed.transform(X)


def test_training_goes_on_with_the_same_columns_alone():
    X = frame()
    training = FineTune(n_epochs=2, warm_start=True)
    embedder = (
        TabularEmbedder(n_components=8, training=training).fit(X, labels(X)).fit(X, labels(X))
    )
    for changes in ({"columns": {"rooms": "drop"}}, {"n_components": 4}):
        (name,) = changes
        with pytest.raises(InvalidParameterError, match=rf"cannot go on .*{name} was"):
            copy.deepcopy(embedder).set_params(**changes).fit(X, labels(X))


def test_labels_that_come_in_small_parts_are_learned_from():
    X = frame()
    embedder = TabularEmbedder(n_components=8)
    for start in (0, 40):
        embedder.partial_fit(X[start : start + 40], labels(X)[start : start + 40])
    assert embedder.trained_.made_with["training__strategy"] == "'FineTune'"


@pytest.mark.parametrize("method", ["head", "lora"])
def test_less_than_all_weights_can_be_learned(method):
    X = frame()
    embedder = TabularEmbedder(n_components=8, training=FineTune(method, **FEW))
    assert np.isfinite(embedder.fit(X, labels(X)).transform(X)).all()
    assert embedder.trained_.method == method


def test_members_that_share_weights_have_no_lora():
    X = frame()
    with pytest.raises(InvalidParameterError, match="'tabm' share their weights"):
        TabularEmbedder("tabm", training=FineTune("lora")).fit(X, labels(X))
