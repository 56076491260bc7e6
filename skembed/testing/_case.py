"""What one run of the checks shares: the embedder, its rows, and the output to compare with."""

from __future__ import annotations

import copy
import importlib
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn
from unittest import SkipTest

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

__all__ = ["Case", "CheckFailed", "fail", "import_backend", "odd_index", "skip", "take"]

# Unordered, not unique, of mixed type; 1 and 0 are labels of other positions.
_ODD_LABELS = (10, 10, -3, "x", 1, 0)


class CheckFailed(AssertionError):
    """One check found a fault; the message says what was expected and what came."""


def fail(message: str) -> NoReturn:
    """Fail the running check."""
    raise CheckFailed(message)


def skip(reason: str) -> NoReturn:
    """Leave the running check out; pytest and unittest count it as skipped."""
    raise SkipTest(reason)


@dataclass
class Case:
    """The parameters of `check_embedder`; the embedder is never changed, only cloned."""

    embedder: Any
    given_rows: Any
    y: Any = None
    atol: float = 1e-5
    rtol: float = 0.0
    set_params: Mapping[str, Any] = field(default_factory=dict)
    bad_rows: Sequence[Any] | None = None
    time_limit: float = 60.0
    seconds: float = 0.0

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return int(np.shape(self.given_rows)[0]) if self.is_table else len(self.given_rows)

    @property
    def is_table(self) -> bool:
        """Whether the rows come as a frame, array or matrix and not as a list."""
        return not isinstance(self.given_rows, list)

    @property
    def has_text_rows(self) -> bool:
        """Whether every row is a string."""
        return not self.is_table and all(isinstance(row, str) for row in self.given_rows)

    @property
    def rows(self) -> Any:
        """The rows, copied, so that a check that finds them changed harms no other check."""
        return copy.deepcopy(self.given_rows)

    @property
    def targets(self) -> tuple[Any, ...]:
        """What `fit` is given after the rows."""
        return () if self.y is None else (self.y,)

    def unfitted(self, **params: Any) -> Any:
        """Return a fresh instance, with these parameters changed."""
        try:
            return clone(self.embedder).set_params(**params)
        except Exception:
            skip("the embedder cannot be cloned: see check_clone")

    def fit(self, estimator: Any) -> Any:
        """Fit an instance on all rows (and targets), and return it."""
        estimator.fit(self.rows, *self.targets)
        return estimator

    def fitted(self, **params: Any) -> Any:
        """Return a fresh instance, with these parameters changed, fitted on all rows."""
        return self.fit(self.unfitted(**params))

    def used(self) -> Any:
        """Return a fresh instance that was fitted on all rows and has embedded them."""
        estimator = self.fitted()
        estimator.transform(self.rows)
        return estimator

    @cached_property
    def reference(self) -> NDArray[Any]:
        """The output for all rows by a fresh instance, computed once; not to be written to."""
        estimator = self.fitted()
        start = time.monotonic()
        output = estimator.transform(self.rows)
        self.seconds = time.monotonic() - start
        if not isinstance(output, np.ndarray):
            fail(f"transform: expected a NumPy array, got {type(output).__name__}")
        if output.ndim != 2 or len(output) != self.n_rows:
            fail(f"transform: expected shape ({self.n_rows}, n_features), got {output.shape}")
        reference: NDArray[Any] = output.copy()
        reference.flags.writeable = False
        return reference

    @cached_property
    def has_reference(self) -> bool:
        """Whether fit and transform give an output at all."""
        with suppress(Exception):
            return self.reference is not None
        return False

    def assert_rows(self, estimator: Any, positions: Sequence[int], what: str) -> None:
        """Fail unless the rows at these positions get the vectors that they have among all."""
        where = np.asarray(positions, dtype=np.intp)
        self.assert_same(estimator.transform(take(self.rows, where)), self.reference[where], what)

    def assert_all(self, estimator: Any, what: str) -> None:
        """Fail unless an instance gives all rows the vectors that a fresh one gives them."""
        self.assert_same(estimator.transform(self.rows), self.reference, what)

    def assert_same(self, got: Any, expected: NDArray[Any], what: str) -> None:
        """Fail, naming a row and values, unless two outputs agree to tolerance (NaN equals NaN)."""
        wanted, shape, kind = expected.shape, np.shape(got), type(got).__name__
        if not isinstance(got, np.ndarray) or shape != wanted:
            fail(f"{what}: expected an array of shape {wanted}, got {kind} of shape {shape}")
        differs = ~np.isclose(got, expected, rtol=self.rtol, atol=self.atol, equal_nan=True)
        if differs.any():
            row, feature = np.argwhere(differs)[0]
            fail(
                f"{what}: {int(differs.any(axis=1).sum())} of {len(got)} rows differ; in row {row},"
                f" feature {feature}, expected {expected[row, feature]!s}, "
                f"got {got[row, feature]!s} (atol={self.atol:g}, rtol={self.rtol:g})"
            )


def take(rows: Any, positions: Iterable[int]) -> Any:
    """Rows at these positions, in the same kind of container (a list for a tuple)."""
    where = np.fromiter(positions, dtype=np.intp)
    if isinstance(rows, (list, tuple)):
        return [rows[position] for position in where]
    return rows.iloc[where] if hasattr(rows, "iloc") else rows[where]


def import_backend(name: str) -> Any:
    """Return an optional data frame library, or None if it is not installed."""
    with suppress(ImportError):
        return importlib.import_module(name)


def odd_index(n_rows: int) -> list[int | str]:
    """Return labels that are neither unique nor ordered nor positions."""
    return [_ODD_LABELS[row % len(_ODD_LABELS)] for row in range(n_rows)]
