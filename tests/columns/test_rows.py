"""Rows of several arrays: slices, bytes, order."""

import pickle

import numpy as np
import pytest

from skembed._inputs import ArrayRows

NUMBERS = np.array([[1, np.nan], [2, 3], [1, np.nan], [1, 3]], np.float32)
CODES = np.array([[4], [5], [4], [5]], np.int32)


def rows():
    return ArrayRows({"numbers": NUMBERS, "codes": CODES, "dense": np.zeros((4, 0), np.float32)})


def test_a_slice_is_a_view_and_a_row_is_rows_of_length_one():
    assert len(rows()) == 4
    assert np.shares_memory(rows()[1:3].arrays["codes"], CODES)
    assert rows()[1:3].arrays["codes"].tolist() == [[5], [4]]
    for i in (-4, 0, np.int64(0)):
        assert len(rows()[i]) == 1
        assert rows()[i].arrays["codes"].tolist() == [[4]]
    assert [each.arrays["codes"].item() for each in rows()] == [4, 5, 4, 5]


@pytest.mark.parametrize("i", [4, -5])
def test_a_row_beyond_the_last_is_an_index_error(i):
    with pytest.raises(IndexError, match="out of bounds"):
        rows()[i]


def test_rows_are_taken_in_any_order():
    taken = rows().take([3, 0, 3])
    assert taken.arrays["codes"].tolist() == [[5], [4], [5]]
    np.testing.assert_array_equal(taken.arrays["numbers"], NUMBERS[[3, 0, 3]])
    assert len(rows().take([])) == 0


def test_equal_rows_have_equal_bytes_and_others_have_not():
    contents = rows().contents()
    assert contents[0] == contents[2]
    assert len(set(contents)) == 3
    assert all(type(each) is bytes for each in contents)
    assert contents[1] == NUMBERS[1].tobytes() + CODES[1].tobytes()
    assert rows()[1].contents() == contents[1:2]


def test_bytes_do_not_depend_on_how_arrays_lie_in_memory():
    transposed = ArrayRows({"a": np.asfortranarray(NUMBERS), "b": CODES[::-1][::-1]})
    assert transposed.contents() == ArrayRows({"a": NUMBERS, "b": CODES}).contents()


def test_rows_without_columns_and_no_rows_have_contents():
    assert ArrayRows({"a": np.zeros((3, 0))}).contents() == [b""] * 3
    assert rows()[:0].contents() == []


def test_arrays_of_other_lengths_are_refused():
    for arrays in ({"a": NUMBERS, "b": CODES[:3]}, {}):
        with pytest.raises(ValueError, match="as many rows each"):
            ArrayRows(arrays)


def test_rows_say_their_size_and_are_pickled():
    assert rows().nbytes == 4 * (2 + 1) * 4
    assert "4 rows of numbers (2,), codes (1,)" in repr(rows())
    assert pickle.loads(pickle.dumps(rows())).contents() == rows().contents()
