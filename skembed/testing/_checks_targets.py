"""Checks of embedders that learn from targets: what they learn, which targets they refuse."""

from __future__ import annotations

import pickle
import re
from typing import Any

import numpy as np
from sklearn.utils import get_tags
from sklearn.utils.multiclass import type_of_target

from skembed.testing._case import Case, fail, skip, take

# Rows of gaps that no message names by chance.
_GAPS = (13, 29)


def check_targets_learned(case: Case) -> None:
    """Check that other targets give other vectors: that `fit` learns from y."""
    _skip_without_targets(case)
    order = np.random.default_rng(0).permutation(case.n_rows)
    estimator = case.unfitted()
    estimator.fit(case.rows, take(case.y, order))
    if np.allclose(estimator.transform(case.rows), case.reference, rtol=case.rtol, atol=case.atol):
        fail("expected other vectors from y in another order, got the same")


def check_targets_missing(case: Case) -> None:
    """Check that `fit` without y is refused by naming y."""
    _skip_without_targets(case)
    _refusal(case, "no y", r"\by\b")


def check_targets_of_wrong_length(case: Case) -> None:
    """Check that a y of another length than the rows is refused by saying both."""
    _skip_without_targets(case)
    message = _refusal(case, "y with a target too few", ".", take(case.y, range(case.n_rows - 1)))
    for number in (case.n_rows, case.n_rows - 1):
        if not re.search(rf"(?<!\d){number}(?!\d)", message):
            fail(f"y with a target too few: expected {number} in the message, got {message!r:.300}")


def check_targets_of_wrong_kind(case: Case) -> None:
    """Check that a y that is no collection, or has too many dimensions, is refused by naming y."""
    _skip_without_targets(case)
    _refusal(case, "a number as y", r"\by\b", 3.5)
    _refusal(case, "y of three dimensions", r"\by\b", np.zeros((case.n_rows, 2, 2)))


def check_targets_with_gaps(case: Case) -> None:
    """Check that missing targets are refused with their row numbers, all of them in one error."""
    _skip_without_targets(case)
    where = [row % case.n_rows for row in range(_GAPS[-1] + 3)]
    rows, y = take(case.rows, where), list(take(case.y, where))
    for row, gap in zip(_GAPS, (None, float("nan")), strict=True):
        y[row] = gap if np.ndim(y[row]) == 0 else [float("nan")] * len(y[row])
    message = _refusal(case, "y with gaps", ".", y, rows)
    if unnamed := [row for row in _GAPS if not re.search(rf"(?<!\d){row}(?!\d)", message)]:
        fail(f"expected the row numbers {list(_GAPS)}, got none of {unnamed} in {message!r:.300}")


def check_target_names(case: Case) -> None:
    """Check that classes may be called by numbers or texts: in the same order, the same vectors."""
    codes = _codes(case)
    for what, y in {
        "numbers": codes,
        "texts": [f"class {code:06}" for code in codes],
        "objects": np.array([f"class {code:06}" for code in codes], dtype=object),
    }.items():
        estimator = case.unfitted()
        estimator.fit(case.rows, y)
        case.assert_all(estimator, f"classes called by {what}")


def check_one_class(case: Case) -> None:
    """Check that rows of one class are learned from, or refused by saying so."""
    codes = _codes(case)
    _assert_learned_or_refused(case, "one class", [f"class {codes[0]}"] * case.n_rows)


def check_one_row_per_class(case: Case) -> None:
    """Check that classes of one row each are learned from, or refused by saying so."""
    _codes(case)
    _assert_learned_or_refused(
        case, "one row per class", [f"class {i}" for i in range(case.n_rows)]
    )


def check_targets_pickle(case: Case) -> None:
    """Check that what was learned from targets is pickled exactly."""
    _skip_without_targets(case)
    estimator = case.fitted()
    again = pickle.loads(pickle.dumps(estimator))
    if not np.array_equal(again.transform(case.rows), estimator.transform(case.rows)):
        fail("expected equal vectors, bit by bit, from a pickle, got others")


def _skip_without_targets(case: Case) -> None:
    if not get_tags(case.embedder).target_tags.required:
        skip("the embedder needs no targets")


def _codes(case: Case) -> list[int]:
    """Return the classes of y as numbers."""
    _skip_without_targets(case)
    if type_of_target(case.y) not in ("binary", "multiclass"):
        skip("y is not made of classes")
    codes: list[int] = np.unique(np.asarray(case.y), return_inverse=True)[1].tolist()
    return codes


def _assert_learned_or_refused(case: Case, what: str, y: Any) -> None:
    estimator = case.unfitted()
    try:
        estimator.fit(case.rows, y)
    except ValueError as error:
        if "class" not in str(error):
            fail(f"{what}: expected a message about classes, got {error!r:.200}")
        return
    except Exception as error:
        fail(f"{what}: expected vectors or a ValueError, got {error!r:.200}")
    if not np.isfinite(estimator.transform(case.rows)).all():
        fail(f"{what}: expected finite vectors, got NaN or infinity")


def _refusal(case: Case, what: str, says: str, y: Any = None, rows: Any = None) -> str:
    """Return what `fit` says; fail if it refuses nothing, or in another way."""
    try:
        case.unfitted().fit(case.rows if rows is None else rows, *([] if y is None else [y]))
    except (TypeError, ValueError) as error:
        if not re.search(says, str(error)):
            fail(f"{what}: expected a message about y, got {str(error)!r:.200}")
        return str(error)
    except Exception as error:
        fail(f"{what}: expected TypeError or ValueError, got {error!r:.200}")
    fail(f"{what}: expected TypeError or ValueError, got a fitted embedder")
