"""Out-of-fold vectors: which model embeds which row, in which space, and what stays as it was."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline

from skembed import Contrastive, FineTune, ImageEmbedder, TextEmbedder, _trainable
from skembed._inputs import CheckedRows
from skembed.exceptions import InvalidParameterError, InvalidRowsWarning
from skembed.training._cross_fit import align, carry
from skembed.training._targets import check_targets
from skembed.training._validation import find_folds
from tests.image.networks import TinyNetwork, pictures, to_small_pixels

X = [
    *("a cat", "a kitten", "a dog", "a puppy", "a hamster", "a parrot"),
    *("a bill", "a tax return", "a fee", "a fine", "a loan", "a debt"),
]
Y = ["pet"] * 6 + ["money"] * 6
WEIGHTS = np.linspace(0.1, 3.0, 12)
HEAD = FineTune("head", cross_fit=3, learning_rate=0.05, n_epochs=4, validation_fraction=None)


@pytest.fixture(scope="module")
def embedder():
    return TextEmbedder(training=HEAD)


def by_hand(embedder, X, y, weights=None):
    """Train on the other folds, embed a fold, turn it: in a loop, through the public methods."""
    X, y = np.array(X, dtype=object), np.array(y)
    once = clone(embedder).set_params(training__cross_fit=None)
    weigh = lambda rows: None if weights is None else weights[rows]  # noqa: E731
    whole = clone(once).fit(X, y, weigh(np.arange(len(X)))).transform(X)
    found = np.empty_like(whole)
    for train, test in StratifiedKFold(3, shuffle=True, random_state=0).split(X, y):
        fold = clone(once).fit(X[train], y[train], weigh(train))
        found[test] = fold.transform(X[test]) @ align(fold.transform(X[train]), whole[train])
    return found


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["unweighted", "weighted"])
def test_a_row_has_the_vector_of_a_model_trained_without_it_turned_into_the_whole_models_space(
    embedder, weights
):
    vectors = clone(embedder).fit_transform(X, Y, weights)
    np.testing.assert_allclose(vectors, by_hand(embedder, X, Y, weights), atol=1e-6)


def test_what_was_learned_is_the_model_of_all_rows(embedder):
    crossed = clone(embedder)
    vectors = crossed.fit_transform(X, Y)
    once = clone(embedder).set_params(training__cross_fit=None).fit(X, Y)
    assert crossed.trained_.digest == once.trained_.digest
    np.testing.assert_array_equal(crossed.transform(X), once.transform(X))
    assert np.abs(vectors - crossed.transform(X)).max() > 1e-3


def test_fit_alone_trains_no_folds(embedder, monkeypatch):
    learn, n_trainings = _trainable._learn, []
    monkeypatch.setattr(
        _trainable,
        "_learn",
        lambda *args, **options: n_trainings.append(1) or learn(*args, **options),
    )
    clone(embedder).fit(X, Y)
    assert len(n_trainings) == 1
    clone(embedder).fit_transform(X, Y)
    assert len(n_trainings) == 1 + 1 + 3


def folds_of(y, keys=None):
    targets = check_targets(y, CheckedRows([None] * len(y), np.arange(len(y)), len(y)), "it")
    return find_folds(np.arange(len(y)) if keys is None else keys, targets, 3, 0)


def test_equal_rows_share_a_fold():
    folds = folds_of(Y * 2, np.tile(np.arange(12), 2))
    np.testing.assert_array_equal(folds[:12], folds[12:])


def test_classes_are_spread_over_all_folds():
    folds = folds_of(Y)
    for fold in range(3):
        assert sorted(np.array(Y)[folds == fold]) == ["money"] * 2 + ["pet"] * 2


def test_a_rare_class_of_several_may_stand_in_one_fold():
    y = ["pet"] * 6 + ["money"] * 5 + ["debt"]
    assert sorted(np.bincount(folds_of(y))) == [4, 4, 4]


def test_bad_rows_are_nan_and_change_no_other(embedder):
    rows, y = [*X[:5], None, *X[5:]], [*Y[:5], "pet", *Y[5:]]
    with pytest.warns(InvalidRowsWarning, match="row 5: missing"):
        vectors = clone(embedder).set_params(on_error="nan").fit_transform(rows, y)
    assert np.isnan(vectors[5]).all()
    np.testing.assert_array_equal(np.delete(vectors, 5, 0), clone(embedder).fit_transform(X, Y))


def test_frames_keep_their_index_and_the_report_counts_the_rows(embedder):
    frame = pd.Series(X, index=range(40, 52))
    crossed = clone(embedder).set_output(transform="pandas")
    found = crossed.fit_transform(frame, Y)
    assert list(found.index) == list(frame.index)
    assert crossed.report_.n_rows == crossed.report_.n_distinct == 12
    np.testing.assert_array_equal(found.to_numpy(), clone(embedder).fit_transform(X, Y))


def test_equal_texts_are_not_learned_from_where_they_are_held_out(embedder):
    twice = clone(embedder).fit_transform(X * 2, Y * 2)
    np.testing.assert_array_equal(twice[:12], twice[12:])


def test_contrastive_training_is_cross_fitted_too():
    training = Contrastive("labels", method="head", n_epochs=1, cross_fit=2)
    assert np.isfinite(TextEmbedder(training=training).fit_transform(X, Y)).all()


def test_no_store_gives_the_same_vectors(embedder):
    alone = clone(embedder).set_params(cache=None, dtype="float32").fit_transform(X, Y)
    stored = clone(embedder).set_params(dtype="float32").fit_transform(X, Y)
    np.testing.assert_allclose(alone, stored, atol=1e-5)


def test_numbers_are_cross_fitted_too(embedder):
    y = np.arange(12) / 7
    vectors = clone(embedder).fit_transform(X, y)
    assert np.isfinite(vectors).all()


def test_a_classifier_on_top_does_not_learn_chance():
    rng = np.random.default_rng(0)
    rows = [f"{a} {b}" for a in ("red", "blue", "big", "old", "new") for b in X]
    y = rng.permutation(np.arange(len(rows)) % 2)
    training = FineTune("head", n_epochs=100, learning_rate=0.01, validation_fraction=None)

    def score(**params):
        vectors = TextEmbedder(training=clone(training).set_params(**params)).fit_transform(rows, y)
        return cross_val_score(LogisticRegression(), vectors, y).mean()

    assert score() > 0.9
    assert score(cross_fit=5) < 0.65


def test_a_pipeline_fits_its_classifier_on_out_of_fold_vectors(embedder):
    pipe = make_pipeline(clone(embedder), LogisticRegression()).fit(X, Y)
    alone = LogisticRegression().fit(clone(embedder).fit_transform(X, Y), Y)
    np.testing.assert_allclose(pipe[-1].coef_, alone.coef_, rtol=1e-5)


def test_too_few_rows_for_the_folds_are_refused_before_anything_is_trained(embedder):
    with pytest.raises(
        InvalidParameterError, match=r"cross_fit=3: expected at least as many distinct rows, got 2"
    ):
        clone(embedder).fit(["a cat", "a bill", "a cat"], ["pet", "money", "pet"])


@pytest.mark.parametrize(
    ("positives", "n_rows", "y", "reason"),
    [
        ("labels", 5, [*"ababa"], "leaves 2 .*\n.*two rows of one class"),
        ("views", 3, None, "leaves 1 .*\n.*learns from two rows or more, got 1"),
    ],
)
def test_folds_that_leave_too_little_are_refused_before_anything_is_trained(
    positives, n_rows, y, reason
):
    made = TextEmbedder(training=Contrastive(positives, cross_fit=2), cache=None)
    message = f"cross_fit=2: {n_rows} rows are too few. One of the folds {reason}"
    with pytest.raises(InvalidParameterError, match=message):
        made.fit(X[:n_rows], y)


def test_a_class_of_one_of_two_is_refused(embedder):
    with pytest.raises(InvalidParameterError, match=r"two distinct rows of .*, got one of 'money'"):
        clone(embedder).fit_transform(X[:7], Y[:7])


def test_aligning_keeps_lengths_and_cosines():
    rng = np.random.default_rng(0)
    turn = align(rng.normal(size=(5, 8)), rng.normal(size=(5, 8)))
    np.testing.assert_allclose(turn @ turn.T, np.eye(8), atol=1e-6)


def test_aligning_finds_a_rotation():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(200, 4)).astype(np.float32)
    angle = np.deg2rad(20)
    wanted = np.eye(4)
    wanted[:2, :2] = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    np.testing.assert_allclose(align(vectors, vectors @ wanted), wanted, atol=0.02)


def test_aligning_leaves_axes_of_which_shared_rows_say_nothing():
    rng = np.random.default_rng(0)
    vectors = np.zeros((6, 5))
    vectors[:, :2] = rng.normal(size=(6, 2))
    turn = align(vectors, vectors[:, [1, 0, 2, 3, 4]])
    np.testing.assert_allclose(turn[2:, 2:], np.eye(3), atol=1e-6)
    assert abs(turn[0, 1]) > 0.9


def test_vectors_of_unit_length_are_turned_alone():
    rng = np.random.default_rng(0)
    shared, to, new = rng.normal(size=(3, 50, 6)).astype(np.float32)
    shared, to, new = (each / np.linalg.norm(each, axis=1)[:, None] for each in (shared, to, new))
    found = carry(new, shared, to)
    np.testing.assert_array_equal(found, new @ align(shared, to))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.linalg.norm(new, axis=1), 1e-5)


@pytest.mark.parametrize("width", [3, 40])
def test_a_space_that_lies_elsewhere_and_is_larger_is_carried_over(width):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(240, width))
    turn = np.linalg.qr(rng.normal(size=(width, width)))[0]
    elsewhere = 3 * rows @ turn + rng.normal(size=width)
    found = carry(elsewhere[200:], elsewhere[:200], rows[:200])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, rows[200:], atol=0.1)


def test_a_space_of_another_shape_is_carried_nearer_than_by_turning_it():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(240, 8)) * [4, 4, 1, 1, 0.1, 0.1, 0.1, 0.1]  # few axes say most
    elsewhere = rows @ (np.eye(8) + rng.normal(size=(8, 8)) / 3)
    found = carry(elsewhere[200:], elsewhere[:200], rows[:200])
    turned = elsewhere[200:] @ align(elsewhere[:200], rows[:200])
    assert np.abs(found - rows[200:]).mean() < 0.5 * np.abs(turned - rows[200:]).mean()


@pytest.mark.parametrize("n_rows", [1, 2, 5])
def test_few_or_equal_shared_rows_carry_without_a_fault(n_rows):
    rng = np.random.default_rng(0)
    for shared in (rng.normal(size=(n_rows, 8)), np.zeros((n_rows, 8)), np.ones((n_rows, 8))):
        found = carry(rng.normal(size=(3, 8)), shared, shared + 1)
        assert np.isfinite(found).all()


@pytest.mark.parametrize("method", ["head", "full"])
def test_rows_that_turn_out_bad_while_they_are_read_are_nan_and_not_learned_from(tmp_path, method):
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    rows, y = pictures(8), ["a", "b"] * 4
    training = FineTune(method, n_epochs=1, validation_fraction=None, cross_fit=2)

    def embedder():
        return ImageEmbedder(
            TinyNetwork(), preprocess=to_small_pixels, training=training, on_error="nan"
        )

    some = embedder()
    with pytest.warns(InvalidRowsWarning, match="row 3"):
        vectors = some.fit_transform([*rows[:3], damaged, *rows[3:]], [*y[:3], "a", *y[3:]])
    assert np.isnan(vectors[3]).all()
    assert np.isfinite(np.delete(vectors, 3, axis=0)).all()
    assert some.trained_.digest == embedder().fit(rows, y).trained_.digest
