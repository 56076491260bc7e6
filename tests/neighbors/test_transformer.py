"""ANNTransformer gives the graph of KNeighborsTransformer, as far as its index finds it."""

import pickle
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.cluster import DBSCAN, HDBSCAN, SpectralClustering
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.manifold import TSNE, Isomap
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import (
    KNeighborsClassifier,
    KNeighborsRegressor,
    KNeighborsTransformer,
    LocalOutlierFactor,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

from skembed.exceptions import (
    InvalidParameterError,
    InvalidRowsError,
    MissingDependencyError,
)
from skembed.neighbors import ANNTransformer
from skembed.neighbors._search import Search

X = np.random.default_rng(0).normal(size=(400, 8))
BLOBS, CLASSES = make_blobs(200, 6, centers=3, cluster_std=3.5, random_state=0)
WAYS = pytest.mark.parametrize("exact_up_to", [10_000, 0], ids=["exact", "index"])


def ann(*args, **params):
    return ANNTransformer(*args, **{"random_state": 0, **params})


@parametrize_with_checks(
    [ann(), ann(metric="euclidean", exact_up_to=0)],
    expected_failed_checks=lambda estimator: (
        {"check_estimators_dtypes": "has a row of zeros, with which nothing has a cosine"}
        if estimator.metric == "cosine"
        else {}
    ),
)
def test_scikit_learns_checks_pass(estimator, check):
    check(estimator)


@WAYS
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mode", ["distance", "connectivity"])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_graph_is_that_of_scikit_learn(metric, mode, dtype, exact_up_to):
    ours = ann(5, metric=metric, mode=mode, exact_up_to=exact_up_to).fit(X[:300].astype(dtype))
    theirs = KNeighborsTransformer(n_neighbors=5, metric=metric, mode=mode)
    theirs.fit(X[:300].astype(dtype))
    for rows in (X[:300].astype(dtype), X[300:].astype(dtype)):
        graph, expected = ours.transform(rows), theirs.transform(rows)
        np.testing.assert_array_equal(graph.indices, expected.indices)
        np.testing.assert_array_equal(graph.indptr, expected.indptr)
        np.testing.assert_allclose(graph.data, expected.data, atol=1e-6)
        assert graph.dtype == expected.dtype
        assert graph.shape == expected.shape
    assert ours.get_feature_names_out()[-1] == "anntransformer299"


@WAYS
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_how_an_array_lies_in_memory_changes_nothing(dtype, exact_up_to):
    rows = X.astype(dtype)
    expected = ann(5, exact_up_to=exact_up_to).fit_transform(rows).toarray()
    spaced = np.repeat(np.repeat(rows, 2, axis=0), 2, axis=1)[::2, ::2]
    for other in (np.asfortranarray(rows), spaced, rows[::-1][::-1]):
        model = ann(5, exact_up_to=exact_up_to).fit(other)
        np.testing.assert_allclose(model.transform(rows).toarray(), expected, atol=1e-6)
        np.testing.assert_allclose(model.transform(other).toarray(), expected, atol=1e-6)


@WAYS
def test_a_row_comes_first_in_its_own_with_a_zero_that_is_explicit(exact_up_to):
    copies = np.repeat(X[:40], 10, axis=0)
    graph = ann(3, exact_up_to=exact_up_to).fit_transform(copies)
    rows = graph.indices.reshape(400, 4)
    np.testing.assert_array_equal(rows[:, 0], np.arange(400))
    np.testing.assert_array_equal(rows // 10, np.arange(400)[:, None] // 10 * [[1] * 4])
    assert graph.nnz == 1600
    assert not graph.data.any()
    assert all(len(set(row)) == 4 for row in rows.tolist())


@WAYS
def test_copies_are_neighbours_in_order_and_then_come_others(exact_up_to):
    copies = np.concatenate([X[:50], X[:50], X[:50]])
    model = ann(4, metric="euclidean", exact_up_to=exact_up_to).fit(copies)
    distances, rows = model.kneighbors(X[:50], 4)
    expected = np.sort(np.linalg.norm(X[:50, None] - copies[None], axis=-1), axis=1)[:, :4]
    np.testing.assert_allclose(distances, expected, atol=1e-12)
    np.testing.assert_array_equal(rows[:, :3], np.arange(50)[:, None] + [[0, 50, 100]])
    rows = model.kneighbors(n_neighbors=2, return_distance=False)
    assert set(rows[60]) == {10, 110}


@WAYS
def test_rows_of_one_direction_have_no_distance_by_cosine(exact_up_to):
    rays = np.concatenate([X[:100], 3 * X[:100], 1e-200 * X[:100]])
    distances = ann(2, exact_up_to=exact_up_to).fit(rays).kneighbors()[0]
    assert distances.max() < 1e-30


@WAYS
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_row_has_the_same_neighbours_alone_and_in_any_batch(metric, exact_up_to):
    model = ann(5, metric=metric, exact_up_to=exact_up_to).fit(X[:300])
    together = model.transform(X[300:]).toarray()
    alone = np.concatenate([model.transform(row[None]).toarray() for row in X[300:]])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(model.transform(X[:299:-1]).toarray(), together[::-1])


@WAYS
def test_what_is_pickled_and_what_is_cloned_gives_the_same(tmp_path, exact_up_to):
    model = ann(5, exact_up_to=exact_up_to).fit(X[:300])
    expected = model.transform(X[300:]).toarray()
    joblib.dump(model, tmp_path / "model.joblib")
    for other in (
        pickle.loads(pickle.dumps(model)),
        joblib.load(tmp_path / "model.joblib"),
        clone(model).fit(X[:300]),
        clone(model).set_params(n_jobs=2).fit(X[:300]),
    ):
        np.testing.assert_array_equal(other.transform(X[300:]).toarray(), expected)


def test_an_index_finds_more_of_the_true_neighbours_with_a_longer_search():
    rows = np.random.default_rng(1).normal(size=(1000, 32)).astype(np.float32)
    truth = ann(10).fit(rows).kneighbors(return_distance=False)
    model = ann(10, exact_up_to=0, n_links=4, ef_construction=20).fit(rows)
    assert not model.is_exact_

    def recall(ef_search):
        found = model.set_params(ef_search=ef_search).kneighbors(return_distance=False)
        return np.mean([len(set(a) & set(b)) for a, b in zip(found, truth, strict=True)]) / 10

    assert 0.3 < recall(1) < recall(100) < recall(800)
    assert recall(800) > 0.9


def test_small_distances_between_large_numbers_are_found():
    far = X * 1e-3 + 1e6
    gaps = np.linalg.norm(far[:, None] - far[None], axis=-1)
    truth = gaps.argsort(axis=1)[:, 1:6]
    for exact_up_to in (1000, 0):
        model = ann(5, metric="euclidean", exact_up_to=exact_up_to).fit(far)
        assert np.mean(model.kneighbors(return_distance=False) == truth) > 0.98


@pytest.mark.parametrize("n_rows", [1, 7])
def test_a_query_that_the_index_leads_nowhere_is_compared_with_all(monkeypatch, n_rows):
    class Lost:
        def __init__(self, index):
            self.index, self.n_lost = index, 0

        def query(self, vectors, **options):
            if (vectors[:, 0] > 0).any():
                self.n_lost += 1
                raise voyager.RecallError("Fewer than expected results were retrieved")
            return self.index.query(vectors, **options)

    voyager = pytest.importorskip("voyager")
    model = ann(5, metric="euclidean", exact_up_to=0).fit(X)
    queries = X[:n_rows] + 0.01
    expected = model.transform(queries).toarray()
    monkeypatch.setattr(model._search, "_index", Lost(model._search._index))
    np.testing.assert_array_equal(model.transform(queries).toarray(), expected)
    assert model._search._index.n_lost > 0


def test_a_row_that_the_index_misses_is_still_its_own_nearest(monkeypatch):
    search = ann(5, metric="euclidean").fit(X)._search
    true = search.nearest(X, 3, ef=64, n_threads=1)
    others = [each[:, 1:].copy() for each in true]
    monkeypatch.setattr(Search, "nearest", lambda self, *args, **options: others)
    numbers, distances = search.nearest_of_each(2, ef=64, n_threads=1)
    np.testing.assert_array_equal(numbers, true[0][:, :2])
    np.testing.assert_allclose(distances, true[1][:, :2])


@pytest.mark.parametrize(
    "user",
    [
        KNeighborsClassifier(5, metric="precomputed"),
        KNeighborsRegressor(5, metric="precomputed"),
        DBSCAN(eps=3.0, min_samples=4, metric="precomputed"),
        TSNE(metric="precomputed", perplexity=6, init="random", random_state=0, max_iter=250),
        Isomap(n_neighbors=19, metric="precomputed"),
        LocalOutlierFactor(19, metric="precomputed"),
        SpectralClustering(
            3, n_neighbors=19, affinity="precomputed_nearest_neighbors", random_state=0
        ),
    ],
    ids=lambda user: type(user).__name__,
)
def test_who_takes_a_precomputed_graph_finds_what_scikit_learns_gives(user):
    def result(graph):
        pipe = make_pipeline(graph, clone(user))
        if hasattr(user, "predict"):
            return pipe.fit(BLOBS[:150], CLASSES[:150]).predict(BLOBS[150:])
        return (pipe.fit_predict if hasattr(user, "fit_predict") else pipe.fit_transform)(BLOBS)

    ours = ann(19, metric="euclidean", exact_up_to=0)
    theirs = KNeighborsTransformer(n_neighbors=19, metric="euclidean")
    np.testing.assert_allclose(result(ours), result(theirs), atol=1e-4)


def test_hdbscan_takes_the_graph_made_symmetric():
    def clusters(graph):
        both = FunctionTransformer(lambda graph: graph.maximum(graph.T), accept_sparse=True)
        return make_pipeline(graph, both, HDBSCAN(metric="precomputed", copy=True))

    found = clusters(ann(19, metric="euclidean")).fit_predict(BLOBS)
    theirs = KNeighborsTransformer(n_neighbors=19, metric="euclidean")
    np.testing.assert_array_equal(found, clusters(theirs).fit_predict(BLOBS))


@pytest.fixture
def threads_kept():
    n_threads = torch.get_num_threads()  # numba sets them to the number of cores
    yield
    torch.set_num_threads(n_threads)


def test_umap_takes_the_neighbours_of_the_graph(threads_kept):
    umap = pytest.importorskip("umap")
    graph = ann(14, metric="euclidean").fit_transform(BLOBS)
    known = graph.indices.reshape(200, 15), graph.data.reshape(200, 15)
    settings = {"n_neighbors": 15, "random_state": 0, "n_jobs": 1, "transform_mode": "graph"}
    with pytest.warns(UserWarning, match="transforming new data with transform"):
        given = umap.UMAP(precomputed_knn=known, **settings).fit(BLOBS)
    expected = umap.UMAP(**settings).fit(BLOBS)
    np.testing.assert_allclose(given.graph_.toarray(), expected.graph_.toarray(), atol=1e-4)


def test_a_grid_search_tries_numbers_of_neighbours():
    pipe = make_pipeline(ann(20), KNeighborsClassifier(metric="precomputed"))
    grid = {"kneighborsclassifier__n_neighbors": [1, 5, 20]}
    assert GridSearchCV(pipe, grid, cv=3).fit(BLOBS, CLASSES).best_score_ > 0.8


def test_a_frame_with_an_odd_index_gives_names_and_rows_by_position():
    frame = pd.DataFrame(X[:9, :2], columns=["a", "b"], index=[*"zyxwvutsr"])
    model = ann(2).fit(frame)
    assert model.feature_names_in_.tolist() == ["a", "b"]
    assert (model.n_features_in_, model.n_samples_fit_, model.is_exact_) == (2, 9, True)
    frame.iloc[3] = 0
    frame.iloc[5, 0] = np.nan
    with pytest.raises(InvalidRowsError) as caught:
        model.transform(frame)
    assert caught.value.faults.keys() == {3, 5}
    assert "2 of 9 rows" in str(caught.value)
    assert "row 3 (index 'w'): all zeros, with which nothing has a cosine" in str(caught.value)
    assert "row 5 (index 'u'): NaN or inf" in str(caught.value)
    ann(2, metric="euclidean").fit(frame.fillna(0))


def test_what_does_not_fit_is_said():
    with pytest.raises(InvalidParameterError) as caught:
        ann(0, metric="cosin", mode="both", n_links=1).fit(X)
    for said in ("n_neighbors=0", "Did you mean 'cosine'", "mode='both'", "n_links=1"):
        assert said in str(caught.value)
    with pytest.raises(InvalidParameterError, match=r"at least 6 fitted rows.* got n_samples = 5"):
        ann(5).fit_transform(X[:5])
    model = ann(4).fit(X[:5])
    assert model.transform(X[:1]).nnz == 5
    with pytest.raises(InvalidParameterError, match=r"kneighbors.n_neighbors=0.: expected an int"):
        model.kneighbors(n_neighbors=0)
    with pytest.raises(InvalidParameterError, match="at least 6 fitted rows"):
        model.kneighbors(X[:1], 6)
    with pytest.raises(ValueError, match="X has 3 features, but ANNTransformer is expecting 8"):
        model.transform(X[:, :3])
    with pytest.raises(NotFittedError, match="not fitted yet"):
        ann().transform(X)


def test_without_voyager_the_line_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "voyager", None)
    ann().fit(X)
    with pytest.raises(MissingDependencyError, match=r"voyager.* pip install skembed\[ann\]"):
        ann(exact_up_to=10).fit(X)
