"""Tables from any container, and what is no table."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
import torch
from sklearn.utils import check_array

from skembed.columns import TableEncoder, _table, read_table
from skembed.exceptions import InvalidInputError, InvalidRowsError
from tests.columns.tables import CONTAINERS, data

X = np.arange(12.0).reshape(4, 3)


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_has_the_same_columns(container):
    table = read_table(CONTAINERS[container](data()))
    assert table.n_rows == 60
    assert len(table.columns) == 17
    has_names = container not in ("numpy", "lists")
    assert table.names == (list(data()) if has_names else None)
    assert table.column_names[1] == ("whole" if has_names else "x1")
    assert read_table(table) is table


@pytest.mark.parametrize(
    "given",
    [
        X.tolist(),
        list(X),
        tuple(map(tuple, X)),
        X.astype(np.float32),
        X.astype(object),
        X.astype(">f8"),
        np.ma.masked_array(X),
        torch.from_numpy(X),
        list(torch.from_numpy(X)),
        scipy.sparse.csr_matrix(X),
        scipy.sparse.coo_array(X),
        pd.DataFrame(X),
        pa.RecordBatch.from_pandas(pd.DataFrame(X)),
    ],
    ids=lambda given: type(given).__name__,
)
def test_matrices_of_equal_numbers_give_equal_arrays(given):
    expected, _ = TableEncoder().fit(X).transform(X)
    rows, _ = TableEncoder().fit(given).transform(given)
    assert rows.contents() == expected.contents()


def test_columns_of_an_array_are_not_copied():
    assert np.shares_memory(read_table(X).columns[1], X)


def test_masked_numbers_are_missing():
    masked = np.ma.masked_array(X, X == 4)
    rows, _ = TableEncoder().fit(masked).transform(masked)
    assert np.isnan(rows.arrays["numbers"]).tolist() == (X == 4).tolist()


def test_labels_are_those_of_the_index():
    frame = pd.DataFrame(X, index=list("abcd"), columns=list("xyz"))
    assert list(read_table(frame).labels) == list("abcd")
    assert read_table(frame.reset_index(drop=True)).labels is None


@pytest.mark.parametrize("wrong", [X[0], X[0, 0], X[None], X[:, :0], [1, 2], ["a", "b"], []])
def test_wrong_dimensions_are_refused_as_scikit_learn_does(wrong):
    with pytest.raises(InvalidRowsError, match=r"got|Found") as ours:
        read_table(wrong)
    with pytest.raises(ValueError, match=r"got|Found") as theirs:
        check_array(wrong, dtype=None)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("series", [pd.Series([1, 2]), pl.Series([1]), pa.chunked_array([[1]])])
def test_a_series_is_refused(series):
    with pytest.raises(InvalidRowsError, match="Expected 2D array, got 1D array instead"):
        read_table(series)


@pytest.mark.parametrize("frame", [pd.DataFrame(index=range(3)), pl.DataFrame(), pa.table({})])
def test_a_frame_without_columns_is_refused(frame):
    with pytest.raises(InvalidRowsError, match=r"0 feature\(s\) \(shape=\(\d, 0\)\) while a mini"):
        read_table(frame)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([{"a": 1}, {"a": 2}], r"a list of dicts. Make a frame of it: pandas.DataFrame\(X\)"),
        ({"a": [1, 2]}, r"got a dict. Make a frame of it: pandas.DataFrame\(X\)"),
        ([[1, 2], [1, 2], [1]], "2 values in most and 1 in row 2"),
        (pl.DataFrame({"a": [1]}).lazy(), r"got a LazyFrame. Use X.collect\(\)"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "more than one of: 'a'"),
        (np.array([[b"a"]]), r"Decode bytes with X.astype\(str\)"),
        ({1, 2}, "got a set"),
    ],
)
def test_what_is_no_table_is_refused_with_what_to_do(wrong, message):
    with pytest.raises(InvalidInputError, match=message):
        read_table(wrong)


@pytest.mark.parametrize("wrong", [X + 1j, scipy.sparse.csr_matrix(X + 1j)])
def test_complex_numbers_are_refused(wrong):
    with pytest.raises(InvalidRowsError, match="Complex data not supported"):
        read_table(wrong)


def test_a_large_sparse_matrix_is_refused_before_it_is_made_dense(monkeypatch):
    message = "at most 2 GiB as a dense one, got one of shape .*, 745.1 GiB. .*TruncatedSVD"
    with pytest.raises(InvalidInputError, match=message):
        read_table(scipy.sparse.csr_matrix((10**6, 10**5)))
    monkeypatch.setattr(_table, "_MOST_BYTES_OF_SPARSE", 96)
    assert read_table(scipy.sparse.csr_matrix(X)).columns[0].dtype == X.dtype
