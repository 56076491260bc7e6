"""Targets: what they may be, how they are encoded and weighed, which rows messages name; losses."""

import math
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy.sparse import csr_array
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer, log_loss, mean_absolute_error, mean_squared_error
from sklearn.utils.class_weight import compute_sample_weight

from skembed import FineTune
from skembed._inputs import CheckedRows
from skembed.exceptions import (
    InvalidParameterError,
    InvalidRowsError,
    InvalidTargetsError,
    TrainingWarning,
)
from skembed.training._objective import Batch
from skembed.training._state import TrainedState
from skembed.training._supervised import LinearHead, make_supervised
from skembed.training._targets import Targets, check_targets


def rows_of(n_rows, labels=None, bad=()):
    positions = np.delete(np.arange(n_rows, dtype=np.int64), bad)
    return CheckedRows([None] * len(positions), positions, n_rows, labels=labels)


def check(y, **options):
    options.setdefault("rows", rows_of(4))
    return check_targets(y, owner="It", **options)


# Containers and kinds ------------------------------------------------------------------------

STRINGS = ["b", "a", "b", "c"]
INTS = [3, -1, 3, 7]


@pytest.mark.parametrize(
    "labels", [STRINGS, INTS, [True, False, True, True]], ids=["str", "int", "bool"]
)
@pytest.mark.parametrize(
    "container",
    [
        list,
        tuple,
        np.array,
        lambda y: np.array(y, dtype=object),
        lambda y: np.array(y).reshape(-1, 1),
        lambda y: pd.Series(y, index=[10, 10, -3, "x"]),
        lambda y: pd.Series(y).astype("category"),
        lambda y: pd.Series(y).convert_dtypes(),
        lambda y: pd.DataFrame({"y": y}, index=[7, 6, 5, 4]),
        pl.Series,
        lambda y: pl.DataFrame({"y": y}),
    ],
    ids=[
        *("list", "tuple", "array", "objects", "column", "Series", "categories", "nullable"),
        *("frame", "polars Series", "polars frame"),
    ],
)
def test_classes_of_any_type_come_in_any_container(labels, container):
    targets = check(container(labels))
    known, codes = np.unique(labels, return_inverse=True)
    assert targets.kind == "classes"
    assert targets.classes.tolist() == known.tolist()
    assert targets.values.tolist() == codes.tolist()


@pytest.mark.parametrize(
    ("y", "kind", "n_outputs"),
    [
        ([0.0, 1.0, 0.0, 1.0], "classes", 2),
        ([0.5, 1.0, 2.0, 3.0], "numbers", 1),
        ([[0.5, 1], [1, 2], [2, 3], [3, 4]], "numbers", 2),
        ([[5, 1], [1, 2], [2, 3], [3, 4]], "numbers", 2),
        ([[0, 1], [1, 1], [0, 0], [1, 0]], "labels", 2),
        ([[False, True], [True, True], [False, False], [True, False]], "labels", 2),
        (csr_array([[0, 1, 1], [1, 1, 0], [0, 0, 0], [1, 0, 0]]), "labels", 3),
        (pd.DataFrame({"a": [0.5, 1, 2, 3], "b": [1, 2, 3, 4]}, index=list("wxyz")), "numbers", 2),
        (pl.DataFrame({"a": [0, 1, 1, 0], "b": [1, 0, 1, 0]}), "labels", 2),
        (np.array([0.5, 1, 2, 3], dtype=object), "numbers", 1),
    ],
)
def test_kinds_are_those_of_scikit_learn(y, kind, n_outputs):
    targets = check(y)
    assert (targets.kind, targets.n_outputs) == (kind, n_outputs)


def test_a_loss_of_numbers_makes_whole_numbers_numbers():
    targets = check([1, 2, 2, 3], loss="squared_error")
    assert targets.kind == "numbers"
    assert targets.values.tolist() == [[1], [2], [2], [3]]


def test_targets_of_bad_rows_are_left_out_and_may_be_missing():
    targets = check(["a", None, "b", "a"], rows=rows_of(4, bad=[1]))
    assert targets.values.tolist() == [0, 1, 0]


def test_many_classes_are_no_warning():
    y = [f"class {i}" for i in range(30)]
    assert check(y, rows=rows_of(30)).n_outputs == 30
    vectors = np.eye(30, dtype=np.float32)
    targets = check([f"{i}" for i in range(30)], rows=rows_of(30))
    LinearHead.fitted(vectors, targets)


def test_whole_numbers_that_look_like_amounts_are_a_warning():
    with pytest.warns(TrainingWarning, match=r"30 different whole numbers in 30 rows.*floats"):
        assert check(list(range(30)), rows=rows_of(30)).kind == "classes"
    prices = [100 * (i % 25) for i in range(90)]
    with pytest.warns(TrainingWarning, match="25 different whole numbers in 90 rows"):
        check(prices, rows=rows_of(90))
    for floats in (np.array(prices, float), np.array(prices, float).astype(object)):
        assert check(floats, rows=rows_of(90)).kind == "numbers"
    assert check([float(i % 20) for i in range(90)], rows=rows_of(90)).kind == "classes"


# What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "name"),
    [
        (["a", None, "b", "a"], "None"),
        (["a", float("nan"), "b", "a"], "nan"),
        ([0.5, math.nan, 1.5, 2.5], "nan"),
        ([0.5, math.inf, 1.5, 2.5], "inf"),
        (pd.Series(["a", pd.NA, "b", "a"], dtype="string"), "<NA>"),
        (pd.Series([1, None, 2, 1], dtype="Int64"), "(nan|<NA>)"),
        (pd.Series(["a", None, "b", "a"], dtype="category"), "nan"),
        (pl.Series(["a", None, "b", "a"]), "None"),
        (pl.Series([1, None, 2, 1]), "nan"),
        ([[0.5, 1], [math.nan, 2], [2, 3], [3, 4]], "nan"),
    ],
)
def test_missing_targets_are_named_by_row_and_label(y, name):
    rows = rows_of(4, labels=["first", "second", "third", "fourth"])
    with pytest.raises(InvalidRowsError, match=f"1 of 4 targets .*(\n.*)*second.*{name}") as caught:
        check(y, rows=rows)
    assert list(caught.value.faults) == [1]


@pytest.mark.parametrize("y", [["a", 1, "b", "a"], np.array(["a", 1, "b", "a"], dtype=object)])
def test_a_number_among_texts_is_named_and_no_class(y):
    with pytest.raises(InvalidRowsError, match=r"labels of one type, .*\n.*row 1: 1\n") as caught:
        check(y)
    assert list(caught.value.faults) == [1]


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        (None, {}, r"the target y is None: give one label or number per row, fit\(X, y\)"),
        (["a", "b"], {}, "expected one target for each of 4 rows, got 2"),
        ("abcd", {}, "one target per row, got a single str"),
        (np.zeros((4, 2, 2)), {}, r"got shape \(4, 2, 2\)"),
        (np.zeros((4, 0)), {}, r"got shape \(4, 0\)"),
        ([["a", "b"], ["a"], ["b"], []], {}, r"several lengths\. .*MultiLabelBinarizer\(\)"),
        (["a"] * 4, {}, r"at least two classes, got 1 class: \['a'\]"),
        ([["a", "b"]] * 4, {}, r"got 2 texts in each\. .*MultiLabelBinarizer\(\)"),
        (STRINGS, {"loss": "huber"}, "loss='huber' takes numbers, got 'b' for one"),
        ([0.5, 1, 2, 3], {"loss": "log_loss"}, "cannot learn from continuous targets with loss"),
        ([0.5, 1, 2, 3], {"class_weight": "balanced"}, "y is made of numbers"),
        (
            STRINGS,
            {"class_weight": {"a": -1, "y": math.nan, "z": math.inf, "b": "much"}},
            r"^class_weight\['a'\]=-1: expected a finite number of at least 0\.\n"
            r".*\['y'\]=nan: expected.*\n.*\['z'\]=inf: expected.*\n.*\['b'\]='much': expected.*\n"
            r"class_weight: y has no class 'y', 'z'\. .* not name 'c', which y has\.$",
        ),
        (STRINGS, {"class_weight": {"a": 0, "b": 0, "c": 0}}, "above 0 for some class"),
        ([[0, 1]] * 4, {"class_weight": {0: 1}}, "class_weight=.* list of dicts"),
        (STRINGS, {"sample_weight": [1, 2]}, r"one for each of 4 rows, got shape \(2,\)"),
        (STRINGS, {"sample_weight": [1, 2, -1, 1]}, "finite numbers of at least 0"),
        (STRINGS, {"sample_weight": [0, 0, 0, 0]}, "not all 0"),
        (STRINGS, {"rows": rows_of(4, bad=[0, 1, 2, 3])}, "It has no good rows to learn from"),
    ],
)
def test_unusable_targets_are_refused(y, options, message):
    with pytest.raises((InvalidTargetsError, InvalidParameterError), match=message) as caught:
        check(y, **options)
    assert isinstance(caught.value, ValueError)  # as scikit-learn's


# Weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "class_weight",
    ["balanced", {"a": 5, "b": 1, "c": 0.5}, {"a": 0}, {"a": 1, "b": 1, "c": 1, "not here": 3}],
)
def test_class_weights_are_those_of_scikit_learn(class_weight):
    weights = check(STRINGS, class_weight=class_weight).weights
    np.testing.assert_allclose(weights, compute_sample_weight(class_weight, STRINGS), rtol=1e-6)


def test_a_step_may_lack_classes_that_were_named_and_have_a_weight():
    # As partial_fit's later batches do.
    weights = check(list("abab"), class_weight={"c": 5, "a": 3}, classes=list("abc")).weights
    np.testing.assert_allclose(weights, [3, 1, 3, 1])


def test_class_weights_multiply_sample_weights_of_mean_1():
    weights = check(
        STRINGS, class_weight={"a": 2, "b": 1, "c": 1}, sample_weight=[2, 2, 2, 6]
    ).weights
    np.testing.assert_allclose(weights, [2 / 3, 4 / 3, 2 / 3, 2], rtol=1e-6)


# Heads and losses ----------------------------------------------------------------------------

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(40, 6)).astype(np.float32)
ROWS = SimpleNamespace(vectors=VECTORS, before=None, are_random=False, keys=np.arange(len(VECTORS)))
CLASSES = (VECTORS @ RNG.normal(size=(6, 3)) + RNG.normal(size=(40, 3))).argmax(axis=1)
NUMBERS = VECTORS @ RNG.normal(size=(6, 2)) + RNG.normal(size=(40, 2))
LABELS = (NUMBERS > 0).astype(int)
WEIGHT = RNG.uniform(0.1, 2, size=40)


def objective(y, *, head=None, **params):
    params = {"validation_fraction": None, **params}
    strategy = FineTune("head", **params)
    n_rows = rows_of(len(y))
    targets = check_targets(
        y,
        n_rows,
        "It",
        loss=strategy.loss,
        class_weight=strategy.class_weight,
        sample_weight=WEIGHT[: len(y)],
    )
    return make_supervised(strategy, targets, ROWS, 0)


def outputs_of(made, vectors):
    weight, bias = made.head.in_users_units()
    return vectors.astype(float) @ weight.T + bias


ALL = Batch(np.arange(40))


def loss_of(made, vectors=VECTORS, batch=ALL):
    return float(made.loss(torch.from_numpy(vectors), batch).detach())


def test_the_loss_of_classes_is_scikit_learns():
    made = objective(CLASSES)
    p = made.as_estimator().predict_proba(VECTORS.astype(float))
    wanted = log_loss(CLASSES, p, sample_weight=WEIGHT, labels=[0, 1, 2])
    assert loss_of(made) == pytest.approx(wanted, rel=1e-5)


def test_the_loss_of_labels_is_the_mean_of_scikit_learns():
    made = objective(LABELS)
    p = 1 / (1 + np.exp(-outputs_of(made, VECTORS)))
    wanted = np.mean([log_loss(LABELS[:, i], p[:, i], sample_weight=WEIGHT) for i in range(2)])
    assert loss_of(made) == pytest.approx(wanted, rel=1e-5)


def huber(y, found, *, sample_weight):
    gap = np.abs(y - found)
    each = np.where(gap < 1, gap**2 / 2, gap - 0.5).mean(axis=1)
    return np.average(each, weights=sample_weight)


@pytest.mark.parametrize(
    ("loss", "error"),
    [
        ("squared_error", mean_squared_error),
        ("absolute_error", mean_absolute_error),
        ("huber", huber),
    ],
)
def test_the_loss_of_numbers_is_their_error_in_units_of_their_spread(loss, error):
    made = objective(NUMBERS, loss=loss)
    center = np.average(NUMBERS, axis=0, weights=WEIGHT)
    spread = np.sqrt(np.average((NUMBERS - center) ** 2, axis=0, weights=WEIGHT))
    found = outputs_of(made, VECTORS)
    wanted = error(NUMBERS / spread, found / spread, sample_weight=WEIGHT)
    assert loss_of(made) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize(
    ("y", "loss"),
    [
        (CLASSES, "log_loss"),
        (CLASSES > 0, "log_loss"),
        (LABELS, "log_loss"),
        (NUMBERS, "squared_error"),
        (NUMBERS, "absolute_error"),
        (NUMBERS, "huber"),
    ],
)
def test_gradients_are_those_of_differences(y, loss):
    made = objective(y, loss=loss)
    made.head.double()
    made._values = made._values.double() if made._values.is_floating_point() else made._values
    made._weights = made._weights.double()
    batch = Batch(np.array([3, 5, 8, 30]))
    vectors = torch.from_numpy(VECTORS[batch.rows]).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: made.loss(v, batch), [vectors])


def test_pieces_of_a_batch_add_up_to_its_loss():
    made = objective(CLASSES)
    vectors = torch.from_numpy(VECTORS)
    pieces = [[0, 5, 7], list(range(8, 40)), [1, 2, 3, 4, 6]]
    total = sum(float(made.loss(vectors[piece], ALL, piece).detach()) for piece in pieces)
    assert total == pytest.approx(loss_of(made), rel=1e-5)


def test_a_row_of_weight_0_is_left_out_of_the_gradient():
    weights = np.ones(40)
    weights[[4, 9]] = 0
    targets = check(CLASSES, rows=rows_of(40), sample_weight=weights)
    made = make_supervised(
        FineTune(validation_fraction=None),
        targets,
        ROWS,
        0,
    )
    others = np.setdiff1d(np.arange(40), [4, 9])

    def gradient(rows):
        vectors = torch.from_numpy(VECTORS[rows]).requires_grad_()
        made.loss(vectors, Batch(rows)).backward()
        return vectors.grad.numpy()

    whole = gradient(np.arange(40))
    np.testing.assert_allclose(whole[others], gradient(others), rtol=1e-5)
    assert not whole[[4, 9]].any()


def test_a_row_of_weight_0_is_left_out_of_the_first_fit():
    weights = np.ones(40)
    weights[[4, 9]] = 0
    others = np.setdiff1d(np.arange(40), [4, 9])
    wrong = np.where(weights == 0, (CLASSES + 1) % 3, CLASSES)
    targets = check(wrong, rows=rows_of(40), sample_weight=weights)
    few = check(CLASSES[others], rows=rows_of(38))
    # Only the vectors' mean and spread, which set the penalty, have seen the two.
    found, wanted = LinearHead.fitted(VECTORS, targets), LinearHead.fitted(VECTORS[others], few)
    a, b = (h(torch.from_numpy(VECTORS)).detach().softmax(1).numpy() for h in (found, wanted))
    np.testing.assert_allclose(a, b, atol=0.02)


@pytest.mark.parametrize(
    ("y", "scoring"),
    [
        (CLASSES > 0, "accuracy"),
        (CLASSES > 0, "roc_auc"),
        (np.where(CLASSES > 0, "yes", "no"), "neg_log_loss"),
        (CLASSES, "f1_macro"),
        (CLASSES, "neg_log_loss"),
        (CLASSES, "roc_auc_ovr"),
        (LABELS, "f1_macro"),
        (LABELS, "roc_auc"),
        (LABELS, "accuracy"),
        (NUMBERS, "r2"),
        (NUMBERS[:, 0], "neg_mean_absolute_error"),
        (NUMBERS[:, 0] * 1e6, "r2"),
        (CLASSES, lambda estimator, X, y: float(np.mean(estimator.predict(X) == y))),
    ],
)
def test_scorers_see_what_a_head_predicts(y, scoring):
    made = objective(y, scoring=scoring, validation_fraction=0.5)
    held_out = made.held_out
    assert len(held_out) == 20
    outputs = outputs_of(made, VECTORS)
    wanted_by = get_scorer(scoring) if isinstance(scoring, str) else scoring
    peer = made.as_estimator()
    if made.targets.kind == "numbers":
        np.testing.assert_allclose(
            peer.predict(VECTORS.astype(float)).reshape(outputs.shape), outputs
        )
    elif made.targets.kind == "labels":
        np.testing.assert_array_equal(peer.predict(VECTORS), outputs > 0)
    else:
        best = made.targets.classes[outputs.argmax(axis=1)]
        np.testing.assert_array_equal(peer.predict(VECTORS), best)
    score = made.score(lambda rows: VECTORS[rows])
    assert score == pytest.approx(wanted_by(peer, VECTORS[held_out], np.asarray(y)[held_out]))
    assert score > 0.5 or "neg" in str(scoring)


def test_a_scorer_that_does_not_fit_the_targets_is_refused():
    made = objective(CLASSES, scoring="roc_auc", validation_fraction=0.5)
    with pytest.raises(InvalidParameterError, match=r"training__scoring: .* 20 held-out rows: "):
        made.score(lambda rows: VECTORS[rows])


def test_a_score_of_nan_is_refused():
    made = objective(CLASSES, scoring=lambda *_: math.nan, validation_fraction=0.5)
    with pytest.raises(InvalidParameterError, match="gives NaN on 20 held-out rows"):
        made.score(lambda rows: VECTORS[rows])


def test_the_held_out_loss_is_that_of_the_best_scale_of_the_outputs():
    made = objective(CLASSES, validation_fraction=0.5)
    held_out, y = made.held_out, np.asarray(CLASSES)[made.held_out]
    score = made.score(lambda rows: VECTORS[rows])
    outputs = outputs_of(made, VECTORS)[held_out].astype(float)
    weights = made.targets.weights[held_out]
    losses = [
        log_loss(y, softmax(scale * outputs, axis=1), sample_weight=weights, labels=[0, 1, 2])
        for scale in np.geomspace(1 / 16, 4, 2000)
    ]
    assert -score == pytest.approx(min(losses), rel=0.01)
    with torch.no_grad():  # as sure as it may have become
        for parameter in made.head.parameters():
            parameter *= 4
    assert made.score(lambda rows: VECTORS[rows]) == pytest.approx(score, rel=1e-5)


def test_vectors_that_are_not_finite_are_the_worst():
    made = objective(CLASSES, scoring="accuracy", validation_fraction=0.5)
    assert made.score(lambda rows: VECTORS[rows] * np.inf) == -math.inf


def test_balanced_sampling_draws_as_many_of_each_class():
    y = np.array(["rare"] * 4 + ["common"] * 36)
    made = objective(y, sampling="balanced", batch_size=8)
    drawn = np.concatenate([b.rows for b in made.batches(np.random.default_rng(0))])
    assert len(drawn) == 40
    assert (y[drawn] == "rare").sum() == 20
    counts = np.bincount(drawn, minlength=40)
    assert counts[:4].tolist() == [5] * 4
    assert counts[4:].max() == 1


@pytest.mark.parametrize("y", [LABELS, NUMBERS])
def test_balanced_sampling_needs_classes(y):
    with pytest.raises(InvalidParameterError, match=r"sampling='balanced': y is made of"):
        objective(y, sampling="balanced")


# The first fit -------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e7])
@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_numbers_and_vectors_of_any_size_are_fitted_alike(factor, offset):
    y = NUMBERS * factor + 3 * factor
    targets = check(y, rows=rows_of(40))
    head = LinearHead.fitted(VECTORS + np.float32(offset), targets)
    weight, bias = head.in_users_units()
    found = (VECTORS + offset).astype(float) @ weight.T + bias
    share = 1 - np.square(found - y).sum() / np.square(y - y.mean(axis=0)).sum()
    assert share > 0.7


def test_a_fresh_head_is_random_and_gives_numbers_in_their_units():
    targets = check((100 + 7 * np.arange(40.0)).tolist(), rows=rows_of(40))
    head = LinearHead.fresh(3, targets, 0)
    weight, bias = head.in_users_units()
    assert weight.shape == (1, 3)
    assert bias == pytest.approx(targets.values.mean())
    np.testing.assert_array_equal(
        LinearHead.fresh(3, targets, 0).weight.detach(), head.weight.detach()
    )
    assert (LinearHead.fresh(3, targets, 1).weight != head.weight).all()
    assert LinearHead.fresh(3, check(CLASSES, rows=rows_of(40)), 0).weight.shape[1] == 3


def test_equal_numbers_and_equal_vectors_are_fitted():
    targets = Targets("numbers", np.full((4, 1), 2e6), np.ones(4, np.float32))
    head = LinearHead.fitted(np.ones((4, 3), np.float32), targets)
    weight, bias = head.in_users_units()
    assert np.ones(3) @ weight[0] + bias[0] == pytest.approx(2e6)


def test_a_label_that_no_row_has_is_not_predicted():
    labels = np.c_[LABELS[:, 0], np.zeros(40, int)]
    made = objective(labels)
    assert not made.as_estimator().predict(VECTORS)[:, 1].any()


def test_a_first_fit_that_does_not_converge_is_no_warning(monkeypatch):
    made = LogisticRegression(C=10, max_iter=1)
    monkeypatch.setattr("skembed.training._supervised.LogisticRegression", lambda **_: made)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LinearHead.fitted(VECTORS, check(CLASSES, rows=rows_of(40)))
    assert made.n_iter_.max() == 1


def test_a_head_of_numbers_goes_on_in_the_units_it_was_trained_in():
    head = objective(NUMBERS * 1e6).head
    arrays = {name: p.detach().numpy() for name, p in head.named_parameters()}
    before = TrainedState("head", {}, "", head=arrays, kind="numbers")
    other = check(NUMBERS[:5] * 7, rows=rows_of(5))
    again = LinearHead.learned(before, other)
    for found, wanted in zip(again.in_users_units(), head.in_users_units(), strict=True):
        np.testing.assert_array_equal(found, wanted)
