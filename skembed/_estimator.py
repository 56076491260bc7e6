"""An estimator whose parameters may be models and paths: checked, shown, cloned, pickled.

Knows parameters, not what an estimator does with them.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from sklearn.base import BaseEstimator, _clone_parametrized

from skembed._parameters import fault_of, is_module, is_relative
from skembed._sklearn import abridged, show_abridged
from skembed.exceptions import InvalidParameterError
from skembed.weights import send_weights_once

__all__ = ["Estimator"]

Self = TypeVar("Self", bound="Estimator")


class Estimator(BaseEstimator):
    """Base class of estimators that share modules with their clones, and find paths again."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {}
    _parameter_checks: ClassVar[dict[str, Callable[[Any], object]]] = {}
    """What else refuses values of the right type, by the parameter's name; None is not shown it."""

    _is_private: ClassVar[tuple[str, ...]] = ()
    """Attributes left out of pickles."""

    _is_shared: ClassVar[tuple[str, ...]] = ()
    """Parameters that clones share, as they share modules: what cannot or need not be copied."""

    _are_places: ClassVar[tuple[str, ...]] = ("model", "weights", "cache")
    """Parameters that may be paths, which are found again if an embedder is loaded elsewhere."""

    _are_names: ClassVar[frozenset[str]] = frozenset({"auto", "run"})
    """Their values that are never paths, whatever folders lie around."""

    def _validate_parameters(self, params: dict[str, Any]) -> None:
        """Check every parameter against its constraints and report all that fail."""
        faults = []
        for name, value in params.items():
            constraints = self._parameter_constraints.get(name)
            if constraints is None:
                continue
            fault = fault_of(type(self).__name__, name, value, constraints)
            if fault is not None:
                faults.append(fault)
                continue
            check = self._parameter_checks.get(name)
            try:
                if check is not None and value is not None:
                    check(value)
            except ValueError as error:
                faults.append(f"{error!s:.1000}")  # its value may be a million numbers
        if faults:
            raise InvalidParameterError("\n".join(faults))

    def __sklearn_clone__(self: Self) -> Self:
        """Return a clone that shares modules: they are copied when they run, and never changed."""
        send_weights_once()  # a search clones its estimator before it sends it to workers
        params = self.get_params(deep=False)
        shared = {
            name: each
            for name, each in params.items()
            if is_module(each) or name in self._is_shared
        }
        bare = copy.copy(self)
        bare.__dict__.update(dict.fromkeys(shared))
        cloned: Self = _clone_parametrized(bare).set_params(**shared)
        return cloned

    @show_abridged
    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        return repr(abridged(self))

    def _get_params_html(self, *args: Any, **options: Any) -> Any:
        return abridged(self)._get_params_html(*args, **options)

    def _get_doc_link(self) -> str:
        """Return where the HTML view links to: the file with the class and its documentation."""
        # There is no site yet, and without a link scikit-learn leaves out what parameters are.
        is_ours = type(self).__module__.startswith("skembed.")
        return Path(inspect.getfile(type(self))).as_uri() if is_ours else ""

    def __getstate__(self) -> dict[str, Any]:
        state: Any = super().__getstate__()
        kept = {name: value for name, value in state.items() if name not in self._is_private}
        relative = {name: kept.get(name) for name in self._are_places}
        places = {
            name: str(Path(value).absolute())
            for name, value in relative.items()
            if is_relative(value) and value not in self._are_names and Path(value).exists()
        }
        return {**kept, "_places": places} if places else kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        for name, place in state.pop("_places", {}).items():
            # A relative path means what it meant when it was saved, unless it is here. A store may
            # begin anew; a model that has been moved is to be missed by its whole name.
            if not Path(state[name]).exists() and (name != "cache" or Path(place).exists()):
                state[name] = type(state[name])(place)
        super().__setstate__(state)
