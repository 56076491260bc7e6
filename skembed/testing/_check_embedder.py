"""Run every check and gather the faults, or hand out the checks one by one."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest import SkipTest

import numpy as np
from sklearn import config_context
from sklearn.base import clone

from skembed.exceptions import InvalidInputError, InvalidParameterError, SkembedError
from skembed.testing import _checks_estimator, _checks_output, _checks_processes, _checks_rows
from skembed.testing._case import Case, CheckFailed, skip

__all__ = ["CheckResults", "EmbedderCheckError", "check_embedder", "embedder_checks"]

Check = Callable[[Case], None]

_CHECKS: dict[str, Check] = {
    name: check
    for module in (_checks_estimator, _checks_output, _checks_rows, _checks_processes)
    for name, check in vars(module).items()
    if name.startswith("check_") and check.__module__ == module.__name__
}
# The others compare with the output of a fresh instance, and say nothing where there is none.
_WITHOUT_REFERENCE = {"check_init_only_assigns", "check_clone", "check_tags", "check_output_format"}
_MIN_ROWS = 4


class EmbedderCheckError(SkembedError, AssertionError):
    """An embedder failed checks; the message lists every one.

    Attributes
    ----------
    failures : dict of str to str
        What was expected and what came, by name of the check.
    """

    def __init__(self, message: str, failures: Mapping[str, str]) -> None:
        self.failures: dict[str, str] = dict(failures)
        self._message = message
        super().__init__(
            "\n\n".join(
                [message, *(f"{name}: {_law(name)}\n    {got}" for name, got in failures.items())]
            )
        )

    def __reduce__(self) -> tuple[type, tuple[str, dict[str, str]]]:
        return type(self), (self._message, self.failures)


@dataclass(frozen=True)
class CheckResults:
    """What `check_embedder` found, where no check failed.

    Attributes
    ----------
    passed : tuple of str
        Names of the checks that passed, in order.
    skipped : dict of str to str
        Why a check was left out, by name.
    """

    passed: tuple[str, ...] = ()
    skipped: dict[str, str] = field(default_factory=dict)


def check_embedder(
    embedder: Any,
    rows: Any,
    *,
    y: Any = None,
    atol: float = 1e-5,
    rtol: float = 0.0,
    set_params: Mapping[str, Any] | None = None,
    bad_rows: Sequence[Any] | None = None,
    skip: Collection[str] = (),
    time_limit: float = 60.0,
) -> CheckResults:
    """Check that an embedder keeps what scikit-learn checks for 2-D numbers, and more.

    scikit-learn leaves out nearly all of its common checks for estimators whose input is not a
    2-D array of numbers. These are the like, for rows of any kind.

    Parameters
    ----------
    embedder : estimator
        An unfitted transformer. It is not changed: every check works on clones. Fitting it twice
        has to give the same, so set its `random_state` if it has one.
    rows : list, tuple, 1-D object array, frame or 2-D array
        Distinct rows of the kind that it embeds, at least 4, better 6 to 12, of unlike lengths.
        The checks embed them some hundred times in all.
    y : sequence of length n_rows, default=None
        Targets for `fit`; not handed over if None.
    atol, rtol : float, default=1e-5, 0.0
        Two vectors are the same if they differ by at most `atol + rtol * |expected|`.
    set_params : mapping of str to object, default=None
        Parameters to set that change the output; without them the checks of `set_params` are
        skipped.
    bad_rows : sequence of object, default=None
        Rows that have to be refused, with their row numbers; without them that check is skipped.
    skip : collection of str, default=()
        Names of checks to leave out.
    time_limit : float, default=60.0
        Seconds after which a thread or a process counts as hung. Twenty times the seconds that
        the rows take are added.

    Returns
    -------
    CheckResults
        The checks that passed, and those skipped with the reason.

    Raises
    ------
    EmbedderCheckError
        If any check failed; it names all of them, with what was expected and what came.
    InvalidInputError
        If `rows` are not a collection.
    InvalidParameterError
        If there are too few rows, `y` has another length, or `skip` has unknown names.

    See Also
    --------
    embedder_checks : The same checks one by one, to be parametrized.

    Examples
    --------
    >>> from skembed.testing import LetterCountEmbedder, check_embedder
    >>> rows = ["a", "bee", "sea foam", "deed", "easy does it", "off"]
    >>> results = check_embedder(LetterCountEmbedder(), rows, set_params={"alphabet": "xyz"})
    >>> "check_order_invariance" in results.passed
    True
    >>> results.skipped["check_bad_rows_named"]
    'no bad_rows given'
    """
    checks = embedder_checks(
        embedder,
        rows,
        y=y,
        atol=atol,
        rtol=rtol,
        set_params=set_params,
        bad_rows=bad_rows,
        skip=skip,
        time_limit=time_limit,
    )
    passed: list[str] = []
    skipped: dict[str, str] = {}
    failures: dict[str, str] = {}
    first: BaseException | None = None
    for name, check in checks:
        try:
            check()
        except SkipTest as reason:
            skipped[name] = str(reason)
        except EmbedderCheckError as error:
            failures.update(error.failures)
            first = first or error.__cause__
        else:
            passed.append(name)
    if failures:
        n_run = len(failures) + len(passed)
        message = f"{_shorten(embedder)} failed {len(failures)} of {n_run} checks:"
        raise EmbedderCheckError(message, failures) from first
    return CheckResults(tuple(passed), skipped)


def embedder_checks(
    embedder: Any,
    rows: Any,
    *,
    y: Any = None,
    atol: float = 1e-5,
    rtol: float = 0.0,
    set_params: Mapping[str, Any] | None = None,
    bad_rows: Sequence[Any] | None = None,
    skip: Collection[str] = (),
    time_limit: float = 60.0,
) -> list[tuple[str, Callable[[], None]]]:
    """Return the checks of `check_embedder` one by one, for a test each.

    Nothing is fitted until a check is called; what the checks compare with is computed once.

    Parameters
    ----------
    embedder, rows, y, atol, rtol, set_params, bad_rows, skip, time_limit
        As for `check_embedder`.

    Returns
    -------
    list of (str, callable)
        Name and check, for ``pytest.mark.parametrize(("name", "check"), embedder_checks(...))``.
        Calling the check raises `EmbedderCheckError` if it fails and `unittest.SkipTest`, which
        pytest counts as skipped, if it does not apply.
    """
    case = Case(
        embedder, _as_rows(rows), y, atol, rtol, set_params or {}, bad_rows or (), time_limit
    )
    _validate(case, skip)
    return [(name, partial(_run, name, case, name in skip)) for name in _CHECKS]


def _as_rows(rows: Any) -> Any:
    """Return a list for a tuple or 1-D array; keep frames and 2-D arrays."""
    if isinstance(rows, (str, bytes, Mapping)) or not (
        hasattr(rows, "__len__") or hasattr(rows, "shape")
    ):
        raise InvalidInputError(
            f"Expected rows to be a list of rows, got {type(rows).__name__}: {rows!r:.80}"
        )
    is_flat = isinstance(rows, (list, tuple)) or len(np.shape(rows)) == 1
    return list(rows) if is_flat else rows


def _validate(case: Case, skip: Collection[str]) -> None:
    faults = []
    if case.n_rows < _MIN_ROWS:
        faults.append(f"expected at least {_MIN_ROWS} rows, got {case.n_rows}")
    if case.y is not None and len(case.y) != case.n_rows:
        faults.append(f"expected y of length {case.n_rows}, got {len(case.y)}")
    if unknown := sorted(set(skip) - set(_CHECKS)):
        faults.append(f"expected skip to name checks of {list(_CHECKS)}, got also {unknown}")
    if faults:
        raise InvalidParameterError("; ".join(faults))


def _run(name: str, case: Case, is_skipped: bool) -> None:
    """Run one check; whatever it raises becomes an error that names the check."""
    if is_skipped:
        skip("left out by the caller")
    try:
        # The caller's `set_config(transform_output=...)` would turn every output into a frame.
        with config_context(transform_output="default"):
            if name not in _WITHOUT_REFERENCE and not _has_reference(case):
                skip("fit and transform give no output to compare with: see check_output_format")
            _CHECKS[name](case)
    except Exception as fault:
        if isinstance(fault, (SkipTest, EmbedderCheckError)):
            raise
        message = f"{_shorten(case.embedder)} failed {name}:"
        raise EmbedderCheckError(message, {name: _describe(fault)}) from fault


def _has_reference(case: Case) -> bool:
    with suppress(Exception):
        return case.reference is not None
    return False


def _describe(fault: Exception) -> str:
    """Say what a check found, or where the embedder raised what no check expects."""
    if isinstance(fault, CheckFailed):
        return str(fault)
    frames = traceback.extract_tb(fault.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"expected no error, got {type(fault).__name__}: {fault}{where}"


def _shorten(embedder: Any) -> str:
    try:
        text = " ".join(repr(clone(embedder)).split())
    except Exception:  # an embedder that cannot be cloned or shown still has to be reported
        text = f"{type(embedder).__name__}(...)"
    return text if len(text) <= 200 else f"{text[:200]}..."


def _law(name: str) -> str:
    """Return the sentence that a check states, from its docstring."""
    sentence = (_CHECKS[name].__doc__ or "").strip() if name in _CHECKS else ""
    return sentence.removeprefix("Check that ")
