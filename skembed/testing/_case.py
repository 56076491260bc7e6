"""What one run of the checks shares: the embedder, its rows, and the output to compare with."""

from __future__ import annotations

import copy
import importlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
    """An embedder, never changed, only cloned, and the rows it is checked on.

    The fields are the parameters of `check_embedder`; `new_params` are its `set_params`.
    """

    embedder: Any
    given_rows: Any
    y: Any
    atol: float
    rtol: float
    new_params: Mapping[str, Any]
    bad_rows: Sequence[Any]
    time_limit: float
    seconds: float = 0.0
    _reference: NDArray[Any] | None = None
    _reference_fault: Exception | None = None

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
        try:
            return copy.deepcopy(self.given_rows)
        except Exception:  # rows such as open files cannot be copied
            return copy.copy(self.given_rows)

    def take(self, positions: Iterable[int]) -> Any:
        """Copy the rows at these positions."""
        return take(self.rows, positions)

    def unfitted(self, **params: Any) -> Any:
        """Return a fresh instance, with these parameters changed."""
        try:
            estimator = clone(self.embedder)
        except Exception:
            skip("the embedder cannot be cloned: see check_clone")
        return estimator.set_params(**params) if params else estimator

    @property
    def targets(self) -> tuple[Any, ...]:
        """What `fit` is given after the rows."""
        return () if self.y is None else (self.y,)

    def fit(self, estimator: Any) -> Any:
        """Fit an instance on all rows (and targets), and return it."""
        estimator.fit(self.rows, *self.targets)
        return estimator

    def fitted(self, **params: Any) -> Any:
        """Return a fresh instance, with these parameters changed, fitted on all rows."""
        return self.fit(self.unfitted(**params))

    @property
    def reference(self) -> NDArray[Any]:
        """The output for all rows by a fresh instance, computed once; not to be written to."""
        if self._reference is None and self._reference_fault is None:
            try:
                self._reference = self._compute_reference()
            except Exception as fault:
                self._reference_fault = fault
        if self._reference_fault is not None:
            raise self._reference_fault
        assert self._reference is not None
        return self._reference

    def _compute_reference(self) -> NDArray[Any]:
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

    def is_same(self, got: Any, expected: NDArray[Any]) -> bool:
        """Whether two outputs have one shape and agree to tolerance (NaN equals NaN)."""
        return (
            isinstance(got, np.ndarray)
            and got.shape == expected.shape
            and bool(np.allclose(got, expected, rtol=self.rtol, atol=self.atol, equal_nan=True))
        )

    def assert_rows(self, estimator: Any, positions: Sequence[int], what: str) -> None:
        """Fail unless the rows at these positions get the vectors that they have among all."""
        where = np.asarray(positions, dtype=np.intp)
        self.assert_same(estimator.transform(self.take(where)), self.reference[where], what)

    def assert_same(self, got: Any, expected: NDArray[Any], what: str) -> None:
        """Fail, naming rows and values, unless two outputs are the same."""
        if self.is_same(got, expected):
            return
        if not isinstance(got, np.ndarray) or got.shape != expected.shape:
            shape = f" of shape {got.shape}" if hasattr(got, "shape") else ""
            fail(
                f"{what}: expected an array of shape {expected.shape}, "
                f"got {type(got).__name__}{shape}"
            )
        differs = ~np.isclose(got, expected, rtol=self.rtol, atol=self.atol, equal_nan=True)
        gap = np.where(differs, np.nan_to_num(np.abs(got - expected), nan=np.inf), -1.0)
        row, feature = np.unravel_index(int(np.argmax(gap)), gap.shape)
        fail(
            f"{what}: {int(differs.any(axis=1).sum())} of {len(got)} rows differ; worst is row "
            f"{row}, feature {feature}: expected {expected[row, feature]!s}, "
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
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def odd_index(n_rows: int) -> list[int | str]:
    """Return labels that are neither unique nor ordered nor positions."""
    return [_ODD_LABELS[row % len(_ODD_LABELS)] for row in range(n_rows)]
