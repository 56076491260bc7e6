"""Run every check and collect the faults, or return the checks one by one."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest import SkipTest

import numpy as np
from sklearn import config_context
from sklearn.utils import get_tags

from skembed.exceptions import InvalidInputError, InvalidParameterError, SkembedError
from skembed.testing import (
    _checks_estimator,
    _checks_output,
    _checks_processes,
    _checks_rows,
    _checks_targets,
)
from skembed.testing._case import Case, CheckFailed, skip

__all__ = ["CheckResults", "EmbedderCheckError", "check_embedder", "embedder_checks"]

Check = Callable[[Case], None]

_CHECKS: dict[str, Check] = {
    name: check
    for module in (
        *(_checks_estimator, _checks_output, _checks_rows, _checks_targets, _checks_processes),
    )
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
        What was expected and what was returned, by name of the check.
    """

    def __init__(self, message: str, failures: Mapping[str, str]) -> None:
        self.failures = dict(failures)
        super().__init__(message, self.failures)

    def __str__(self) -> str:
        laws = {name: str(_CHECKS[name].__doc__)[11:] for name in self.failures}
        listed = (f"{name}: {laws[name]}\n    {got}" for name, got in self.failures.items())
        return "\n\n".join([self.args[0], *listed])


@dataclass(frozen=True)
class CheckResults:
    """What `check_embedder` found, if no check failed.

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
    """Run the checks that scikit-learn leaves out for rows that are not 2-D numbers, and more.

    An embedder that learns from targets, as its tags say (`target_tags.required`), is also checked
    for what it makes of them: that other targets give other vectors; that it is unfitted without
    them, and when cloned; that missing ones are named by row; that classes may have any names.

    Parameters
    ----------
    embedder : estimator
        An unfitted transformer. It is not changed: every check works on clones. Fitting it twice
        must give the same result: set its `random_state` if it has one.
    rows : list, tuple, 1-D object array, frame or 2-D array
        Distinct rows of the kind it embeds: at least 4, preferably 6 to 12, of different lengths.
    y : sequence of length n_rows, default=None
        Targets for `fit`; not passed if None. The first half of the rows should have more than one
        class, and each class more than one row.
    atol, rtol : float, default=1e-5, 0.0
        Two vectors are the same if they differ by at most `atol + rtol * |expected|`.
    set_params : mapping of str to object, default=None
        Parameters that change the output, for the checks of `set_params`.
    bad_rows : sequence of object, default=None
        Up to ten rows that must be refused, with their row numbers.
    skip : collection of str, default=()
        Names of checks to leave out.
    time_limit : float, default=60.0
        Seconds after which a thread or process counts as hung, in addition to twenty times as long
        as the rows take.

    Returns
    -------
    CheckResults
        The checks that passed, and those that were skipped, with the reason.

    Raises
    ------
    EmbedderCheckError
        If any check failed; it names all of them, with what was expected and what was returned.
    InvalidInputError, InvalidParameterError
        If `rows` is not a collection or is too short, or `y` or `skip` does not fit.

    See Also
    --------
    embedder_checks : The same checks one by one, for parametrized tests.

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
    options: dict[str, Any] = {"y": y, "atol": atol, "rtol": rtol, "set_params": set_params or {}}
    options.update(bad_rows=bad_rows, time_limit=time_limit)
    passed, skipped, failures = list[str](), dict[str, str](), dict[str, str]()
    for name, check in embedder_checks(embedder, rows, skip=skip, **options):
        try:
            check()
        except SkipTest as reason:
            skipped[name] = str(reason)
        except EmbedderCheckError as error:
            failures.update(error.failures)
        else:
            passed.append(name)
    if failures:
        n_of = f"{len(failures)} of {len(failures) + len(passed)}"
        raise EmbedderCheckError(f"{type(embedder).__name__} failed {n_of} checks:", failures)
    return CheckResults(tuple(passed), skipped)


def embedder_checks(
    embedder: Any, rows: Any, *, skip: Collection[str] = (), **options: Any
) -> list[tuple[str, Callable[[], None]]]:
    """Return the checks of `check_embedder` one by one, to turn each into a test.

    Parameters
    ----------
    embedder, rows, skip, **options
        The parameters of `check_embedder`.

    Returns
    -------
    list of (str, callable)
        Name and check, for ``pytest.mark.parametrize(("name", "check"), embedder_checks(...))``.
        Calling the check raises `EmbedderCheckError` if it fails and `unittest.SkipTest`, which
        pytest counts as skipped, if it does not apply.
    """
    if isinstance(rows, (str, bytes, Mapping)) or not (
        hasattr(rows, "__len__") or hasattr(rows, "shape")
    ):
        raise InvalidInputError(
            f"Expected rows to be a list of rows, got {type(rows).__name__}: {rows!r:.80}"
        )
    is_flat = isinstance(rows, (list, tuple)) or len(np.shape(rows)) == 1
    case = Case(embedder, list(rows) if is_flat else rows, **options)
    faults = []
    if case.n_rows < _MIN_ROWS:
        faults.append(f"expected at least {_MIN_ROWS} rows, got {case.n_rows}")
    if case.y is not None and len(case.y) != case.n_rows:
        faults.append(f"expected y of length {case.n_rows}, got {len(case.y)}")
    if case.y is None and hasattr(embedder, "fit") and get_tags(embedder).target_tags.required:
        faults.append("expected y, since the embedder's tags say that it needs targets")
    if unknown := sorted(set(skip) - set(_CHECKS)):
        faults.append(f"expected skip to name checks of {list(_CHECKS)}, got also {unknown}")
    if faults:
        raise InvalidParameterError("; ".join(faults))
    return [(name, partial(_run, name, case, name in skip)) for name in _CHECKS]


def _run(name: str, case: Case, is_skipped: bool) -> None:
    """Run one check; whatever it raises becomes an error that names the check."""
    if is_skipped:
        skip("left out by the caller")
    try:
        # The caller's `set_config(transform_output=...)` would turn every output into a frame.
        with config_context(transform_output="default"):
            if name not in _WITHOUT_REFERENCE and not case.has_reference:
                skip("fit and transform give no output to compare with: see check_output_format")
            _CHECKS[name](case)
    except (SkipTest, EmbedderCheckError):
        raise
    except Exception as fault:
        got = str(fault)
        if not isinstance(fault, CheckFailed):
            at = traceback.extract_tb(fault.__traceback__)[-1]
            got = f"expected no error, got {fault!r} ({at.filename}:{at.lineno})"
        raise EmbedderCheckError(
            f"{type(case.embedder).__name__} failed {name}:", {name: got}
        ) from fault
