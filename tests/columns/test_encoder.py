"""Tables as arrays: the same from all containers, row by row, and what is wrong with rows."""

import datetime
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import skops.io

from skembed.columns import TableEncoder
from skembed.exceptions import InvalidInputError, InvalidRowsError, InvalidRowsWarning
from tests.columns.tables import CONTAINERS, data


@pytest.fixture(scope="module")
def encoder():
    return TableEncoder().fit(pd.DataFrame(data(has_gaps=True)))


@pytest.mark.parametrize("has_gaps", [False, True])
@pytest.mark.parametrize("container", CONTAINERS)
def test_equal_tables_give_equal_arrays_bit_by_bit(container, has_gaps):
    frame = pd.DataFrame(data(has_gaps=has_gaps))
    expected = TableEncoder().fit(frame)
    X, other = (CONTAINERS[container](data(seed, has_gaps=has_gaps)) for seed in (0, 1))
    encoder = TableEncoder().fit(X)
    assert encoder.digest == expected.digest
    for table, seed in ((X, 0), (other, 1)):
        rows, faults = encoder.transform(table)
        assert not faults
        reference = expected.transform(pd.DataFrame(data(seed, has_gaps=has_gaps)))[0]
        for name, array in rows.arrays.items():
            assert array.tobytes() == reference.arrays[name].tobytes(), name
    for ours, theirs in zip(encoder.columns_.values(), expected.columns_.values(), strict=True):
        assert (ours.kind, ours.parts) == (theirs.kind, theirs.parts)
        assert (ours.n_distinct, ours.n_missing) == (theirs.n_distinct, theirs.n_missing)


def test_arrays_have_the_types_and_widths_that_the_shape_says(encoder):
    rows, _ = encoder.transform(pd.DataFrame(data(1)))
    arrays, shape = rows.arrays, encoder.shape
    assert {name: array.dtype.name for name, array in arrays.items()} == {
        "numbers": "float32",
        "codes": "int32",
        "dense": "float32",
    }
    assert arrays["numbers"].shape == (60, len(shape.bins))
    assert arrays["codes"].shape == (60, len(shape.cardinalities))
    assert arrays["dense"].shape == (60, sum(shape.dense))
    assert (arrays["codes"] < shape.cardinalities).all()
    assert all(edges.dtype == np.float32 and 2 <= len(edges) <= 33 for edges in shape.bins)
    # Four kinds of dates with 4, 3, 4 and 1 cycles; text; tags; ISO strings.
    assert sorted(shape.dense) == [2, 3, 6, 8, 8, 8, 30]


def test_a_row_does_not_depend_on_its_neighbours(encoder):
    frame = pd.DataFrame(data(1, has_gaps=True))
    contents = encoder.transform(frame)[0].contents()
    order = np.random.default_rng(0).permutation(60)
    assert encoder.transform(frame.iloc[order])[0].contents() == [contents[i] for i in order]
    for i in range(4, 8):
        assert encoder.transform(frame.iloc[i : i + 1])[0].contents() == contents[i : i + 1]


def test_a_missing_value_is_nan_code_0_and_zeros(encoder):
    frame = pd.DataFrame(data(has_gaps=True))
    arrays = encoder.transform(frame.iloc[5:6].drop(columns="full").assign(full=0.5))[0].arrays
    assert np.isnan(arrays["numbers"][0, :-1]).all()
    assert not np.isnan(arrays["numbers"][0, -1])
    assert not arrays["codes"].any()
    assert not arrays["dense"].any()


def test_no_rows_give_arrays_of_no_rows(encoder):
    for container in CONTAINERS.values():
        if container is CONTAINERS["lists"]:
            continue
        empty = container({name: values[:0] for name, values in data().items()})
        rows, faults = encoder.transform(empty)
        assert (len(rows), faults) == (0, {})
        assert rows.arrays["codes"].shape == (0, len(encoder.shape.cardinalities))


def test_one_row_teaches_nothing():
    encoder = TableEncoder().fit([[1, "a"]])
    assert {column.kind for column in encoder.columns_.values()} == {"drop"}
    rows, _ = encoder.transform([[1, "a"], [2, "b"]])
    assert rows.contents() == [b"", b""]


def test_a_table_without_rows_is_refused_by_fit():
    message = r"Found array with 0 sample\(s\) \(shape=\(0, 3\)\) while a minimum of 1 is required"
    with pytest.raises(InvalidRowsError, match=message):
        TableEncoder().fit(np.zeros((0, 3)))


def test_an_odd_index_changes_nothing(encoder):
    frame = pd.DataFrame(data(1))
    odd = frame.set_axis([7] * 60)
    assert encoder.transform(odd)[0].contents() == encoder.transform(frame)[0].contents()


def test_columns_are_taken_by_position_and_counted(encoder):
    with pytest.raises(
        InvalidRowsError, match="X has 2 features, but TableEncoder is expecting 17"
    ):
        encoder.transform(np.zeros((3, 2)))


def test_a_fitted_encoder_is_saved_by_pickle_and_skops(encoder):
    frame = pd.DataFrame(data(1))
    expected = encoder.transform(frame)[0].contents()
    saved = skops.io.dumps(encoder)
    trusted = skops.io.get_untrusted_types(data=saved)
    assert all(name.startswith("skembed.columns.") for name in trusted)
    for loaded in (pickle.loads(pickle.dumps(encoder)), skops.io.loads(saved, trusted=trusted)):
        assert loaded.digest == encoder.digest
        assert loaded.columns_ == encoder.columns_
        assert loaded.transform(frame)[0].contents() == expected


def test_the_digest_tells_what_changes_arrays(encoder):
    frame = pd.DataFrame(data(has_gaps=True))
    assert TableEncoder().fit(frame).digest == encoder.digest
    renamed = frame.rename(columns={"number": "n"})
    assert TableEncoder().fit(renamed).digest == encoder.digest
    for changed in (frame[1:], frame[frame.columns[::-1]], frame.assign(color="red")):
        assert TableEncoder().fit(changed).digest != encoder.digest
    assert TableEncoder(kinds={"few": "number"}).fit(frame).digest != encoder.digest


def test_arrays_are_the_same_in_another_process():
    code = (
        "import zlib, pandas as pd; from skembed.columns import TableEncoder; "
        "from tests.columns.tables import data; frame = pd.DataFrame(data()); "
        "encoder = TableEncoder().fit(frame); contents = encoder.transform(frame)[0].contents(); "
        "print(encoder.digest.hex(), zlib.crc32(b''.join(contents)))"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(runs) == 1


def test_values_that_cannot_be_used_are_faults_of_their_rows():
    train = {
        "a": [1.5, 2.5, np.inf] * 9,
        "s": ["1.5", "2", "3"] * 9,
        "d": ["2020-01-01", "2020-01-02", "2020-02-02"] * 9,
        "b": [True, False, None] * 9,
    }
    encoder = TableEncoder(kinds={"s": "number", "d": "date"}).fit(pd.DataFrame(train))
    table = {
        "a": [np.inf, 2, -np.inf, 1],
        "s": ["x", None, "1e999", "7"],
        "d": ["2020-02-31", "", "2020-01-01T10:00", "2020-01-01"],
        "b": [1.0, 0.0, 0.5, 1.0],
    }
    for X in (pd.DataFrame(table), pl.DataFrame(table), pa.table(table)):
        rows, faults = encoder.transform(X)
        assert faults == {
            0: "column 'a': inf, expected no infinity; column 's': 'x' is no number; "
            "column 'd': '2020-02-31' is no date",
            2: "column 'a': -inf, expected no infinity; column 's': inf, expected no infinity; "
            "column 'b': '0.5' is no boolean",
        }
        good = encoder.transform(pd.DataFrame(table).iloc[[1, 3]])[0]
        assert rows.contents() == good.contents()


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("number", [datetime.datetime(2020, 1, 1)], "dates .*, expected numbers"),
        ("number", [["a"]], r"lists \(object\), expected numbers"),
        ("time", [1], "numbers .*, expected dates"),
        ("time", [datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)], "fit without one"),
        ("instant", [datetime.datetime(2020, 1, 1)], "dates without a time zone, in fit with one"),
        ("tags", ["a"], r"words \(str\), expected lists"),
        ("tags", [[1.5]], "expected lists of strings"),
        ("took", ["1h"], "expected durations"),
    ],
)
def test_a_column_of_another_type_than_in_fit_is_an_error(encoder, name, values, message):
    frame = pd.DataFrame(data()).iloc[:1].drop(columns=name)
    frame.insert(list(data()).index(name), name, values)
    with pytest.raises(InvalidInputError, match=f"column '{name}': .*{message}"):
        encoder.transform(frame)


def test_unseen_categories_and_strings_of_numbers_are_no_faults():
    frame = pd.DataFrame({"zip": [10115, 20095] * 30, "x": ["a", "b"] * 30})
    encoder = TableEncoder().fit(frame)
    rows, faults = encoder.transform([["10115", "b"], [20095.0, "new"], ["?", 5], [None, None]])
    assert not faults
    assert rows.arrays["codes"].tolist() == [[2, 3], [3, 1], [1, 1], [0, 0]]


def test_categories_of_pandas_keep_their_meaning_when_codes_differ():
    train = pd.DataFrame({"a": pd.Categorical(list("abba"), categories=list("abc"))})
    encoder = TableEncoder().fit(train)
    expected = encoder.transform(train)[0].contents()
    for same in (
        pd.Categorical(list("abba"), categories=list("zba"), ordered=True),
        list("abba"),
        pl.Series(list("abba"), dtype=pl.Enum(list("ba"))).to_pandas(),
    ):
        assert encoder.transform(pd.DataFrame({"a": same}))[0].contents() == expected
    for frame in (
        pl.DataFrame({"a": pl.Series(list("abba"), dtype=pl.Categorical)}),
        pa.table({"a": pa.array(list("abba")).dictionary_encode()}),
    ):
        assert encoder.transform(frame)[0].contents() == expected
        assert TableEncoder().fit(frame).digest == encoder.digest


def test_numbers_of_every_type_are_the_same_numbers():
    x = [1, 5, 2, 7]
    contents = set()
    for dtype in ("int8", "uint16", "int64", "float16", "float32", "Int32", "Float64", "object"):
        frame = pd.DataFrame({"a": pd.Series(x, dtype=dtype)})
        contents.add(tuple(TableEncoder().fit(frame).transform(frame)[0].contents()))
    for dtype in (pl.UInt8, pl.Int128, pl.Decimal(10, 2)):
        polars = pl.DataFrame({"a": pl.Series(x, dtype=dtype)})
        contents.add(tuple(TableEncoder().fit(polars).transform(polars)[0].contents()))
    assert len(contents) == 1


def test_whole_numbers_beyond_float64_stay_apart_as_categories():
    frame = pd.DataFrame({"a": [2**60, 2**60 + 1, 2**60 + 2] * 20})
    encoder = TableEncoder().fit(frame)
    rows, _ = encoder.transform(frame)
    assert encoder.columns_["a"].parts == ("code",)
    assert len(set(rows.arrays["codes"].ravel().tolist())) == 3
    assert TableEncoder(kinds={"a": "number"}).fit(frame).columns_["a"].kind == "drop"


def test_whole_numbers_beyond_64_bits_are_numbers():
    rows, faults = TableEncoder().fit([[2**70], [1], [5]]).transform([[2**70], [10**400]])
    assert list(faults) == [1]
    assert np.isfinite(rows.arrays["numbers"]).all()


def test_time_zones_are_instants_for_elapsed_time_and_local_for_cycles():
    berlin = pd.date_range("2020-03-28", periods=60, freq="h", tz="Europe/Berlin")
    frame = pd.DataFrame({"a": berlin})
    rows, _ = TableEncoder().fit(frame).transform(frame)
    utc = pd.DataFrame({"a": berlin.tz_convert("UTC")})
    in_utc, _ = TableEncoder().fit(utc).transform(utc)
    np.testing.assert_array_equal(rows.arrays["numbers"], in_utc.arrays["numbers"])
    local = pd.DataFrame({"a": berlin.tz_localize(None)})
    encoder = TableEncoder().fit(local)
    np.testing.assert_array_equal(rows.arrays["dense"], encoder.transform(local)[0].arrays["dense"])
    # As objects and as strings, too.
    for same in (list(berlin.to_pydatetime()), [each.isoformat() for each in berlin]):
        again = pd.DataFrame({"a": pd.Series(same, dtype=object)})
        assert TableEncoder().fit(again).transform(again)[0].contents() == rows.contents()


def test_a_blank_date_has_no_time_zone_to_be_wrong():
    encoder = TableEncoder().fit([["2020-01-31T10:00Z"], ["2020-02-29T11:30+02:00"]])
    rows, faults = encoder.transform([[" "]])
    assert not faults
    assert np.isnan(rows.arrays["numbers"]).all()
    with pytest.warns(InvalidRowsWarning, match="column 'x0': 'soon' is no date"):
        unread, faults = encoder.transform([["soon"]])
    assert not faults
    assert unread.contents() == rows.contents()


def test_dates_of_every_unit_are_the_same_dates():
    days = np.array(["2020-01-31", "2020-02-29", "NaT", "2021-03-01"], dtype="datetime64[D]")
    frame = pd.DataFrame({"a": days.astype("datetime64[s]")})
    expected = TableEncoder().fit(frame).digest
    for unit in ("ms", "us", "ns"):
        assert TableEncoder().fit(frame.astype(f"datetime64[{unit}]")).digest == expected
    assert TableEncoder().fit(days[:, None]).digest == expected
    assert TableEncoder().fit(pl.DataFrame({"a": days})).digest == expected
    assert TableEncoder().fit(pa.table({"a": pa.array(days)})).digest == expected


def test_an_array_of_strings_is_read_as_a_frame_of_them():
    X = np.array([["a", "1.5"], ["b", "2.5"], ["a", "7"]] * 5)
    frame = pd.DataFrame(X)
    encoder = TableEncoder().fit(X)
    assert [each.kind for each in encoder.columns_.values()] == ["category", "number"]
    assert encoder.digest == TableEncoder().fit(frame).digest
    assert encoder.transform(X)[0].contents() == encoder.transform(frame)[0].contents()


def test_fit_and_transform_leave_the_table_as_it_was():
    X = np.array([[1.5, np.inf], [np.nan, -0.0], [2.5, 7.0]])
    objects, before = X.astype(object), X.copy()
    TableEncoder().fit(X).transform(X)
    TableEncoder().fit(objects).transform(objects)
    np.testing.assert_array_equal(X, before)
    np.testing.assert_array_equal(objects.astype(float), before)


def test_positive_and_negative_zero_are_one_row():
    encoder = TableEncoder().fit([[0.0], [1.5], [-2.5]])
    first, second = encoder.transform([[0.0], [-0.0]])[0].contents()
    assert first == second
