"""Tables in, vectors out: containers, columns, labels, and what scikit-learn asks for."""

import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, make_friedman1
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from skembed import FineTune, SelfSupervised, TabularEmbedder, unload_models
from skembed.exceptions import (
    InvalidParameterError,
    InvalidRowsError,
    InvalidRowsWarning,
    UnsupportedModelError,
)
from skembed.testing import check_embedder
from tests.tabular.houses import FEW, frame, labels


@pytest.fixture
def fitted():
    return TabularEmbedder(n_components=8, training=SelfSupervised(**FEW)).fit(frame())


# scikit-learn ---------------------------------------------------------------------------------


@parametrize_with_checks(
    [
        TabularEmbedder(),
        TabularEmbedder("tabm", n_components=8, training=FineTune(n_epochs=2)),
        TabularEmbedder("ft_transformer", training=SelfSupervised("denoise", n_epochs=2)),
    ]
)
def test_scikit_learn(estimator, check):
    check(estimator)


def test_scikit_learns_check_that_waits_for_a_variable_of_the_environment():
    code = """
from sklearn.utils.estimator_checks import estimator_checks_generator
from skembed import SelfSupervised, TabularEmbedder

embedder = TabularEmbedder(training=SelfSupervised(n_epochs=1))
checks = [c for _, c in estimator_checks_generator(embedder) if "array_api" in c.func.__name__]
assert checks
for check in checks:
    check(embedder)
"""
    environment = {**os.environ, "SCIPY_ARRAY_API": "1"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@pytest.mark.parametrize("training", [FineTune(**FEW), SelfSupervised(**FEW)], ids=["y", "alone"])
def test_what_scikit_learn_leaves_out(training):
    rows = frame(12).drop(columns="rooms")
    rows.index = rows.index * 3 + 5
    y = [0, 1] * 6 if isinstance(training, FineTune) else None
    embedder = TabularEmbedder(n_components=8, training=training)
    check_embedder(embedder, rows, y=y, set_params={"n_components": 4})


def test_an_embedder_has_no_vectors_before_it_is_fitted():
    with pytest.raises(NotFittedError, match="not fitted yet; call fit"):
        TabularEmbedder().transform(frame())
    with pytest.raises(NotFittedError, match="has not seen rows yet; call fit first"):
        TabularEmbedder().get_feature_names_out()
    assert not hasattr(clone(TabularEmbedder().set_params(n_components=4)), "trained_")


def test_a_search_chooses_among_trainings_and_networks():
    X = frame()
    pipe = make_pipeline(TabularEmbedder(n_components=8), LogisticRegression())
    grid = {
        "tabularembedder__training": [SelfSupervised(**FEW), FineTune(**FEW, cross_fit=2)],
        "tabularembedder__model": ["mlp", "resnet"],
    }
    search = GridSearchCV(pipe, grid, cv=2).fit(X, labels(X))
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert len(set(search.cv_results_["mean_test_score"])) > 1


def test_names_of_columns_are_looked_after_as_scikit_learn_does(fitted):
    X = frame()
    assert fitted.n_features_in_ == 5
    assert fitted.feature_names_in_.tolist() == list(X)
    assert fitted.get_feature_names_out()[:2].tolist() == ["tabularembedder0", "tabularembedder1"]
    for bad in (X.drop(columns="city"), X.assign(more=1), X[list(X)[::-1]]):
        with pytest.raises(ValueError, match="feature names should match"):
            fitted.transform(bad)


def test_frames_come_out_if_asked_for():
    X = frame()
    X.index = X.index[::-1] * 2
    embedder = TabularEmbedder(n_components=4, training=SelfSupervised(**FEW))
    vectors = embedder.set_output(transform="pandas").fit_transform(X)
    assert vectors.index.equals(X.index)
    assert list(vectors) == [f"tabularembedder{i}" for i in range(4)]


# Rows -----------------------------------------------------------------------------------------


def test_equal_tables_have_equal_vectors_in_any_container():
    X = frame().drop(columns="day")
    parts = []
    for make in (
        *(lambda each: each, pl.from_pandas, pa.Table.from_pandas),
        lambda each: each.to_numpy(dtype=object),
    ):
        embedder = TabularEmbedder(n_components=8, training=SelfSupervised(**FEW))
        parts.append(embedder.fit_transform(make(X)))
    for part in parts[1:]:
        np.testing.assert_array_equal(part, parts[0])


def test_a_sparse_matrix_is_its_dense_one():
    X = np.random.default_rng(0).random((40, 6)) * (np.random.default_rng(1).random((40, 6)) < 0.4)
    embedder = TabularEmbedder(n_components=4, training=SelfSupervised(**FEW))
    np.testing.assert_array_equal(
        clone(embedder).fit_transform(sparse.csr_matrix(X)), embedder.fit_transform(X)
    )


def test_categories_mean_the_same_whatever_their_codes():
    X = frame().astype({"city": "category"})
    embedder = TabularEmbedder(n_components=8, training=SelfSupervised(**FEW)).fit(X)
    turned = X.assign(city=X["city"].cat.reorder_categories(["Rome", "Oslo", "Bern"]))
    assert (turned["city"].cat.codes != X["city"].cat.codes).any()
    np.testing.assert_array_equal(embedder.transform(turned), embedder.transform(X))


def test_a_rows_vector_does_not_depend_on_its_neighbours(fitted):
    X = frame(30, seed=1)
    whole = fitted.transform(X)
    order = np.random.default_rng(0).permutation(30)
    np.testing.assert_allclose(fitted.transform(X.iloc[order]), whole[order], atol=1e-5)
    alone = np.concatenate([fitted.transform(X.iloc[[i]]) for i in range(30)])
    np.testing.assert_allclose(alone, whole, atol=1e-5)


def test_no_rows_have_no_vectors(fitted):
    assert fitted.transform(frame().iloc[:0]).shape == (0, 8)


def test_new_categories_and_missing_values_have_vectors(fitted):
    X = frame(4).assign(city="Paris", price=np.nan)
    assert np.isfinite(fitted.transform(X)).all()


def test_infinite_numbers_are_named_by_row_and_column(fitted):
    X = frame(6)
    X.index = list("abcdef")
    X.loc["c", "price"] = np.inf
    with pytest.raises(InvalidRowsError, match=r"(?s)1 of 6 rows.*'c'.*column 'price': inf"):
        fitted.transform(X)
    fitted.set_params(on_error="nan")
    with pytest.warns(InvalidRowsWarning, match="column 'price': inf"):
        vectors = fitted.transform(X)
    assert np.isnan(vectors[2]).all()
    assert np.isfinite(np.delete(vectors, 2, axis=0)).all()
    assert list(fitted.report_.faults) == [2]


# Columns --------------------------------------------------------------------------------------


def test_columns_say_what_they_were_taken_for_and_can_be_told():
    X = frame()
    embedder = TabularEmbedder(training=SelfSupervised(**FEW)).fit(X)
    kinds = {name: column.kind for name, column in embedder.columns_.items()}
    assert kinds == {
        "price": "number",
        "city": "category",
        "is_new": "boolean",
        "day": "date",
        "rooms": "category",
    }
    told = TabularEmbedder(
        columns={"rooms": "number", "city": "drop"}, training=SelfSupervised(**FEW)
    )
    told.fit(X)
    assert told.columns_["rooms"].kind == "number"
    assert told.columns_["rooms"].why == "given"
    assert told.columns_["city"].kind == "drop"


def test_columns_that_do_not_exist_are_refused_together_with_kinds():
    embedder = TabularEmbedder(columns={"roms": "number", "city": "categorie"})
    with pytest.raises(InvalidParameterError, match=r"(?s)'roms'.*rooms.*'categorie'.*category"):
        embedder.fit(frame())


def test_a_table_of_constants_is_refused():
    with pytest.raises(InvalidRowsError, match="nothing to learn"):
        TabularEmbedder().fit(pd.DataFrame({"a": [1.0] * 9, "b": ["x"] * 9}))


# What is learned ------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["mlp", "resnet", "ft_transformer", "tabm"])
def test_labels_that_no_line_can_tell_are_learned(model):
    X, X_test = frame(400), frame(200, seed=1)
    embedder = TabularEmbedder(model, training=FineTune(n_epochs=30)).fit(X, labels(X))
    head = LogisticRegression(max_iter=1000).fit(embedder.transform(X), labels(X))
    assert head.score(embedder.transform(X_test), labels(X_test)) > 0.95


def test_amounts_are_learned():
    X, y = make_friedman1(600, n_features=5, random_state=0)
    pipe = make_pipeline(TabularEmbedder(training=FineTune(n_epochs=40)), Ridge())
    assert cross_val_score(pipe, X, y, cv=3).mean() > 0.85
    assert cross_val_score(make_pipeline(StandardScaler(), Ridge()), X, y, cv=3).mean() < 0.75


def test_folds_learn_the_kind_of_targets_that_all_rows_have(monkeypatch):
    kinds, fit = [], TabularEmbedder._fit_trained

    def look(self, *args, **step):
        rows = fit(self, *args, **step)
        kinds.append(self.trained_.kind)
        return rows

    monkeypatch.setattr(TabularEmbedder, "_fit_trained", look)
    y = np.r_[np.repeat(np.arange(20.0), 10), 20.0, np.zeros(9)]  # 21 numbers, one of them once
    training = FineTune(n_epochs=1, cross_fit=5)
    TabularEmbedder(n_components=4, training=training).fit_transform(frame(210), y)
    assert kinds == ["numbers"] * 6


def test_vectors_in_fit_have_not_seen_their_labels():
    # Labels of noise: a classifier that had seen them would tell them all.
    X = frame(200)
    y = np.random.default_rng(0).integers(0, 2, 200)
    embedder = TabularEmbedder(training=FineTune(cross_fit=5, validation_fraction=None))
    vectors = embedder.fit_transform(X, y)
    head = LogisticRegression(max_iter=1000)
    assert cross_val_score(head, vectors, y, cv=5).mean() < 0.65
    assert head.fit(embedder.transform(X), y).score(embedder.transform(X), y) > 0.8


def test_training_from_random_weights_stops_when_nothing_gets_better():
    X = frame(250)
    y = np.random.default_rng(0).integers(0, 2, 250)  # nothing can be learned
    embedder = TabularEmbedder(training=FineTune(n_epochs=40), n_components=8).fit(X, y)
    history = embedder.history_
    assert history["epoch"][-1] == np.argmax(history["score"]) + 16 < 40
    embedder.set_params(training__patience=None).fit(X, y)
    assert embedder.history_["epoch"][-1] == 40


@pytest.mark.parametrize(("least", "n_threads"), [(5e8, 1), (1.0, 2)])
def test_small_steps_are_computed_by_one_thread(monkeypatch, least, n_threads):
    from skembed.training import _learn, _loop

    seen, step = set(), _loop.Loop._step

    def look(loop, *args):
        seen.add(torch.get_num_threads())
        return step(loop, *args)

    monkeypatch.setattr(_loop.Loop, "_step", look)
    monkeypatch.setattr(_learn, "_FLOPS_FOR_THREADS", least)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        TabularEmbedder(n_components=4, training=SelfSupervised(**FEW), cache=None).fit(frame())
        assert (seen, torch.get_num_threads()) == ({n_threads}, 2)
    finally:
        torch.set_num_threads(before)


def test_labels_are_used_if_there_are_enough_of_them():
    X = frame()
    assert TabularEmbedder().fit(X).trained_.made_with["training__strategy"] == "'SelfSupervised'"
    y = labels(X)
    few = TabularEmbedder().fit(X.iloc[:20], y[:20])
    assert few.trained_.made_with["training__strategy"] == "'SelfSupervised'"
    many = TabularEmbedder().fit(X, y)
    assert many.trained_.made_with["training__strategy"] == "'FineTune'"


def test_rows_alone_teach_what_goes_together():
    X, y = load_breast_cancer(return_X_y=True)
    embedder = TabularEmbedder(training=SelfSupervised(n_epochs=20)).fit(X)
    history = embedder.history_["score"]
    assert max(history[1:]) > history[0] + 0.2
    head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    assert cross_val_score(head, embedder.transform(X), y, cv=5).mean() > 0.93


@pytest.mark.parametrize("training", [FineTune(**FEW), SelfSupervised("contrast", **FEW)])
def test_fits_and_pickles_give_the_same_vectors_bit_by_bit(training):
    X = frame()
    y = labels(X)
    embedder = TabularEmbedder(n_components=8, training=training, cache=None)
    vectors = embedder.fit(X, y).transform(X)
    np.testing.assert_array_equal(clone(embedder).fit(X, y).transform(X), vectors)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(embedder)).transform(X), vectors)
    other = clone(embedder).set_params(random_state=1).fit(X, y)
    assert np.abs(other.transform(X) - vectors).max() > 0.01


def test_parameters_that_have_changed_ask_for_another_fit(fitted):
    for changes in ({"model": "resnet"}, {"n_components": 4}, {"random_state": 3}):
        with pytest.raises(NotFittedError, match=r"fitted with other parameters: .* Fit again"):
            clone(fitted).fit(frame()).set_params(**changes).transform(frame())


def test_tables_larger_than_memory_are_learned_in_parts():
    X = frame(200)
    y = labels(X)
    embedder = TabularEmbedder(n_components=8, training=FineTune())
    for start in range(0, 200, 50):
        part = slice(start, start + 50)
        embedder.partial_fit(X.iloc[part], y[part], classes=["no", "yes"])
    assert embedder.history_["epoch"] == [0, 1, 2, 3, 4]
    first = TabularEmbedder(n_components=8, training=FineTune()).partial_fit(X.iloc[:50], y[:50])
    assert first.columns_ == embedder.columns_
    with pytest.raises(ValueError, match="feature names should match"):
        embedder.partial_fit(X.drop(columns="city"), y)


def test_the_same_training_is_done_once_in_a_search(monkeypatch):
    from skembed.training import _loop

    runs, run = [], _loop.Loop.run
    monkeypatch.setattr(_loop.Loop, "run", lambda loop: (runs.append(1), run(loop))[1])
    X = frame(90, seed=7)
    pipe = make_pipeline(
        TabularEmbedder(n_components=8, training=FineTune(**FEW)), LogisticRegression()
    )
    GridSearchCV(pipe, {"logisticregression__C": [0.1, 1, 10]}, cv=3, refit=False).fit(X, labels(X))
    assert len(runs) == 3


def test_a_network_for_tables_is_not_exported(fitted, tmp_path):
    with pytest.raises(UnsupportedModelError, match="Pickle the embedder"):
        pickle.loads(pickle.dumps(fitted)).export(tmp_path / "new")


@pytest.mark.parametrize("training", [FineTune(n_epochs=5), SelfSupervised(n_epochs=5)])
def test_a_training_learns_the_same_beside_threads_that_load_models(fitted, training):
    is_done, saved = threading.Event(), pickle.dumps(fitted)

    def load_models():
        while not is_done.is_set():
            unload_models()
            pickle.loads(saved).transform(X[:9])

    def fit():
        embedder = TabularEmbedder("resnet", training=training, cache=None)
        return embedder.fit(X, y).transform(X)

    X = frame(300)
    y = labels(X) if isinstance(training, FineTune) else None
    alone = fit()
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(load_models)
        beside = [fit() for _ in range(2)]
        is_done.set()
        loading.result()
    for vectors in beside:
        np.testing.assert_array_equal(vectors, alone)


@pytest.mark.parametrize("kind", [FineTune, SelfSupervised])
def test_random_states_may_be_numbers_of_numpy(kind):
    X = frame()
    y = labels(X) if kind is FineTune else None
    given, plain = (
        TabularEmbedder(training=kind(n_epochs=1, random_state=seed), cache=None).fit(X, y)
        for seed in (np.int64(3), 3)
    )
    np.testing.assert_array_equal(given.transform(X), plain.transform(X))
