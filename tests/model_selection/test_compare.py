"""Embedders side by side: the same folds, and only differences beyond noise are called so."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skembed.exceptions import InvalidInputError, InvalidParameterError
from skembed.model_selection import compare_embedders

RNG = np.random.default_rng(0)
Y = np.repeat(["a", "b", "c"], 30)
X = RNG.normal(size=(90, 6)) + 3 * np.eye(6)[np.repeat([0, 1, 2], 30)]
NOISE = FunctionTransformer(lambda X: np.random.default_rng(len(X)).normal(size=(len(X), 4)))
EMBEDDERS = {"noise": NOISE, "as they are": PCA(6, random_state=0)}


@pytest.fixture(scope="module")
def found():
    return compare_embedders(EMBEDDERS, X, Y, probe={"line": LogisticRegression()}, cv=4)


def test_scores_are_those_of_scikit_learn_on_the_same_folds(found):
    folds = StratifiedKFold(4, shuffle=True, random_state=0)
    pipeline = make_pipeline(EMBEDDERS["as they are"], LogisticRegression())
    expected = cross_val_score(pipeline, X, Y, cv=folds)
    np.testing.assert_allclose(found.folds["as they are"]["line"], expected)
    assert found.frame.loc[("line", "as they are"), "score"] == pytest.approx(expected.mean())


def test_intervals_are_of_pairs_and_mind_that_folds_share_rows(found):
    folds = found.folds
    behind = np.array(folds["noise"]["line"]) - folds["as they are"]["line"]
    row = found.frame.loc[("line", "noise")]
    half = stats.t.ppf(0.975, 3) * np.sqrt(behind.var(ddof=1) * (1 / 4 + 1 / 3))
    assert row["behind_best"] == pytest.approx(behind.mean())
    assert row["behind_interval"] == pytest.approx(half, rel=0.02)


def test_the_sentence_tells_noise_from_a_difference(found):
    assert "as they are has the best accuracy" in str(found)
    assert "better by more than noise than noise (-0." in str(found)
    twins = {"one": PCA(6, random_state=0), "two": PCA(6, random_state=0)}
    assert "one has the best" in str(alike := compare_embedders(twins, X, Y, cv=3))
    assert "not told apart from two" in str(alike)


def test_neighbours_and_clusters_agree_with_classes_or_not(found):
    frame = found.frame.loc["line"]
    assert frame.loc["as they are", "agreement"] > 0.7 > 0.5 > frame.loc["noise", "agreement"]
    assert frame.loc["as they are", "clusters"] > 0.4 > 0.2 > frame.loc["noise", "clusters"]
    assert frame.loc["as they are", "width"] == 6


def test_numbers_are_compared_by_r2():
    found = compare_embedders({"all": PCA(6)}, X, X[:, 0] + 0.01, cv=3)
    assert found.score_name == "R2"
    assert found.frame.loc[("linear", "all"), "score"] > 0.99


def test_a_plot_has_a_point_for_each_score(found):
    plt.switch_backend("Agg")
    ax = found.plot()
    (drawn,) = ax.containers
    assert sorted(drawn[0].get_xdata()) == sorted(found.frame["score"])
    plt.close("all")


def test_what_is_no_embedder_is_said():
    with pytest.raises(InvalidParameterError, match="expected a dict of names to embedders"):
        compare_embedders([PCA()], X, Y)
    with pytest.raises(InvalidParameterError, match=r"'x': 3 has no fit and transform"):
        compare_embedders({"x": 3}, X, Y)
    with pytest.raises(InvalidParameterError, match="Did you mean 'linear'"):
        compare_embedders({"x": PCA()}, X, Y, probe="liner")
    with pytest.raises(InvalidInputError, match="each of the 90 rows, got 80"):
        compare_embedders({"x": PCA()}, X, Y[:80])
    with pytest.raises(InvalidInputError, match="at least 4 rows, got 2"):
        compare_embedders({"x": PCA()}, X[:2], Y[:2])
