"""Checks of refusal: what is not a collection of good rows is named, and nothing breaks by it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from sklearn.utils import get_tags

from skembed.testing._case import Case, fail, skip

__all__ = ["CHECKS"]

_SAYS_WHAT_IS_EXPECTED = re.compile(
    r"expect|must be|should be|list|sequence|collection|iterable|array|series|frame|rows", re.I
)
# Numbers that no message names by chance, as it might 0 or 1.
_POSITIONS = (13, 17, 19, 23, 29, 31, 37, 41, 43, 47)


def check_single_row_refused(case: Case) -> None:
    """Check that one bare row, or a number, is refused by saying what is expected."""
    estimator = case.fitted()
    singles: list[Any] = [3.5, None]
    if not case.is_table and _is_no_collection(case.given_rows[0]):
        singles.insert(0, case.rows[0])
    for single in singles:
        error = _refusal(estimator, single, f"{type(single).__name__} in place of a collection")
        if not _SAYS_WHAT_IS_EXPECTED.search(str(error)):
            fail(f"expected a message that says what is expected, got {str(error)!r:.200}")


def _is_no_collection(row: Any) -> bool:
    """Whether a row cannot be taken for a collection of rows itself, as an array could."""
    return isinstance(row, (str, bytes, PurePath, Mapping)) or not hasattr(row, "__len__")


def check_bad_rows_named(case: Case) -> None:
    """Check that bad rows are refused with their row numbers, all of them in one error."""
    if not case.bad_rows:
        skip("no bad_rows given")
    if case.is_table:
        skip("the rows are a table")
    estimator = case.fitted()
    bad_rows = case.bad_rows[: len(_POSITIONS)]
    for bad in bad_rows:
        _assert_named(estimator, _with_bad_rows(case, [bad]), 1)
    _assert_named(estimator, _with_bad_rows(case, bad_rows), len(bad_rows))


def _with_bad_rows(case: Case, bad_rows: Sequence[Any]) -> list[Any]:
    """Good rows, over and over, with bad ones at the known positions."""
    good = case.rows
    mixed = [good[row % len(good)] for row in range(_POSITIONS[len(bad_rows) - 1] + 3)]
    for position, bad in zip(_POSITIONS, bad_rows, strict=False):
        mixed[position] = bad
    return mixed


def _assert_named(estimator: Any, rows: list[Any], n_bad: int) -> None:
    positions = _POSITIONS[:n_bad]
    bad = [rows[position] for position in positions]
    message = str(_refusal(estimator, rows, f"bad rows {bad!r:.100}"))
    unnamed = [row for row in positions if not re.search(rf"(?<!\d){row}(?!\d)", message)]
    if unnamed:
        fail(f"expected the row numbers {list(positions)}, got none of {unnamed} in {message!r}")


def check_usable_after_error(case: Case) -> None:
    """Check that after a refusal the embedder embeds as before."""
    bad = None if case.is_table or not case.bad_rows else _with_bad_rows(case, case.bad_rows[:1])
    fitted, unfitted = case.fitted(), case.unfitted()
    _refusal(fitted, bad, "bad input")
    case.assert_same(fitted.transform(case.rows), case.reference, "after transform refused")
    if not get_tags(case.embedder).requires_fit:
        _refusal(unfitted, bad, "bad input, without fit")
    case.assert_same(
        case.fit(unfitted).transform(case.rows), case.reference, "fitted after a refusal"
    )


def _refusal(estimator: Any, rows: Any, what: str) -> Exception:
    """Return the error that `transform` raises; fail if there is none or it is of another kind."""
    try:
        estimator.transform(rows)
    except (TypeError, ValueError) as error:
        return error
    except Exception as error:
        fail(f"{what}: expected TypeError or ValueError, got {error!r:.200}")
    fail(f"{what}: expected TypeError or ValueError, got an output")


CHECKS = (check_single_row_refused, check_bad_rows_named, check_usable_after_error)
