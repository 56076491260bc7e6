"""Checks that a vector depends on its row alone, and that bad rows are refused by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import joblib
import numpy as np
from sklearn.utils import get_tags

from skembed.testing._case import Case, fail, import_backend, odd_index, skip, take

_SAYS_WHAT_IS_EXPECTED = re.compile(r"expect|must be|list|sequence|collection|array|rows", re.I)
# Numbers that no message names by chance, as it might 0 or 1.
_POSITIONS = (13, 17, 19, 23, 29, 31, 37, 41, 43, 47)


def check_rows_untouched(case: Case) -> None:
    """Check that `fit` and `transform` change neither the rows nor their container."""
    rows = case.rows
    before = joblib.hash(rows)
    members = None if case.is_table else [id(row) for row in rows]
    estimator = case.unfitted()
    estimator.fit(rows, *case.targets)
    estimator.transform(rows)
    if members is not None and members != [id(row) for row in rows]:
        fail("expected the list as it was given, got other members or another order")
    if joblib.hash(rows) != before:
        fail("expected the content of the rows unchanged, got a change")


def check_order_invariance(case: Case) -> None:
    """Check that rows in another order give the same vectors in that order."""
    estimator = case.fitted()
    case.assert_rows(estimator, range(case.n_rows)[::-1], "reversed rows")
    permuted = np.random.default_rng(0).permutation(case.n_rows).tolist()
    case.assert_rows(estimator, permuted, "permuted rows")


def check_subset_invariance(case: Case) -> None:
    """Check that some of the rows give the vectors that they have among all."""
    estimator = case.fitted()
    every = range(case.n_rows)
    case.assert_rows(estimator, every[: case.n_rows // 2], "first half")
    case.assert_rows(estimator, every[1::2], "every second row")
    case.assert_rows(estimator, every[1:], "all but the first")


def check_one_row(case: Case) -> None:
    """Check that a row alone gives the vector that it has among others."""
    estimator = case.fitted()
    for row in range(case.n_rows):
        case.assert_rows(estimator, [row], f"row {row} alone")


def check_zero_rows(case: Case) -> None:
    """Check that no rows give an output of shape (0, n_features)."""
    estimator = case.fitted()
    case.assert_rows(estimator, [], "no rows")
    if not case.is_table:
        got = estimator.transform(np.empty(0, dtype=object))
        case.assert_same(got, case.reference[:0], "empty object array")


def check_duplicate_rows(case: Case) -> None:
    """Check that a row that occurs twice gives its vector twice."""
    estimator = case.fitted()
    every = list(range(case.n_rows))
    case.assert_rows(estimator, sorted(every + every), "each row twice in a row")
    case.assert_rows(estimator, every + every, "all rows, then all again")
    case.assert_rows(estimator, [n for row in every for n in (row, 0)], "first among the others")
    if not case.is_table:
        got = estimator.transform([*case.rows, *case.rows])
        case.assert_same(got, case.reference[every + every], "equal rows that are distinct objects")


def check_neighbours(case: Case) -> None:
    """Check that a row beside one other gives the vector that it has among all."""
    estimator = case.fitted()
    for row in range(case.n_rows):
        pair = [row, (row + 1) % case.n_rows]
        case.assert_rows(estimator, pair, f"row {pair[0]} beside row {pair[1]}")


def check_batch_size(case: Case) -> None:
    """Check that the number of rows embedded at a time does not change a vector."""
    if "batch_size" not in case.embedder.get_params(deep=False):
        skip("the embedder has no batch_size")
    for batch_size in (1, 2, 3, case.n_rows + 1):
        case.assert_all(case.fitted(batch_size=batch_size), f"batch_size={batch_size}")


def check_containers(case: Case) -> None:
    """Check that a tuple, array, Series or one-column frame gives what the list gives."""
    if case.is_table:
        skip("the rows are a table")
    estimator = case.fitted()
    for what, rows in _containers(case).items():
        case.assert_same(estimator.transform(rows), case.reference, what)
        fitted_on_it = case.unfitted()
        fitted_on_it.fit(rows, *case.targets)
        case.assert_all(fitted_on_it, f"fitted on {what}")


def _containers(case: Case) -> dict[str, Any]:
    """Return the rows in every container that can hold them; frames only hold texts."""
    array = np.empty(case.n_rows, dtype=object)  # np.array would stack rows that are arrays
    for position, row in enumerate(case.rows):
        array[position] = row
    containers: dict[str, Any] = {"tuple": tuple(case.rows), "object array": array}
    if case.has_text_rows:
        containers["array of strings"] = np.array(case.rows)
    if pd := import_backend("pandas"):
        odd = pd.Index(odd_index(case.n_rows), dtype=object)
        backwards = range(case.n_rows)[::-1]
        containers["Series, index reversed"] = pd.Series(case.rows, dtype=object, index=backwards)
        containers["Series with an odd index"] = pd.Series(case.rows, dtype=object, index=odd)
        if case.has_text_rows:
            containers["Series of strings"] = pd.Series(case.rows, dtype="string", index=odd)
            containers["pandas frame"] = pd.DataFrame({"text": case.rows}, index=odd)
    if case.has_text_rows and (pl := import_backend("polars")):
        containers["polars Series"] = pl.Series("rows", case.rows)
        containers["polars frame"] = pl.DataFrame({"text": case.rows})
    return containers


def check_single_row_refused(case: Case) -> None:
    """Check that one bare row, or a number, is refused by saying what is expected."""
    estimator = case.fitted()
    one = case.rows[0] if not case.is_table else None
    if hasattr(one, "__len__") and not isinstance(one, (str, bytes, PurePath, Mapping)):
        one = None  # an array could be taken for a collection of rows itself
    for single in (3.5, None, one):
        error = _refusal(estimator, single, f"{type(single).__name__} in place of a collection")
        if not _SAYS_WHAT_IS_EXPECTED.search(str(error)):
            fail(f"expected a message that says what is expected, got {str(error)!r:.200}")


def check_bad_rows_named(case: Case) -> None:
    """Check that bad rows are refused with their row numbers, all of them in one error."""
    if (rows := _with_bad_rows(case)) is None:
        skip("no bad_rows given")
    message = str(_refusal(case.fitted(), rows, f"bad rows {case.bad_rows!r:.100}"))
    positions = _POSITIONS[: len(case.bad_rows or ())]
    if unnamed := [row for row in positions if not re.search(rf"(?<!\d){row}(?!\d)", message)]:
        fail(f"expected the row numbers {list(positions)}, got none of {unnamed} in {message!r}")


def _with_bad_rows(case: Case) -> list[Any] | None:
    """Good rows, over and over, with bad ones at the known positions; None if none are given."""
    if case.is_table or not case.bad_rows:
        return None
    rows: list[Any] = take(case.rows, [row % case.n_rows for row in range(_POSITIONS[-1] + 3)])
    for position, bad in zip(_POSITIONS, case.bad_rows, strict=False):
        rows[position] = bad
    return rows


def check_usable_after_error(case: Case) -> None:
    """Check that after a refusal the embedder embeds as before."""
    bad = _with_bad_rows(case)
    fitted, unfitted = case.fitted(), case.unfitted()
    _refusal(fitted, bad, "bad input")
    case.assert_all(fitted, "after transform refused")
    if not get_tags(case.embedder).requires_fit:
        _refusal(unfitted, bad, "bad input, without fit")
    case.assert_all(case.fit(unfitted), "fitted after a refusal")


def _refusal(estimator: Any, rows: Any, what: str) -> Exception:
    """Return the error that `transform` raises; fail if there is none or it is of another kind."""
    try:
        estimator.transform(rows)
    except (TypeError, ValueError) as error:
        return error
    except Exception as error:
        fail(f"{what}: expected TypeError or ValueError, got {error!r:.200}")
    fail(f"{what}: expected TypeError or ValueError, got an output")
