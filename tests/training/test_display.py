"""The picture of training shows what the history says, and what was kept."""

import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline

from skembed import FineTune, TextEmbedder, TrainingCurveDisplay
from skembed.exceptions import InvalidInputError, MissingDependencyError

PETS = ["a cat", "a kitten", "a dog", "a puppy"]
MONEY = ["a bill", "a tax return", "a fee", "a fine"]
X, Y = PETS + MONEY, ["pet"] * 4 + ["money"] * 4


@pytest.fixture(autouse=True)
def no_window():
    plt.switch_backend("Agg")
    yield
    plt.close("all")


def fitted(**params):
    training = FineTune("head", **{"n_epochs": 3, "validation_fraction": 0.25, **params})
    return TextEmbedder(training=training).fit(X, Y)


def test_the_losses_of_both_kinds_of_rows_share_an_axis():
    embedder = fitted()
    display = TrainingCurveDisplay.from_estimator(embedder)
    history = embedder.history_
    np.testing.assert_array_equal(display.line_.get_xdata(), [0, 1, 2, 3])
    np.testing.assert_array_equal(display.line_.get_ydata(), history["loss"])
    np.testing.assert_array_equal(display.score_line_.get_ydata(), -np.array(history["score"]))
    assert display.score_ax_ is display.ax_
    assert display.figure_ is display.ax_.figure


def test_a_score_has_an_axis_of_its_own():
    embedder = fitted(scoring="accuracy")
    display = TrainingCurveDisplay.from_estimator(embedder)
    assert display.score_ax_ is not display.ax_
    assert display.score_ax_.get_ylabel() == "accuracy on held-out rows"
    np.testing.assert_array_equal(display.score_line_.get_ydata(), embedder.history_["score"])


def test_an_epoch_of_partial_fit_is_the_one_that_was_kept():
    embedder = fitted().partial_fit(X, Y)
    assert TrainingCurveDisplay.from_estimator(embedder).best_epoch == 4


def test_the_published_model_and_the_epoch_that_was_kept_are_marked():
    display = TrainingCurveDisplay(
        epochs=[0, 1, 2, 3], loss=[np.nan, 3, 2, 1], score=[-4.0, -2.0, -1.0, -1.0]
    ).plot()
    assert display.published_.get_xydata().tolist() == [[0, 4]]
    # Of equal scores the first is kept, as in training.
    assert display.best_epoch == 2
    assert display.best_.get_xydata().tolist() == [[2, 1]]
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert labels[2:] == ["the published model", "kept: epoch 2"]


def test_without_held_out_rows_the_last_epoch_is_marked():
    display = TrainingCurveDisplay.from_estimator(fitted(validation_fraction=None))
    assert display.score_line_ is None
    assert display.published_ is None
    assert display.best_.get_xydata().tolist() == [[3, display.loss[3]]]


def test_it_draws_where_and_as_it_is_told():
    figure, ax = plt.subplots()
    display = TrainingCurveDisplay.from_estimator(fitted(), ax=ax, linestyle="--")
    assert (display.ax_, display.figure_) == (ax, figure)
    assert {display.line_.get_linestyle(), display.score_line_.get_linestyle()} == {"--"}


@pytest.mark.parametrize(
    "estimator",
    [
        TextEmbedder(),
        TextEmbedder(training=FineTune()),
        make_pipeline(TextEmbedder(training=FineTune())),
    ],
)
def test_what_has_no_history_is_refused(estimator):
    with pytest.raises(NotFittedError, match=r"expected a fitted embedder .*the step: pipe\[0\]"):
        TrainingCurveDisplay.from_estimator(estimator)


def test_values_of_other_lengths_are_refused():
    with pytest.raises(InvalidInputError, match="got 2, 1 and 2 values"):
        TrainingCurveDisplay(epochs=[0, 1], loss=[1.0], score=[1.0, 2.0])


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    display = TrainingCurveDisplay(epochs=[0, 1], loss=[np.nan, 1], score=[-2, -1])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"needs matplotlib, .*skembed\[plot\]"):
        display.plot()
