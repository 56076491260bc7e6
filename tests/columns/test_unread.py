"""Words among numbers and dates; words that mean the same; columns that pandas keeps sparse."""

import re
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from skembed.columns import TableEncoder
from skembed.exceptions import InvalidRowsWarning

DAYS = [f"2025-{month:02}-{day:02}" for month in (1, 2, 3) for day in range(1, 21)]
NUMBERS = [f"{i / 7:.3f}" for i in range(60)]


def but(values, *bad):
    """Return values with the last ones replaced."""
    return [*values[: len(values) - len(bad)], *bad]


def fitted(values, kind=None):
    return TableEncoder(kinds={"a": kind} if kind else None).fit(pd.DataFrame({"a": values}))


@pytest.mark.parametrize(
    ("values", "kind", "why"),
    [
        (but(DAYS, "soon"), "date", "all ISO dates but 1 of 60, counted as missing: 'soon'"),
        (
            but(DAYS, "x", "2025-02-30", "9.1.25"),
            "date",
            "3 of 60, .*: '2025-02-30', '9.1.25', 'x'",
        ),
        (but(DAYS, *"abcd"), "text", "60 distinct of 60 strings"),
        (but(DAYS, *["?", "N/A", "null", ""] * 5), "date", "strings that are all ISO dates"),
        (but(NUMBERS, "unknown", "12 kg", "$5"), "number", "strings that are all numbers but 3 of"),
        (but(NUMBERS, *"abcd"), "text", "60 distinct of 60 strings"),
        (but(NUMBERS, *["n/a", "NaN", "-", " "] * 5), "number", "strings that are all numbers"),
        ([f"{i},{i:03}.5" for i in range(1, 60)], "number", "strings that are all numbers"),
        (but([str(10115 + 31 * i) for i in range(60)], "01067"), "text", "60 distinct of 60"),
        (but([f"{i + 250}.{i}" for i in range(60)], "V27.1"), "text", "60 distinct of 60"),
        (but([*"12345"] * 20, "other"), "category", "6 distinct of 100 strings"),
        (
            [*(i / 7 for i in range(58)), "unknown", None],
            "number",
            "values that are all numbers but 1",
        ),
        (["?", "-"] * 30, "category", "2 distinct of 60 strings"),
        (but(DAYS[:10], "soon"), "category", "10 distinct of 10 strings"),
    ],
)
def test_words_of_which_nearly_all_are_numbers_or_dates_are_such(values, kind, why):
    column = fitted(values).columns_["a"]
    assert column.kind == kind
    assert re.search(why, column.why)


@pytest.mark.parametrize(
    ("values", "plain"),
    [
        (but(DAYS, "soon", "x"), but(DAYS, None, None)),
        (but(NUMBERS, "n/a", "two"), but(NUMBERS, None, None)),
        ([f"{i},{i:03}" for i in range(1, 60)], [str(1001 * i) for i in range(1, 60)]),
        (["-1,234,567.5", *NUMBERS], ["-1234567.5", *NUMBERS]),
    ],
)
def test_what_cannot_be_read_is_missing(values, plain):
    encoder, expected = fitted(values), fitted(plain)
    assert encoder.columns_["a"].n_missing == expected.columns_["a"].n_missing
    assert encoder.digest == expected.digest


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table])
def test_rows_with_cells_that_cannot_be_read_are_named_together(make):
    train = make({"day": DAYS, "much": but(NUMBERS, "lots")})
    encoder = TableEncoder().fit(train)
    table = make({"day": ["2025-01-02", "soon", "?"], "much": ["1.5", "x", "1e999"]})
    with pytest.warns(InvalidRowsWarning, match="^Cells of 1 of 3 rows cannot be read"):
        rows, faults, unread = encoder.read(table)
    assert unread == {1: "column 'day': 'soon' is no date; column 'much': 'x' is no number"}
    assert faults == {2: "column 'much': inf, expected no infinity"}
    assert len(rows) == 2
    assert np.isnan(rows.arrays["numbers"][1]).all()


def test_a_cell_that_cannot_be_read_is_missing_whatever_stands_beside_it():
    encoder = fitted(DAYS)
    with pytest.warns(InvalidRowsWarning, match="'soon' is no date"):
        alone = encoder.transform([["soon"]])[0].contents()
    with pytest.warns(InvalidRowsWarning, match="'soon' is no date"):
        whole = encoder.transform([[DAYS[3]], ["soon"], [None]])[0].contents()
    assert alone == whole[1:2] == whole[2:]


@pytest.mark.parametrize("kind", ["number", "date"])
def test_a_kind_that_was_given_makes_them_faults(kind):
    values = {"number": NUMBERS, "date": DAYS}[kind]
    encoder = fitted(values, kind)
    assert encoder.digest == fitted(values).digest
    assert encoder.transform([["soon"], ["?"]])[1] == {0: f"column 'a': 'soon' is no {kind}"}


TRUTHS = [True, False] * 20
SAID = {
    "bool": pd.Series(TRUTHS),
    "nullable": pd.Series(TRUTHS, dtype="boolean"),
    "objects": pd.Series(TRUTHS, dtype=object),
    "integers": pd.Series(TRUTHS).astype(int),
    "floats": pd.Series(TRUTHS).astype(float),
    "decimals": pd.Series([Decimal(int(each)) for each in TRUTHS]),
    "True": pd.Series(list(map(str, TRUTHS))),
    "true": pd.Series([str(each).lower() for each in TRUTHS]),
    "digits": pd.Series([str(int(each)) for each in TRUTHS]),
    "yes": pd.Series(["yes" if each else "no" for each in TRUTHS]),
    "category": pd.Series(TRUTHS).astype("category"),
    "category of integers": pd.Series(TRUTHS).astype(int).astype("category"),
}


@pytest.mark.parametrize("before", SAID)
def test_what_says_true_and_false_means_the_same_in_any_words(before):
    encoder = TableEncoder().fit(pd.DataFrame({"a": SAID[before]}))
    expected = encoder.transform(pd.DataFrame({"a": SAID[before]}))[0].arrays["codes"]
    assert sorted(set(expected.ravel().tolist())) == [2, 3]
    for after in SAID.values():
        found, faults = encoder.transform(pd.DataFrame({"a": after}))
        assert not faults
        np.testing.assert_array_equal(found.arrays["codes"], expected)


def test_words_that_say_more_than_true_and_false_are_only_themselves():
    for values in (["1", "0", "x"] * 20, ["1", "yes", "no"] * 20):
        codes = fitted(values).transform([["1"], ["0"], ["x"], [True], ["true"]])[0].arrays["codes"]
        assert codes[3:].ravel().tolist() == [1, 1]
    only = fitted(["yes", None] * 20).transform([[True], [1], [False], ["no"]])[0].arrays["codes"]
    assert only.ravel().tolist() == [2, 2, 1, 1]


@pytest.mark.parametrize(
    ("values", "fill", "dtype"),
    [
        ([0.0, 1.5, 0.0, 2.5] * 9, 0.0, float),
        ([0.0, 1.5, np.nan, 2.5] * 9, np.nan, float),
        ([0, 1, 0, 7] * 9, 0, int),
        ([True, False, False] * 9, False, bool),
    ],
)
def test_a_sparse_column_of_pandas_is_its_dense_one(values, fill, dtype):
    dense = pd.DataFrame({"a": pd.Series(values, dtype=dtype), "b": np.arange(len(values)) / 7})
    sparse = dense.astype({"a": pd.SparseDtype(dtype, fill)})
    encoder, expected = TableEncoder().fit(sparse), TableEncoder().fit(dense)
    assert encoder.digest == expected.digest
    assert repr(encoder.columns_["a"]) == repr(expected.columns_["a"])
    assert encoder.transform(sparse)[0].contents() == expected.transform(dense)[0].contents()


def test_infinity_in_a_sparse_column_is_a_fault_of_its_row():
    X = pd.DataFrame({"a": pd.arrays.SparseArray([0.0, 1.5, np.inf])})
    _, faults = TableEncoder().fit(X).transform(X)
    assert faults == {2: "column 'a': inf, expected no infinity"}
