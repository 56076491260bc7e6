"""Embedders side by side: the same folds, and only differences beyond noise are called so."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skembed import FunctionEmbedder
from skembed.exceptions import InvalidInputError, InvalidParameterError, InvalidRowsError
from skembed.model_selection import compare_embedders
from skembed.model_selection._comparison import summarize
from skembed.model_selection._measure import Found

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
    assert "better by more than noise than noise (0." in str(found)
    twins = {"one": PCA(6, random_state=0), "two": PCA(6, random_state=0)}
    assert "one has the best" in str(alike := compare_embedders(twins, X, Y, cv=3))
    assert "not told apart from two (0.000 ± 0.0" in str(alike)


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


@pytest.mark.parametrize(
    ("y", "said"),
    [
        (None, r"each row, got an array of shape \(\)"),
        (np.zeros((90, 2)), r"got an array of shape \(90, 2\)"),
        (
            np.where(np.arange(90) % 40, Y.astype(object), None),
            r"got none for 3 \(rows 0, 40, 80\)",
        ),
        (
            pd.Series(range(90), dtype="Int64").where(np.arange(90) != 7),
            r"got none for 1 \(row 7\)",
        ),
        (["a"] * 90, r"two classes or more, got 'a' alone"),
        (np.arange(90), r"cv=5 rows of a class, got 90 classes of at most 1. If y are numbers"),
    ],
)
def test_targets_that_cannot_be_told_are_said(y, said):
    with pytest.raises(InvalidInputError, match=said):
        compare_embedders({"x": PCA()}, X, y)


def test_no_rows_and_few_are_refused():
    for n in (0, 9):
        with pytest.raises(InvalidInputError, match=f"at least 10 rows, got {n}"):
            compare_embedders({"x": PCA()}, X[:n], Y[:n])


TEXTS = [f"{word} {i}" for i, word in enumerate(["cat", "dog", "tax", "fee"] * 6)]
KINDS = np.array(["pet", "pet", "money", "money"] * 6)


def lengths(calls):
    """Return an embedder of texts that notes each text it embeds."""

    def embed(rows):
        calls.extend(rows)
        return [[len(row), row.count("a") - row.count("e"), 1] for row in rows]

    return FunctionEmbedder(embed, version=f"lengths {id(calls)}")


def test_a_frozen_model_embeds_each_row_once_for_all_folds_and_probes():
    calls = []
    found = compare_embedders({"lengths": lengths(calls)}, TEXTS, KINDS, cv=3)
    assert sorted(set(calls) & {*TEXTS}) == sorted(TEXTS)
    assert max(calls.count(text) for text in TEXTS) == 1
    row = found.frame.loc[("linear", "lengths")]
    assert (row["width"], row["fit_seconds"]) == (3, 0)
    assert row[["rows_per_second", "again_per_second"]].gt(0).all()


def test_an_odd_index_and_a_frame_of_y_change_nothing():
    words = TfidfVectorizer(analyzer="char")
    plain = compare_embedders({"words": words}, TEXTS, KINDS, cv=3)
    index = [f"row {i}" for i in range(24, 0, -1)]
    odd = pd.Series(TEXTS, index), pd.DataFrame({"kind": KINDS}, index)
    again = compare_embedders({"words": words}, *odd, cv=3)
    assert again.folds == plain.folds


def test_trained_embedders_and_pipelines_learn_in_each_fold_and_have_their_costs():
    cut = make_pipeline(TfidfVectorizer(analyzer="char"), TruncatedSVD(2, random_state=0))
    frame = compare_embedders({"cut": cut}, TEXTS, KINDS, cv=3, probe="neighbors").frame
    row = frame.loc[("neighbors", "cut")]
    assert row["width"] == 2
    assert row["model_mib"] > 0
    assert row["rows_per_second"] > 0
    assert row["fit_seconds"] > 0


@pytest.mark.parametrize("way", ["frozen", "in a pipeline"])
def test_rows_that_cannot_be_embedded_are_named_as_rows_of_x(way):
    embedder = lengths([])
    if way == "in a pipeline":
        embedder = make_pipeline(embedder, PCA(2))
    bad = [*TEXTS[:20], None, *TEXTS[21:]]
    with pytest.raises(InvalidRowsError, match=r"'x' cannot embed 1 rows of X") as caught:
        compare_embedders({"x": embedder}, bad, KINDS, cv=3)
    assert list(caught.value.faults) == [20]


def test_rows_of_nan_are_named():
    unknown = FunctionTransformer(lambda X: np.where(X > 8, np.nan, X))
    with pytest.raises(
        InvalidRowsError, match=r"'x' has no finite vector for 1 rows of X \(row 89\)"
    ):
        compare_embedders({"x": unknown}, np.linspace(0, 8.01, 90)[:, None], Y, cv=3)


def test_a_rare_class_is_told_once_and_few_rows_have_fewer_neighbours():
    y = KINDS.copy()
    y[0] = "rare"
    with pytest.warns(UserWarning, match="least populated class in y has only 1") as told:
        compare_embedders({"x": lengths([])}, TEXTS, y, cv=2, probe="linear")
    assert len(told) == 1
    found = compare_embedders({"x": PCA(2)}, X[26:36], Y[26:36], cv=2, probe="neighbors")
    assert len(found.folds["x"]["neighbors"]) == 2


def judged(*scores):
    return Found(scores={"p": list(scores)}, agreement=[0], fit_seconds=[0])


def test_chance_does_not_make_one_of_many_equals_better():
    rng = np.random.default_rng(0)
    n_better = 0
    for _ in range(300):
        found = {str(i): judged(*rng.normal(0.8, 0.03, 5)) for i in range(10)}
        n_better += "better" in str(summarize(found, 0.25, 100, "accuracy"))
    assert n_better / 300 < 0.05


def test_a_difference_alike_in_all_folds_of_few_rows_is_noise():
    found = {"a": judged(1, 0.75, 1), "b": judged(0.75, 0.5, 0.75)}
    assert "not told apart" in str(summarize(found, 0.5, 4, "accuracy"))


def test_two_floats_are_classes():
    X = np.random.default_rng(0).normal(size=(40, 3))
    found = compare_embedders({"a": StandardScaler()}, X, (X[:, 0] > 0).astype(float), cv=2)
    assert found.score_name == "accuracy"
