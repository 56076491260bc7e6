"""Near duplicates and outliers are those of a slow count over all pairs."""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse.csgraph import connected_components
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import LocalOutlierFactor

from skembed.exceptions import InvalidParameterError, InvalidRowsError, SkembedWarning
from skembed.neighbors import near_duplicates, outliers

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 16)).astype(np.float32)


def with_copies():
    """Return rows of which some are copies, scaled copies or nearly so, and no order."""
    near = X[:40] + 0.05 * RNG.normal(size=(40, 16))
    return RNG.permutation(np.concatenate([X, X[:30], 2 * X[10:20], near, near[:5] + 1e-4]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("threshold", [0.8, 0.95, 1.0])
def test_groups_are_those_of_all_pairs(threshold, dtype):
    rows = with_copies().astype(dtype)
    cosines = cosine_similarity(rows.astype(np.float64))
    _, of = connected_components(cosines >= threshold - 1e-6, directed=False)
    expected = [np.flatnonzero(of == i).tolist() for i in range(of.max() + 1)]
    found = near_duplicates(rows, threshold=threshold, n_neighbors=60)
    assert [each.rows.tolist() for each in found] == [each for each in expected if len(each) > 1]
    for each in found:
        np.testing.assert_allclose(each.cosines, cosines[each.rows[0], each.rows], atol=1e-6)


def test_many_copies_do_not_hide_what_is_near_them():
    rows = np.concatenate([np.repeat(X[:1], 50, 0), np.repeat(X[:1] + 0.01, 50, 0), X[1:]])
    (group,) = near_duplicates(rows, threshold=0.99)
    np.testing.assert_array_equal(group.rows, np.arange(100))


def test_rows_are_positions_whatever_the_index_says():
    frame = pd.DataFrame(X[[0, 1, 0, 2, 1]], index=[5, 4, 3, 2, 1])
    assert [each.rows.tolist() for each in near_duplicates(frame)] == [[0, 2], [1, 4]]


@pytest.mark.parametrize("n", [0, 1])
def test_few_rows_have_no_duplicates_and_are_no_outliers(n):
    assert near_duplicates(X[:n]) == []
    np.testing.assert_array_equal(outliers(X[:n]), -np.ones(n))
    (group,) = near_duplicates(np.repeat(X[:1], 3, axis=0))
    assert group.rows.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(outliers(np.repeat(X[:1], 3, axis=0)), [-1, -1, -1])


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_scores_are_those_of_scikit_learn(metric):
    factor = LocalOutlierFactor(20, metric=metric).fit(X)
    found = outliers(X, metric=metric)
    np.testing.assert_allclose(found, factor.negative_outlier_factor_, rtol=1e-4)


def test_a_row_unlike_all_others_is_found_however_many_copies_it_and_they_have():
    usual = np.array([4.0, 0, 0, 0]) + 0.3 * RNG.normal(size=(100, 4))
    rows = np.concatenate([np.repeat(usual, 30, axis=0), np.repeat([[0.0, 1, 0, 0]], 30, axis=0)])
    found = outliers(rows)
    assert found[3000:].max() < found[:3000].min()
    assert outliers(rows[::30]).argmin() == 100
    assert len(outliers(X[:3])) == 3


def test_what_does_not_fit_is_said():
    with pytest.raises(InvalidParameterError, match="threshold=95: expected a cosine"):
        near_duplicates(X, threshold=95)
    bad = X.copy()
    bad[7] = np.nan
    for function in (near_duplicates, outliers):
        with pytest.raises(InvalidRowsError, match=rf"{function.__name__}: .*(?s:.*)row 7: NaN"):
            function(bad)
    with pytest.raises(InvalidParameterError, match="n_neighbors=0"):
        outliers(X, n_neighbors=0)


def test_bunches_of_more_near_copies_than_are_looked_at_are_one_group():
    centre = X[0]
    bunches = [centre + 0.05 * RNG.normal(size=16) for _ in range(12)]
    rows = np.concatenate([each + 1e-3 * RNG.normal(size=(11, 16)) for each in bunches])
    (group,) = near_duplicates(np.concatenate([rows, X[1:50]]), threshold=0.95)
    np.testing.assert_array_equal(group.rows, np.arange(132))


def test_a_group_too_dense_to_be_seen_whole_is_told_of():
    rows = X[0] + 1e-3 * RNG.normal(size=(200, 16))
    with pytest.warns(SkembedWarning, match=r"200 rows have more than 64 near duplicates each"):
        near_duplicates(rows, n_neighbors=2)
