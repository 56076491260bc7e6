"""Checks of the estimator itself: construction, parameters, refitting, tags, global state."""

from __future__ import annotations

import inspect
import random
import re
import sys
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from skembed.testing._case import Case, fail, skip, take


def check_init_only_assigns(case: Case) -> None:
    """Check that `__init__` stores each parameter as it came and nothing else."""
    kind = type(case.embedder)
    signature = str(inspect.signature(kind))
    if re.search(r"\*\w", signature):
        fail(f"expected named parameters only, got __init__{signature}")
    params = case.embedder.get_params(deep=False)
    made = kind(**params)
    if set(vars(made)) != set(params):
        fail(f"expected the attributes {sorted(params)}, got {sorted(vars(made))}")
    if changed := sorted(name for name in params if vars(made)[name] is not params[name]):
        fail(f"expected the very objects that were passed, got others for {changed}")


def check_clone(case: Case) -> None:
    """Check that all that the embedder knows are parameters, so that a clone knows it too."""
    copied = clone(case.embedder)
    if lost := sorted(set(vars(case.embedder)) - set(vars(copied))):
        fail(f"expected all settings to be parameters; clone loses the attributes {lost}")


def check_clone_of_fitted(case: Case) -> None:
    """Check that the clone of a fitted embedder is unfitted, and embeds the same when fitted."""
    copied = clone(case.used())
    if kept := sorted(set(vars(copied)) - set(vars(case.unfitted()))):
        fail(f"expected the clone of a fitted embedder to be unfitted, got attributes {kept}")
    case.assert_all(case.fit(copied), "clone, fitted")


def check_tags(case: Case) -> None:
    """Check that the tags say that this is a transformer whose rows are not 2-D numbers."""
    tags = get_tags(case.embedder)
    if tags.transformer_tags is None:
        fail("expected transformer_tags, got None; derive from TransformerMixin")
    is_vector = case.is_table or isinstance(case.given_rows[0], (np.ndarray, list, tuple))
    if not is_vector and tags.input_tags.two_d_array:
        fail("expected input_tags.two_d_array to be False for rows that are not vectors, got True")
    if tags.target_tags.required and not tags.requires_fit:
        fail("expected requires_fit to be True where target_tags.required is, got False")


def check_parameters_untouched(case: Case) -> None:
    """Check that `fit` and `transform` neither replace a parameter nor change its content."""
    estimator = case.unfitted()
    before = estimator.get_params(deep=False)
    hashes = {name: _hash(value) for name, value in before.items()}
    case.fit(estimator).transform(case.rows)
    for name, value in estimator.get_params(deep=False).items():
        if value is not before[name]:
            fail(f"expected {name} as it was given, got another object")
        if None not in (hashes[name], found := _hash(value)) and found != hashes[name]:
            fail(f"expected the content of {name} unchanged, got a change inside")


def _hash(value: Any) -> str | None:
    """Return a hash of the content, or None for what cannot be pickled or hashes differently."""
    try:
        first = joblib.hash(value)
        return str(first) if first == joblib.hash(value) else None
    except Exception:
        return None


def check_fit_transform(case: Case) -> None:
    """Check that `fit` returns its instance, and `fit_transform` what both calls give."""
    estimator = case.unfitted()
    if (got := estimator.fit(case.rows, *case.targets)) is not estimator:
        fail(f"expected the same instance from fit, got {type(got).__name__}")
    output = estimator.fit_transform(case.rows, *case.targets)
    case.assert_same(output, case.reference, "fit_transform")
    case.assert_all(estimator, "transform after it")


def check_requires_fit(case: Case) -> None:
    """Check that without `fit` only a stateless embedder embeds."""
    if not get_tags(case.embedder).requires_fit:
        case.assert_all(case.unfitted(), "tags.requires_fit is False, transform without fit")
        return
    got: object = "an output"
    try:
        case.unfitted().transform(case.rows)
    except NotFittedError:
        check_is_fitted(case.fitted())
        return
    except Exception as error:
        got = error
    fail(f"expected NotFittedError from transform without fit, got {got!r:.200}")


def check_refit(case: Case) -> None:
    """Check that fitting again forgets what was fitted before."""
    half = range(case.n_rows // 2 + 1)
    estimator = case.unfitted()
    estimator.fit(*(take(each, half) for each in (case.rows, *case.targets)))
    estimator.transform(case.rows)
    case.assert_all(case.fit(estimator), "fitted on half of the rows, then on all")


def check_refit_after_set_params(case: Case) -> None:
    """Check that new parameters take effect at the next `fit`, and old ones too."""
    expected = _with_new_params(case)
    estimator = case.used().set_params(**case.set_params)
    case.assert_same(case.fit(estimator).transform(case.rows), expected, "refitted with set_params")
    params = case.embedder.get_params()
    case.fit(estimator.set_params(**{name: params[name] for name in case.set_params}))
    case.assert_all(estimator, "refitted with the old parameters")


def check_set_params_without_refit(case: Case) -> None:
    """Check that new parameters of a stateless embedder take effect without `fit`."""
    expected = _with_new_params(case)
    if get_tags(case.embedder).requires_fit:
        skip("the embedder requires fit")
    for what, estimator in {"never fitted": case.unfitted(), "fitted before": case.used()}.items():
        got = estimator.set_params(**case.set_params).transform(case.rows)
        case.assert_same(got, expected, f"{what}, then set_params")


def _with_new_params(case: Case) -> NDArray[Any]:
    if not case.set_params:
        skip("no set_params given")
    expected: NDArray[Any] = case.fitted(**case.set_params).transform(case.rows)
    if np.array_equal(expected, case.reference):
        fail(f"expected {case.set_params} to change the output, got the same output")
    return expected


def check_global_random_state(case: Case) -> None:
    """Check that `fit` and `transform` leave global random state as it was."""
    # Seeding with a constant looks like no change once it was done; drawing first shows it.
    random.random()
    np.random.random()  # noqa: NPY002 (the generator that others share)
    before = _random_states()
    case.used()
    if changed := sorted(name for name, state in _random_states().items() if state != before[name]):
        fail(f"expected global random state unchanged, got a change in {changed}")


def _random_states() -> dict[str, str | None]:
    states = {"random": random.getstate(), "numpy.random": np.random.get_state()}  # noqa: NPY002
    if torch := sys.modules.get("torch"):
        states["torch"] = torch.random.get_rng_state().numpy()
    return {name: joblib.hash(state) for name, state in states.items()}
