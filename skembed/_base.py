"""The skeletons of embedders: parameters, the road of `transform`, names, tags, pickling.

`BaseEmbedder` is what every room's estimator is; `PretrainedEmbedder` adds a model that is looked
up for the present parameters at every call. Estimators hold no weights.
"""

from __future__ import annotations

import copy
import os
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from numbers import Integral
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin, _clone_parametrized
from sklearn.exceptions import NotFittedError
from sklearn.utils import Tags
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    StrOptions,
    validate_parameter_constraints,
)

from skembed._encoder import Encoder, join_replicas
from skembed._inputs import CheckedRows
from skembed._later import import_torch
from skembed._parameters import plain, plain_fields, snapshot
from skembed._report import EmbeddingReport
from skembed._sklearn import CallbackSupportMixin, fit_task, with_callbacks, with_index
from skembed.engine import (
    DTYPES,
    Embedded,
    embed,
    remembered_encoder,
    resolve_devices,
    stay_safe_after_fork,
)
from skembed.exceptions import (
    InvalidParameterError,
    InvalidRowsError,
    InvalidRowsWarning,
    describe_rows,
    warn_user,
    warnings_sent_to,
)
from skembed.store import EmbeddingStore, resolve_store
from skembed.weights import kept_recent, send_weights_once

__all__ = ["BaseEmbedder", "PretrainedEmbedder"]

Self = TypeVar("Self", bound="BaseEmbedder")
Pretrained = TypeVar("Pretrained", bound="PretrainedEmbedder")

_MOST_SHOWN = 1000


class _OfModules(HasMethods):
    """The constraint that a parameter is a torch module; torch is not imported for it."""

    def __init__(self) -> None:
        super().__init__("forward")

    def is_satisfied_by(self, value: Any) -> bool:
        return _is_module(value)

    def __str__(self) -> str:
        return "an instance of 'torch.nn.modules.module.Module'"


def _has_torch() -> bool:
    """Return whether torch has been imported: what comes of it is then soon found in full."""
    return "torch" in sys.modules


def _is_module(value: Any) -> bool:
    """Return whether a value is a torch module, of which there are none where torch is not."""
    module = getattr(sys.modules.get("torch.nn"), "Module", None)
    return module is not None and isinstance(value, module)


class BaseEmbedder(CallbackSupportMixin, TransformerMixin, BaseEstimator):
    """Base class of embedders.

    A subclass declares its parameters and constraints, among them those that have constraints
    here, and implements `_check_rows`, `_get_ready` and `_embed`.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "on_error": [StrOptions({"raise", "nan"})],
        "verbose": ["verbose"],
    }
    _parameter_checks: ClassVar[dict[str, Callable[[Any], object]]] = {}
    """What else refuses values of the right type, by the parameter's name; None is not shown it."""

    _is_private: ClassVar[tuple[str, ...]] = ("report_",)
    """Attributes left out of pickles: the report of the last call grows with the rows."""

    # What a room implements -----------------------------------------------------------------

    def _check_rows(self, X: Any) -> CheckedRows:
        """Check the container and the rows of X."""
        raise NotImplementedError

    def _get_ready(self, params: dict[str, Any]) -> None:
        """Do what comes before rows are looked at, in `fit` and `transform`."""

    def _embed(self, rows: CheckedRows) -> Embedded:
        """Embed good rows."""
        raise NotImplementedError

    def _refuse(self, rows: CheckedRows) -> None:
        """Refuse good rows that the parameters say are to be refused."""

    def _make_report(self, report: EmbeddingReport) -> Any:
        """Return the report as the room gives it."""
        return report

    def _warn_of(self, report: Any) -> None:
        """Warn of what was done to rows."""

    # The estimator --------------------------------------------------------------------------

    def fit(self: Self, X: Any, y: Any = None) -> Self:
        """Check the parameters, the rows as far as that needs no model, and the model's files.

        A frozen model learns nothing.

        Parameters
        ----------
        X : collection of rows
            As for `transform`.
        y : ignored
            Present for pipelines.

        Returns
        -------
        self
        """
        self._fit_rows(X, y)
        return self

    def fit_transform(self, X: Any, y: Any = None) -> NDArray[np.float32]:
        """Fit to rows and embed them; they are checked once.

        Parameters
        ----------
        X : collection of rows
            As for `transform`.
        y : ignored
            Present for pipelines.

        Returns
        -------
        vectors : ndarray of shape (n_rows, n_features), float32
            As of `transform`.
        """
        started = time.perf_counter()
        return self._transform_rows(self._fit_rows(X, y), X, started)

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Embed rows.

        Parameters
        ----------
        X : collection of rows
            One row each.

        Returns
        -------
        vectors : ndarray of shape (n_rows, n_features), float32
            In the order of X. Rows of NaN for bad rows if `on_error="nan"`.

        Raises
        ------
        InvalidInputError
            If X is not a collection of rows.
        InvalidRowsError
            If rows are bad and `on_error="raise"`; names every one. Good rows that were embedded
            before a bad one was found stay in the store.
        """
        started = time.perf_counter()
        self.__dict__.pop("report_", None)  # of an earlier call, should this one fail
        self._begin()
        return self._transform_rows(self._checked(X), X, started)

    @with_callbacks
    def _fit_rows(self, X: Any, y: Any) -> CheckedRows:
        """Fit, and return the checked rows."""
        with fit_task(self, X, y):
            self.__dict__.pop("report_", None)
            self._begin()
            rows = self._checked(X)
        self._has_been_fitted = True
        return rows

    def _transform_rows(self, rows: CheckedRows, X: Any, started: float) -> NDArray[np.float32]:
        """Embed checked rows of X, report, and refuse or warn of bad ones."""
        self._refuse(rows)
        embedded = self._embed(rows)
        faults = dict(rows.faults)
        faults.update({int(rows.positions[i]): why for i, why in embedded.faults.items()})
        notes = {int(rows.positions[i]): note for i, note in embedded.notes.items()}
        vectors, sizes = embedded.vectors, embedded.sizes
        if rows.faults:  # bad rows were left out: make room for them
            vectors = np.full((rows.n_rows, vectors.shape[1]), np.nan, dtype=np.float32)
            vectors[rows.positions] = embedded.vectors
            sizes = np.zeros(rows.n_rows, dtype=np.int64)
            sizes[rows.positions] = embedded.sizes
        report = EmbeddingReport(
            n_rows=rows.n_rows,
            n_distinct=embedded.n_distinct,
            n_encoded=embedded.n_encoded,
            row_sizes=sizes,
            faults=faults,
            seconds=time.perf_counter() - started,
            device=embedded.device,
            dtype=embedded.dtype,
            notes=notes,
        )
        self.report_ = self._make_report(report)
        self._warn_of(self.report_)
        self._refuse_or_warn(faults, rows.n_rows)
        wrapped: NDArray[np.float32] = with_index(self, vectors, X)
        return wrapped

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Return the names of the output features: the class in lower case and a number.

        Parameters
        ----------
        input_features : ignored
            Present for scikit-learn's API.

        Returns
        -------
        names : ndarray of str objects of shape (n_features,)

        Raises
        ------
        NotFittedError
            If neither `fit` nor `transform` has been called.
        """
        # scikit-learn's HTML view asks for names: showing one must not look for its model.
        if not self.__dict__.keys() & {"_has_been_fitted", "_present"}:
            raise NotFittedError(
                f"This {type(self).__name__} has not seen rows yet; call fit or transform first."
            )
        prefix = type(self).__name__.lower()
        width = getattr(self, "n_features_out_", None)
        if width is None:
            self._begin()
            width = self.n_features_out_
        return np.array([f"{prefix}{i}" for i in range(width)], dtype=object)

    # Plumbing -------------------------------------------------------------------------------

    def _begin(self) -> None:
        params = self.get_params(deep=False)
        self._validate_parameters(params)
        self._get_ready(params)

    def _checked(self, X: Any) -> CheckedRows:
        rows = self._check_rows(X)
        if self.on_error == "raise":
            self._refuse_or_warn(rows.faults, rows.n_rows)
        return rows

    def _refuse_or_warn(self, faults: dict[int, str], n_rows: int) -> None:
        if not faults:
            return
        found = f"{len(faults):,} of {n_rows:,} rows cannot be embedded:{describe_rows(faults)}"
        if self.on_error == "raise":
            raise InvalidRowsError(
                f"{found}\nFix or drop them (all are in this error's `faults`), or set "
                "on_error='nan' for rows of NaN.",
                faults,
            )
        warn_user(f"{found}\nTheir vectors are NaN.", InvalidRowsWarning)

    def _validate_parameters(self, params: dict[str, Any]) -> None:
        """Check every parameter against its constraints and report all that fail."""
        faults = []
        for name, value in params.items():
            constraints = self._parameter_constraints.get(name)
            if constraints is None:
                continue
            try:
                validate_parameter_constraints(
                    {name: constraints}, {name: value}, type(self).__name__
                )
                check = self._parameter_checks.get(name)
                if check is not None and value is not None:
                    check(value)
            except ValueError as error:
                text = str(error)  # with the value's repr, which may be that of a million numbers
                faults.append(text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}...")
        if faults:
            raise InvalidParameterError("\n".join(faults))

    def __sklearn_clone__(self: Self) -> Self:
        """Return a clone that shares modules: they are copied when they run, and never changed."""
        send_weights_once()  # a search clones its estimator before it sends it to workers
        params = self.get_params(deep=False)
        modules = {name: each for name, each in params.items() if _is_module(each)}
        bare = copy.copy(self)
        bare.__dict__.update(dict.fromkeys(modules))
        cloned: Self = _clone_parametrized(bare).set_params(**modules)
        return cloned

    def __getstate__(self) -> dict[str, Any]:
        state: Any = super().__getstate__()
        return {name: value for name, value in state.items() if name not in self._is_private}

    def __sklearn_is_fitted__(self) -> bool:
        return "_has_been_fitted" in self.__dict__

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True
        tags.input_tags.allow_nan = self.on_error == "nan"
        tags.transformer_tags.preserves_dtype = []
        return tags


def _refuse_bool(layer: Any) -> None:
    if isinstance(layer, (bool, np.bool_)):
        raise InvalidParameterError(
            f"layer={layer!r}: expected the name of a submodule, the number of a hidden state, or "
            "None."
        )


class PretrainedEmbedder(BaseEmbedder):
    """Base class of embedders that run a model, which `fit` does not change.

    A subclass implements `_check_rows` and says by three attributes what embeds.
    """

    _settings_type: ClassVar[Any]
    """Frozen dataclass of what decides backbone and encoder: parameters, and `_other_settings`."""
    _find_backbone: ClassVar[Any]
    """Maps settings to a backbone, the same one as long as its content is the same."""
    _make_encoder: ClassVar[Any]
    """Maps a backbone, settings and a device to an encoder."""
    _find_source: ClassVar[Any] = staticmethod(lambda settings: None)
    """Maps settings to what alone decides the backbone beside them, found without importing torch.

    None is for what has to be looked at closer."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseEmbedder._parameter_constraints,
        "model": [str, os.PathLike, _OfModules()],
        "weights": [str, os.PathLike, None],
        "layer": [str, Integral, None],
        "normalize": ["boolean"],
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "preprocess": [callable, None],
        "device": [str, list, tuple],
        "dtype": [StrOptions(set(DTYPES) - {"int8"})],
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "cache": [str, os.PathLike, EmbeddingStore, None],
        "revision": [str, None],
        "trust_remote_code": ["boolean"],
    }
    _parameter_checks: ClassVar[dict[str, Callable[[Any], object]]] = {"layer": _refuse_bool}
    # Any process finds the encoder again by the parameters.
    _is_private: ClassVar[tuple[str, ...]] = (*BaseEmbedder._is_private, "_present")

    def _sample_rows(self) -> list[Any]:
        """Return a row for `warm_up`."""
        return []

    def _other_settings(self) -> dict[str, Any]:
        """Return the settings that are not parameters of the same name."""
        return {}

    def _settings(self) -> Any:
        other = self._other_settings()
        for field in fields(self._settings_type):
            if hasattr(self, field.name):
                other[field.name] = plain(getattr(self, field.name))
        return self._settings_type(**other)

    def _get_ready(self, params: dict[str, Any]) -> None:
        stay_safe_after_fork()
        present = (snapshot(params), self._find_encoder())
        if self.__dict__.get("_present") != present:
            self._present = present

    def _find_encoder(self) -> Any:
        """Return the encoder of the present parameters, only remembered as long as that will do."""
        settings, device = self._settings(), plain(self.device)

        def find() -> Any:
            import_torch()
            devices = resolve_devices(device)
            backbone = self._find_backbone(settings)

            def make() -> Any:
                return join_replicas([self._make_encoder(backbone, settings, d) for d in devices])

            # The encoder keeps its backbone: while it is here, no other one has that id.
            key = (type(self).__name__, id(backbone), devices, plain_fields(settings))
            return kept_recent(key, make)

        source = None if _has_torch() else self._find_source(settings)
        if source is None:
            return find()
        return remembered_encoder(
            self._make_encoder, settings, device, source, find, resolve_store(self.cache)
        )

    def warm_up(self: Pretrained) -> Pretrained:
        """Load the model and run it on one row, so that the first call takes as long as the next.

        For services, before they answer, and for clocks. Nothing is stored, and `fit` is not needed
        before.

        Returns
        -------
        self
        """
        self._begin()
        encoder = self._encoder.whole()
        self._present = (self._present[0], encoder)
        with warnings_sent_to(lambda message, category: None):  # of a row that is not the user's
            embed(encoder, self._check_rows(self._sample_rows()).items)
        return self

    def _embed(self, rows: CheckedRows) -> Embedded:
        return embed(
            self._encoder,
            rows.items,
            store=resolve_store(self.cache),
            batch_size=None if self.batch_size == "auto" else self.batch_size,
            progress=type(self).__name__ if self.verbose else None,
        )

    @property
    def _encoder(self) -> Any:
        """The encoder that `_get_ready` has found in this call."""
        return self._present[1]

    @property
    def encoder_(self) -> Encoder:
        """The encoder of the present parameters, once `fit` or `transform` has made it."""
        return self._known_encoder().whole()

    @property
    def n_features_out_(self) -> int:
        """Number of output features."""
        return self._known_encoder().width

    @property
    def device_(self) -> str:
        """Where the model runs."""
        return self._known_encoder().device

    @property
    def dtype_(self) -> str:
        """Number format in which the model runs."""
        return self._known_encoder().dtype

    def _known_encoder(self) -> Encoder:
        """Return the encoder of the present parameters, be it only remembered."""
        params, encoder = self.__dict__.get("_present", (None, None))
        if not isinstance(encoder, Encoder) or params != snapshot(self.get_params(deep=False)):
            raise AttributeError(
                f"This {type(self).__name__} has not made its encoder for its present parameters; "
                "call fit or transform first."
            )
        return encoder

    def __sklearn_is_fitted__(self) -> bool:
        return True  # nothing is learned

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags
