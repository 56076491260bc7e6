"""Checks that a vector depends on its row alone: not on order, company, batch or container."""

from __future__ import annotations

import math
from typing import Any

import joblib
import numpy as np

from skembed.testing._backends import import_backend, odd_index
from skembed.testing._case import Case, fail, object_array, skip

__all__ = ["CHECKS"]


def check_rows_untouched(case: Case) -> None:
    """Check that `fit` and `transform` change neither the rows nor their container."""
    rows = case.rows
    try:
        before = joblib.hash(rows)
    except Exception:
        skip("the rows cannot be hashed")
    members = None if case.is_table else [id(row) for row in rows]
    estimator = case.unfitted()
    estimator.fit(rows) if case.y is None else estimator.fit(rows, case.y)
    estimator.transform(rows)
    if members is not None and members != [id(row) for row in rows]:
        fail("expected the list as it was given, got other members or another order")
    if joblib.hash(rows) != before:
        fail("expected the content of the rows unchanged, got a change")


def check_order_invariance(case: Case) -> None:
    """Check that rows in another order give the same vectors in that order."""
    estimator = case.fitted()
    n_rows = case.n_rows
    orders = {
        "reversed": list(range(n_rows))[::-1],
        "permuted": np.random.default_rng(0).permutation(n_rows).tolist(),
    }
    for what, order in orders.items():
        got = estimator.transform(case.take(order))
        case.assert_same(got, case.reference[order], f"{what} rows")


def check_subset_invariance(case: Case) -> None:
    """Check that some of the rows give the vectors that they have among all."""
    estimator = case.fitted()
    every = range(case.n_rows)
    for what, part in {
        "first half": every[: case.n_rows // 2],
        "every second row": every[1::2],
        "all but the first": every[1:],
    }.items():
        case.assert_same(estimator.transform(case.take(part)), case.reference[part], what)


def check_one_row(case: Case) -> None:
    """Check that a row alone gives the vector that it has among others."""
    estimator = case.fitted()
    for row in range(case.n_rows):
        got = estimator.transform(case.take([row]))
        case.assert_same(got, case.reference[[row]], f"row {row} alone")


def check_zero_rows(case: Case) -> None:
    """Check that no rows give an output of shape (0, n_features)."""
    estimator = case.fitted()
    case.assert_same(estimator.transform(case.take([])), case.reference[:0], "no rows")
    if not case.is_table:
        got = estimator.transform(np.empty(0, dtype=object))
        case.assert_same(got, case.reference[:0], "empty object array")


def check_duplicate_rows(case: Case) -> None:
    """Check that a row that occurs twice gives its vector twice."""
    estimator = case.fitted()
    every = list(range(case.n_rows))
    for what, order in {
        "each row twice in a row": [row for row in every for _ in range(2)],
        "all rows, then all again": every + every,
        "first row among the others": [row for pair in every for row in (pair, 0)],
    }.items():
        case.assert_same(estimator.transform(case.take(order)), case.reference[order], what)
    doubled = case.rows if case.is_table else [*case.rows, *case.rows]
    if not case.is_table:
        got = estimator.transform(doubled)
        case.assert_same(got, case.reference[every + every], "equal rows that are distinct objects")


def check_neighbours(case: Case) -> None:
    """Check that a row beside the longest or shortest row gives the vector it has among all."""
    estimator = case.fitted()
    rows = range(case.n_rows)
    sizes = [0.0 if case.is_table else _size(case.given_rows[row]) for row in rows]
    for neighbour in {sizes.index(max(sizes)), sizes.index(min(sizes))}:
        for row in rows:
            if row != neighbour:
                pair = [row, neighbour]
                got = estimator.transform(case.take(pair))
                case.assert_same(got, case.reference[pair], f"row {row} beside row {neighbour}")


def _size(row: Any) -> float:
    """Length of a text or array, pixels of an image, 0 for what has no size."""
    if hasattr(row, "__len__"):
        return float(getattr(row, "size", len(row)))
    return math.prod(size) if isinstance(size := getattr(row, "size", 0), tuple) else 0.0


def check_batch_size(case: Case) -> None:
    """Check that the number of rows embedded at a time does not change a vector."""
    if "batch_size" not in case.embedder.get_params(deep=False):
        skip("the embedder has no batch_size")
    for batch_size in (1, 2, 3, case.n_rows + 1):
        got = case.fitted(batch_size=batch_size).transform(case.rows)
        case.assert_same(got, case.reference, f"batch_size={batch_size}")


def check_tuple_and_array(case: Case) -> None:
    """Check that a tuple and a 1-D array of the rows give what their list gives."""
    if case.is_table:
        skip("the rows are a table")
    containers = {"tuple": tuple(case.rows), "object array": object_array(case.rows)}
    if case.has_text_rows:
        containers["array of strings"] = np.array(case.rows)
    _assert_containers(case, containers)


def check_pandas_series(case: Case) -> None:
    """Check that a pandas Series is read by position, whatever its index."""
    pd = import_backend("pandas")
    if pd is None:
        skip("pandas is not installed")
    if case.is_table:
        skip("the rows are a table")
    n_rows = case.n_rows
    odd = pd.Index(odd_index(n_rows), dtype=object)
    containers = {
        "Series with the index reversed": pd.Series(
            case.rows, dtype=object, index=list(range(n_rows))[::-1]
        ),
        "Series with an odd index": pd.Series(case.rows, dtype=object, index=odd),
    }
    if case.has_text_rows:
        containers["Series of strings"] = pd.Series(case.rows, dtype="string", index=odd)
    _assert_containers(case, containers)


def check_polars_series(case: Case) -> None:
    """Check that a polars Series of texts gives what their list gives."""
    pl = import_backend("polars")
    if pl is None:
        skip("polars is not installed")
    if not case.has_text_rows:
        skip("the rows are not texts")
    _assert_containers(case, {"polars Series": pl.Series("rows", case.rows)})


def check_one_column_frame(case: Case) -> None:
    """Check that a frame with one column of texts gives what their list gives."""
    if not case.has_text_rows:
        skip("the rows are not texts")
    containers: dict[str, Any] = {}
    if pd := import_backend("pandas"):
        odd = pd.Index(odd_index(case.n_rows), dtype=object)
        containers["pandas frame"] = pd.DataFrame({"text": case.rows}, index=odd)
    if pl := import_backend("polars"):
        containers["polars frame"] = pl.DataFrame({"text": case.rows})
    if not containers:
        skip("neither pandas nor polars is installed")
    _assert_containers(case, containers)


def _assert_containers(case: Case, containers: dict[str, Any]) -> None:
    """Embed each container by one instance that was fitted on the list, and by one fitted on it."""
    fitted_on_list = case.fitted()
    for what, rows in containers.items():
        case.assert_same(fitted_on_list.transform(rows), case.reference, what)
        fitted_on_it = case.unfitted()
        fitted_on_it.fit(rows) if case.y is None else fitted_on_it.fit(rows, case.y)
        got = fitted_on_it.transform(case.rows)
        case.assert_same(got, case.reference, f"fitted on {what}")


CHECKS = (
    check_rows_untouched,
    check_order_invariance,
    check_subset_invariance,
    check_one_row,
    check_zero_rows,
    check_duplicate_rows,
    check_neighbours,
    check_batch_size,
    check_tuple_and_array,
    check_pandas_series,
    check_polars_series,
    check_one_column_frame,
)
