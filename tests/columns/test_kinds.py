"""What columns are taken for, and why."""

import datetime

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from skembed.columns import TableEncoder
from skembed.exceptions import InvalidInputError, InvalidParameterError


def column(values, kind=None):
    """Return what a column of a frame of pandas is taken for."""
    frame = pd.DataFrame({"a": values})
    return TableEncoder(kinds={"a": kind} if kind else None).fit(frame).columns_["a"]


DAY = datetime.datetime(2020, 1, 31)
HOURS = pd.date_range("2020-01-31", periods=60, freq="7h")


@pytest.mark.parametrize(
    ("values", "kind", "why", "parts"),
    [
        ([0.5, 1.5, 2.5], "number", "float64", ("number",)),
        (range(100), "number", "int64", ("number",)),
        ([*range(1, 13)] * 10, "category", "12 distinct integers of 120 rows, 1 to 12", 2),
        ([*range(1, 13)] * 9, "number", "int64", ("number",)),
        ([*range(13)] * 10, "number", "int64", ("number",)),
        ([1.0, 2.0, None] * 20, "category", "2 distinct integers of 40 rows, 1 to 2", ("code",)),
        ([0.5, 1.0, 2.0] * 20, "number", "float64", ("number",)),
        ([2**60, 2**60 + 1] * 10, "category", "2 distinct integers of 20", ("code",)),
        ([True, False, True], "boolean", "bool", ("code",)),
        ([True, None, False], "boolean", "object", ("code",)),
        (["a", "b"] * 30, "category", "2 distinct of 60 strings", ("code",)),
        ([f"w{i % 30}" for i in range(60)], "category", "30 distinct of 60 strings", ("code",)),
        ([f"the {i}" for i in range(60)], "text", "of 2.0 words on average", None),
        ([chr(i) * 3 for i in range(97, 187)], "text", "too rare to be categories", None),
        ([f"A-{i:03}" for i in range(60)], "drop", "every value is another code: it names", ()),
        ([f"A-{i}" for i in range(60)], "text", "too rare to be categories", None),
        ([f"{i:02}/{j:02}/2020" for i in range(1, 9) for j in range(1, 9)], "text", "rare", None),
        ([f"A-{i}" for i in range(49)], "category", "49 distinct of 49 strings", ("code",)),
        ([f"{i / 7:.3}" for i in range(60)], "number", "strings that are all num", ("number",)),
        (["1", "2", " "] * 20, "category", "2 distinct integers of 40 rows", ("code",)),
        (["1", "2", "3"] * 20, "category", "3 distinct integers of 60 rows", ("number", "code")),
        (["1e5", "-2", ".5", "+7.0"], "number", "strings that are all numbers", ("number",)),
        (["01", "02", "10"], "category", "3 distinct of 3 strings", ("code",)),
        (["2020-01-31", "2020-02-01"], "date", "strings that are all ISO dates", 4),
        (["2020-01-31 10:00Z", "2020-01-31T23:30:00.5+02:00"], "date", "ISO dates", 2),
        (["2020-01-31", "2020-02-31"], "category", "2 distinct of 2 strings", ("code",)),
        (pd.Categorical([3, 1, 3]), "category", "category type", ("code",)),
        (pd.cut(np.arange(30), 3), "category", "category type", ("code",)),
        (HOURS, "date", "datetime", ("number", "month", "day", "weekday", "hour")),
        ([DAY.date(), DAY.date() + datetime.timedelta(7)], "date", "object", 3),
        (HOURS - HOURS[0], "duration", "duration", ("number",)),
        ([datetime.time(i) for i in range(24)], "date", "time of the day", ("number", "hour")),
        ([["a"], ["b", "c"], []], "tags", "object", ("tags of 3",)),
        ([("a",), {"b"}, np.array(["c"])], "tags", "object", ("tags of 3",)),
        ([1, "a", 2.5, np.nan] * 9, "category", "mixed types, as text", ("code",)),
        ([7, 7, 7], "drop", "constant: nothing to learn", ()),
        (["x", "x"], "drop", "constant: nothing to learn", ()),
        ([["x"], ["x"]], "drop", "constant: nothing to learn", ()),
        ([" ", "  "] * 30, "category", "2 distinct of 60 strings", ("code",)),
        ([None, None], "drop", "all missing: nothing to learn", ()),
        ([np.nan, np.nan], "drop", "all missing: nothing to learn", ()),
        ([7, None, 7], "category", "one value, or missing", ("code",)),
        ([DAY, None], "category", "one value, or missing", ("code",)),
    ],
)
def test_kinds_are_inferred_from_values(values, kind, why, parts):
    found = column(values)
    assert found.kind == kind
    assert why in found.why
    if isinstance(parts, int):
        assert len(found.parts) == parts
    elif parts is not None:
        assert found.parts == parts


def test_a_column_reads_well():
    assert repr(column([1.5, None, 2.5])) == "a: number (float64; 2 distinct, 1 missing) -> number"
    assert repr(column([7, 7])) == "a: drop (constant: nothing to learn; 1 distinct)"


@pytest.mark.parametrize(
    ("values", "kind", "parts"),
    [
        ([1, 2, 3], "category", ("code",)),
        ([1.5, 2.5], "category", ("code",)),
        ([1, 2] * 20, "number", ("number",)),
        (["1", "2", "x"], "number", ("number",)),
        ([0, 1], "boolean", ("code",)),
        (["yes", "no"], "boolean", ("code",)),
        (["a", "b"], "text", ("text of 2",)),
        ([HOURS[0], HOURS[9]], "category", ("code",)),
        ([{"a": 1}, b"2"], "drop", ()),
    ],
)
def test_kinds_can_be_given(values, kind, parts):
    found = column(values, kind)
    assert (found.kind, found.why) == (kind, "given")
    assert found.parts == parts


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (["a", "b"], "number", "given as 'number', but 'a' is no number"),
        (["a", "b"], "date", "given as 'date', but 'a' is no date"),
        (["a", "b"], "boolean", "given as 'boolean', but 'a' is no boolean"),
        (["a", "b"], "tags", r"words \(str\), expected lists; split the strings first"),
        ([1, 2], "date", r"numbers \(int64\), expected dates; convert .* pandas.to_datetime"),
        ([1, 2], "duration", ".*expected durations; convert it first, as with pandas.to_timedelta"),
        ([1, 2, 3], "boolean", "given as .*it has more than two values; try 'category'"),
        ([HOURS[0], HOURS[9]], "number", r"dates \(datetime\), expected numbers"),
        ([["a"], ["b"]], "category", r"lists \(object\), expected words"),
        ([np.inf, np.inf, None], None, "inf, expected no infinity"),
    ],
)
def test_a_kind_that_does_not_fit_is_an_error(values, kind, message):
    with pytest.raises(InvalidInputError, match=f"column 'a': {message}"):
        column(values, kind)


def test_all_unknown_names_and_kinds_are_named():
    frame = pd.DataFrame({"zip": [1, 2], "b": [1, 2]})
    with pytest.raises(InvalidParameterError, match=r"zpi.* 'zip'") as caught:
        TableEncoder(kinds={"zpi": "category", "b": "categry"}).fit(frame)
    assert "{'b': 'categry'}: expected one of 'boolean', " in str(caught.value)
    assert "Did you mean 'category'?" in str(caught.value)


def test_columns_of_arrays_are_named_by_position():
    columns = TableEncoder(kinds={"x1": "drop"}).fit([[1.5, 2.5], [2.5, 1.5]]).columns_
    assert [each.kind for each in columns.values()] == ["number", "drop"]


def test_all_columns_that_cannot_be_encoded_are_named():
    frame = pd.DataFrame(
        {
            "fine": [1, 2],
            "dicts": [{"a": 1}, 5],
            "vectors": [np.ones(2), np.ones(2)],
            "mixed": [["a"], 1],
            "zones": [DAY, DAY.replace(tzinfo=datetime.timezone.utc)],
            "complex": [1j, 2j],
            "periods": pd.period_range("2020", periods=2),
        }
    )
    with pytest.raises(InvalidInputError, match="Columns that can't be encoded") as caught:
        TableEncoder().fit(frame)
    message = str(caught.value)
    assert "fine" not in message
    # As NumPy says it, which scikit-learn's checks expect.
    assert (
        "'dicts': each argument must be a string or a number, got dict, int, such as {" in message
    )
    assert "'vectors': lists of float64, such as array([1., 1.]), expected lists of str" in message
    assert "'mixed': each argument must be a string or a number, got int, list" in message
    assert "'zones': some dates have a time zone and some have none" in message
    assert "'complex': Complex data not supported" in message
    assert "'periods': of type period[" in message


@pytest.mark.parametrize(
    "frame",
    [pl.DataFrame({"a": [{"b": 1}]}), pa.table({"a": [b"1"]}), pl.DataFrame({"a": [[1, 2]]})],
)
def test_structs_bytes_and_lists_of_numbers_are_refused(frame):
    with pytest.raises(InvalidInputError, match=r"column 'a': .*set the column to 'drop'"):
        TableEncoder().fit(frame)
