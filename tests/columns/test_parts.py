"""What is learned of numbers, categories, dates and tags, beside slow and obvious versions."""

import datetime
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import QuantileTransformer

from skembed.columns._parts import Codes, Cycles, Numbers, Tags, hash_of


def test_numbers_become_what_a_quantile_transformer_makes_of_them():
    x = np.random.default_rng(0).exponential(size=5000)
    reference = QuantileTransformer(n_quantiles=1000, output_distribution="normal", subsample=None)
    expected = reference.fit_transform(x[:, None])[:, 0]
    scores = Numbers(x).encode(x)
    inside = np.abs(expected) < 2.5  # at the ends scikit-learn goes to 5.2
    assert np.abs(scores - expected)[inside].max() < 0.02
    assert abs(scores.mean()) < 0.01
    assert abs(scores.std() - 1) < 0.01


def test_equal_numbers_have_the_middle_of_their_ranks():
    x = np.array([0.0] * 500 + [1.0] * 300 + [7.0] * 200)
    reference = QuantileTransformer(n_quantiles=1000, output_distribution="normal", subsample=None)
    expected = reference.fit(x[:, None]).transform([[1.0]]).item()
    zero, one, seven = Numbers(x).encode(np.array([0.0, 1.0, 7.0])).tolist()
    assert abs(one - expected) < 0.005
    assert zero < 0 < one < seven


def test_numbers_beyond_training_go_at_most_one_farther():
    numbers = Numbers(np.linspace(-2, 3, 100))
    ends = numbers.encode(np.array([-2.0, 3.0])).astype(float)
    # One range farther is half of the most.
    np.testing.assert_allclose(
        numbers.encode(np.array([-7.0, 8.0])), ends + np.array([-0.5, 0.5]), rtol=1e-6
    )
    np.testing.assert_allclose(
        numbers.encode(np.array([-1e308, 1e308])), ends + np.array([-1, 1]), rtol=1e-6
    )


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(finite, min_size=2, max_size=50).filter(lambda x: len(set(x)) > 1), finite)
def test_order_is_kept_and_scores_are_finite(train, other):
    numbers = Numbers(np.array(train) + 0.0)
    x = np.sort(np.array([*train, other]) + 0.0)
    scores = numbers.encode(x)
    assert np.isfinite(scores).all()
    assert (np.diff(scores) > -1e-6).all()
    assert (np.diff(numbers.edges) > 0).all()
    assert 2 <= len(numbers.edges) <= 33


def test_missing_numbers_stay_missing_and_teach_nothing():
    x = np.array([3.0, np.nan, 1.0, 2.0, np.nan])
    numbers = Numbers(x)
    assert np.isnan(numbers.encode(x)).tolist() == [False, True, False, False, True]
    np.testing.assert_array_equal(numbers.knots, [1, 2, 3])
    np.testing.assert_array_equal(Numbers(x[[0, 2, 3]]).edges, numbers.edges)


def test_bins_are_the_distinct_values_where_these_are_few():
    x = np.array([1, 2, 2, 5, 9, 9] * 30, float)
    numbers = Numbers(x)
    np.testing.assert_array_equal(numbers.edges, numbers.encode(np.array([1.0, 2, 5, 9])))


def test_bins_hold_as_many_rows_each_where_most_values_differ():
    x = np.random.default_rng(0).normal(size=3200)
    numbers = Numbers(x)
    counts, _ = np.histogram(numbers.encode(x), numbers.edges)
    assert len(counts) == 32
    assert counts.min() > 95
    assert counts.max() < 105


def test_a_number_of_most_rows_leaves_bins_for_the_others():
    x = np.append(np.zeros(9900), np.arange(1.0, 101))
    assert len(Numbers(x).edges) > 20


def words(values):
    """Return codes and distinct words in order of appearance."""
    levels = [each for each in dict.fromkeys(values) if each is not None]
    return np.array([levels.index(x) if x is not None else -1 for x in values]), levels


def test_categories_are_ordered_by_frequency_then_by_name():
    codes = Codes(*words(["b", "c", "a", "b", None, "c", "z", "z", "z"]))
    assert codes.categories == ["z", "b", "c", "a"]
    assert codes.cardinality == 6
    assert codes.encode(*words([None, "new", "a", "z"])).tolist() == [0, 1, 5, 2]


def test_categories_that_were_seen_once_share_the_code_of_unseen_ones_if_there_are_many():
    nine, ten = ([f"once {i}" for i in range(n)] for n in (9, 10))
    assert Codes(*words(["a", "a", *nine])).cardinality == 2 + 10
    codes = Codes(*words(["a", "a", *ten]))
    assert codes.categories == ["a"]
    assert codes.encode(*words(["once 3", "new", "a"])).tolist() == [1, 1, 2]


def test_categories_beyond_a_thousand_share_64_codes_by_their_hash():
    values = [f"w{i}" for i in range(1500) for _ in range(2 + (i < 400))]
    codes = Codes(*words(values))
    assert codes.cardinality == 2 + 1000 + 64
    assert set(codes.categories) >= {f"w{i}" for i in range(400)}
    assert codes.categories[400:] == sorted(f"w{i}" for i in range(400, 1500))[:600]
    left = sorted({*values} - {*codes.categories})
    found = codes.encode(*words([*left, "new"]))
    assert found.tolist() == [1002 + hash_of(each) % 64 for each in [*left, "new"]]


def test_categories_of_which_each_was_seen_once_are_all_hashed():
    codes = Codes(*words([f"w{i}" for i in range(100)]))
    assert codes.categories == []
    assert len(set(codes.encode(*words([f"w{i}" for i in range(100)])).tolist())) > 30


def test_the_hash_is_the_same_in_every_process():
    assert hash_of("Zürich") == 3540756798
    assert hash_of("\ud800") == hash_of("\ud800")


def dates(*values):
    return np.array(values, dtype="datetime64[us]")


def obvious(date):
    """Return the parts of a date in the slowest way."""
    hour = date.hour + date.minute / 60 + date.second / 3600 + date.microsecond / 3.6e9
    turns = [(date.month - 1) / 12, (date.day - 1) / 31, date.weekday() / 7, hour / 24]
    return [f(2 * math.pi * turn) for turn in turns for f in (math.sin, math.cos)]


@given(st.lists(st.datetimes(), min_size=1, max_size=20))
def test_parts_of_dates_are_those_of_a_calendar(values):
    cycles = Cycles(dates("2020-01-30T10", "2020-02-29T11"), is_time=False)
    assert cycles.names == ("month", "day", "weekday", "hour")
    expected = [obvious(each) for each in values]
    np.testing.assert_allclose(cycles.encode(dates(*values)), expected, atol=1e-6)


def test_parts_of_dates_that_do_not_vary_are_left_out():
    days = [datetime.date(2020, 3, day) for day in (2, 9, 16)]
    assert Cycles(dates(*days), is_time=False).names == ("day",)
    assert Cycles(dates(*days), is_time=True).width == 0


def test_a_missing_date_is_the_middle_of_the_circle():
    days = dates("2020-01-30T10", "NaT", "2020-02-29T11")
    parts = Cycles(days, is_time=False).encode(days)
    assert parts[1].tolist() == [0] * 8
    np.testing.assert_allclose(np.hypot(parts[[0, 2], ::2], parts[[0, 2], 1::2]), 1, rtol=1e-6)


def test_tags_are_the_64_most_frequent_that_not_every_row_has():
    rows = [["all", *[f"t{j:02}" for j in range(70) if i % (j + 1) == 0]] for i in range(1, 71)]
    flat = [(tag, i) for i, row in enumerate(rows) for tag in row]
    codes, levels = words([tag for tag, _ in flat])
    where = np.array([i for _, i in flat])
    tags = Tags(codes, levels, where, len(rows))
    assert tags.width == 64
    assert "all" not in tags.tags
    expected = [[float(tag in row) for tag in tags.tags] for row in rows]
    assert tags.encode(codes, levels, where, len(rows)).tolist() == expected


def test_a_tag_counts_once_in_a_row():
    tags = Tags(np.array([0, 0, 1]), ["a", "b"], np.array([0, 0, 1]), 2)
    assert tags.tags == ["a", "b"]
    encoded = tags.encode(np.array([0, 0, 1]), ["b", "new"], np.array([1, 1, 0]), 3)
    assert encoded.tolist() == [[0, 0], [0, 1], [0, 0]]


@pytest.mark.parametrize("n_rows", [2, 1000, 1001, 2500])
def test_the_ends_of_training_are_knots(n_rows):
    x = np.arange(n_rows, dtype=float)
    numbers = Numbers(x)
    assert numbers.knots[[0, -1]].tolist() == [0, n_rows - 1]
    assert len(numbers.knots) == min(n_rows, 1000)
