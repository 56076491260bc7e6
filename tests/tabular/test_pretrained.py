"""Pretrained models of tables: TabICL's architecture with random weights, beside its own code."""

import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from tabicl._model.tabicl import TabICL

from skembed import FineTune, InContext, TabularEmbedder, TextEmbedder, TrainingCurveDisplay
from skembed.exceptions import (
    InvalidParameterError,
    InvalidTargetsError,
    ModelNotFoundError,
    TrainingWarning,
    UnsafeModelError,
    UnsupportedModelError,
)
from skembed.testing import check_embedder

SMALL = {
    "embed_dim": 16,
    "col_num_blocks": 2,
    "col_nhead": 2,
    "col_num_inds": 8,
    "row_num_blocks": 2,
    "row_nhead": 2,
    "row_num_cls": 2,
    "icl_num_blocks": 1,
    "icl_nhead": 2,
    "zero_init": False,
    "row_rope_interleaved": False,
}
# As their checkpoints say: of the second paper for classes and for numbers, and of the first.
CONFIGS = {
    "classes": {**SMALL, "max_classes": 10},
    "numbers": {**SMALL, "max_classes": 0, "num_quantiles": 9},
    "views": {**SMALL, "col_target_aware": False, "col_affine": True, "col_feature_group": False},
}
N, D = 40, 5


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Write a checkpoint for each kind of targets, and return their paths."""
    folder, found = tmp_path_factory.mktemp("tabicl"), {}
    for kind, config in CONFIGS.items():
        torch.manual_seed(0)
        model = TabICL(**config)
        found[kind] = str(folder / f"{kind}.ckpt")
        torch.save({"config": config, "state_dict": model.state_dict()}, found[kind])
    return found


def rows(n=N, seed=0):
    return np.random.default_rng(seed).normal(size=(n, D))


def targets(kind, X):
    signal = X[:, 0] + X[:, 1]
    return {"classes": signal > 0, "numbers": signal, "views": None}[kind]


@pytest.mark.parametrize("kind", CONFIGS)
def test_vectors_are_what_the_model_makes_of_rows_before_it_predicts(paths, kind):
    X, X_new = rows(), rows(7, seed=1)
    y = targets(kind, X)
    embedder = TabularEmbedder(paths[kind]).fit(X, y)
    context, new = (
        torch.from_numpy(embedder._table.transform(each)[0].arrays["numbers"])
        for each in (X, X_new)
    )
    mean, scale = context.mean(0), context.std(0, correction=0)
    table = ((torch.cat([context, new]) - mean) / scale)[None]
    told = torch.zeros(N) if y is None else torch.from_numpy(np.asarray(y, dtype=np.float32))
    if kind == "numbers":
        told = (told - told.mean()) / told.std(correction=0)
    model = TabICL(**CONFIGS[kind])
    model.load_state_dict(torch.load(paths[kind], weights_only=True)["state_dict"])
    model.train()  # without the library's batches and casts; there is no dropout
    with torch.no_grad():
        found = model.row_interactor(model.col_embedder(table, y_train=told[None]))
    vectors = embedder.transform(X_new)
    assert vectors.shape == (7, 32)
    assert embedder.n_features_out_ == 32
    np.testing.assert_allclose(vectors, found[0, N:].numpy(), atol=2e-5)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_rows_vector_does_not_depend_on_its_neighbours(paths, kind):
    X, X_new = rows(), rows(9, seed=1)
    embedder = TabularEmbedder(paths[kind]).fit(X, targets(kind, X))
    whole = embedder.transform(X_new)
    alone = np.concatenate([embedder.transform(X_new[[i]]) for i in range(9)])
    np.testing.assert_allclose(alone, whole, atol=1e-5)
    np.testing.assert_allclose(embedder.transform(X_new[::-1]), whole[::-1], atol=1e-5)
    again = pickle.loads(pickle.dumps(embedder)).transform(X_new)
    np.testing.assert_allclose(again, whole, atol=1e-6)
    np.testing.assert_allclose(clone(embedder).fit(X, targets(kind, X)).transform(X_new), whole)


def test_rows_of_fit_are_embedded_beside_others_where_there_are_labels(paths):
    X = rows(100)
    y = targets("classes", X)
    embedder = TabularEmbedder(paths["classes"])
    own = embedder.fit_transform(X, y)
    seen = embedder.transform(X)
    assert np.abs(own - seen).max() > 1e-4
    whole = TabularEmbedder(paths["classes"], training=InContext(cross_fit=None))
    np.testing.assert_allclose(whole.fit_transform(X, y), seen, atol=1e-5)
    for training in ("auto", InContext()):
        views = TabularEmbedder(paths["views"], training=training)
        np.testing.assert_allclose(views.fit_transform(X), views.transform(X), atol=1e-6)
        # A model whose columns know no targets takes no heed of them.
        np.testing.assert_allclose(clone(views).fit_transform(X, y), views.transform(X), atol=1e-6)


def test_it_stands_in_a_pipeline(paths):
    X = pd.DataFrame({"a": rows(80)[:, 0], "b": np.tile(["x", "y", None, "z"], 20)})
    y = np.where(X["a"] > 0, "yes", "no")
    pipe = make_pipeline(TabularEmbedder(paths["classes"]), LogisticRegression())
    assert np.isfinite(cross_val_score(pipe, X, y, cv=2)).all()
    embedder = TabularEmbedder(paths["classes"], training=InContext(cross_fit=None))
    check_embedder(embedder, X.iloc[:12], y=y[:12])


def test_no_more_rows_are_kept_than_asked_for(paths):
    X = rows(60)
    embedder = TabularEmbedder(paths["classes"], training=InContext(max_rows=5))
    with pytest.warns(TrainingWarning, match="5 of 60 rows are kept"):
        embedder.fit(X, ["a"] * 57 + list("bcd"))
    assert embedder.trained_.arrays["context"].shape == (5, D)
    assert set(embedder.trained_.arrays["targets"]) == {0, 1, 2, 3}
    with pytest.raises(NotFittedError, match="max_rows was 5"):
        embedder.set_params(training__max_rows=30).transform(X)


def test_its_seed_counts_where_texts_are_drawn_from_alone(paths):
    X, titles = rows(), [f"the {i} of {i * 7 % 31}" for i in range(N)]
    embedder = TabularEmbedder(paths["views"]).fit(X)
    vectors = embedder.transform(X)
    np.testing.assert_array_equal(embedder.set_params(random_state=3).transform(X), vectors)
    np.testing.assert_array_equal(clone(embedder).fit(X).transform(X), vectors)
    table = pd.DataFrame({"a": X[:, 0], "title": titles})
    embedder = TabularEmbedder(paths["views"], columns={"title": "text"}).fit(table)
    with pytest.raises(NotFittedError, match="random_state was 0"):
        embedder.set_params(random_state=3).transform(table)


def test_one_class_is_refused_without_advice_that_does_not_help(paths):
    y = ["a"] * N
    with pytest.raises(InvalidTargetsError, match=r"got 1 class: \['a'\]\.$"):
        TabularEmbedder(paths["classes"]).fit(rows(), y)
    with pytest.raises(InvalidTargetsError, match=r"got 1 class: \['a'\]\. .*partial_fit"):
        TabularEmbedder(training=FineTune()).fit(rows(), y)


def test_its_file_may_move_and_be_gone_where_no_rows_are_embedded(paths, tmp_path):
    X = rows()
    first, second = tmp_path / "a.ckpt", tmp_path / "b.ckpt"
    shutil.copy(paths["views"], first)
    embedder = TabularEmbedder(first).fit(X)
    vectors = embedder.transform(X)
    first.rename(second)
    loaded = pickle.loads(pickle.dumps(embedder))
    assert len(loaded.get_feature_names_out()) == 32
    assert "TabularEmbedder" in loaded._repr_html_()
    np.testing.assert_allclose(loaded.set_params(model=second).transform(X), vectors, atol=1e-6)
    with pytest.raises(InvalidParameterError, match="is not the checkpoint"):
        loaded.set_params(model=paths["classes"]).transform(X)
    with pytest.raises(ValueError, match="trained nothing"):
        TrainingCurveDisplay.from_estimator(loaded)


def test_whole_numbers_are_what_the_checkpoint_reads(paths):
    X = rows(210)
    ratings = np.arange(210) % 6 * 1.0
    assert TabularEmbedder(paths["numbers"]).fit(X, ratings).trained_.kind == "numbers"
    # Without some of the rows they would look like classes.
    counts = np.r_[np.repeat(np.arange(20.0), 10), 20.0, np.zeros(9)]
    assert np.isfinite(TabularEmbedder(paths["numbers"]).fit_transform(X, counts)).all()
    training = InContext(loss="squared_error")
    numbers = TabularEmbedder(paths["numbers"], training=training).fit(X, np.arange(210))
    assert numbers.trained_.kind == "numbers"


def test_what_a_checkpoint_cannot_read_is_refused(paths):
    X = rows()
    for kind, y, said in (
        ("classes", None, "y is None. Give y"),
        ("classes", X[:, 0], "made of numbers, and this checkpoint is a classifier"),
        ("numbers", np.where(X[:, 0] > 0, "a", "b"), "takes numbers, got"),
        ("classes", np.arange(N) % 11, "10 classes at most, y has 11"),
        ("numbers", X[:, :2], "one label or number a row"),
        ("classes", np.stack([X[:, 0] > 0, X[:, 1] > 0], 1).astype(int), "one label or number"),
    ):
        with pytest.raises(InvalidTargetsError, match=said):
            TabularEmbedder(paths[kind]).fit(X, y)


def test_parameters_that_mean_nothing_to_it_are_refused(paths):
    X = rows()
    for changes, said in (
        ({"n_components": 8}, "has its own; add a PCA"),
        ({"training": FineTune()}, "is not trained"),
        ({"model": "tabclip"}, r"expected one of .*Did you mean 'tabicl'"),
        ({"model": "mlp", "training": InContext()}, "reads no other rows"),
    ):
        with pytest.raises(InvalidParameterError, match=said):
            TabularEmbedder(**{"model": paths["views"], **changes}).fit(X)
    with pytest.raises(InvalidParameterError, match="keeps the rows of one call"):
        TabularEmbedder(paths["views"]).partial_fit(X)
    with pytest.raises(InvalidParameterError, match="expected a FineTune, a Contrastive, a WordW"):
        TextEmbedder(training=InContext(cross_fit=None)).fit(["a", "b"], [0, 1])


def test_weights_that_are_not_there_say_how_to_get_them(paths, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFoundError, match=r"(?s)offline mode.*hf download jingang"):
        TabularEmbedder("tabicl").fit(rows())
    with pytest.raises(InvalidTargetsError, match="one label or number a row"):
        TabularEmbedder("tabicl").fit(rows(), np.eye(2, dtype=int)[np.arange(N) % 2])
    with pytest.raises(ModelNotFoundError, match="no such file"):
        TabularEmbedder(str(tmp_path / "none.ckpt")).fit(rows())
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.ckpt")
    with pytest.raises(UnsupportedModelError, match="no checkpoint of TabICL"):
        TabularEmbedder(str(tmp_path / "other.ckpt")).fit(rows())
    (tmp_path / "unsafe.ckpt").write_bytes(pickle.dumps(print))
    with pytest.raises(UnsafeModelError):
        TabularEmbedder(str(tmp_path / "unsafe.ckpt")).fit(rows())
