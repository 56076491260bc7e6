"""The skeleton of every embedder: parameters, the road of `transform`, names, tags, pickling.

A room's estimator says how rows are checked and which encoder its parameters ask for; the rest is
here. Estimators hold no weights: an encoder is looked up for the present parameters at every call.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils import Tags
from sklearn.utils._param_validation import (
    Interval,
    StrOptions,
    validate_parameter_constraints,
)

from skembed._encoder import Encoder
from skembed._inputs import CheckedRows
from skembed._sklearn import CallbackSupportMixin, fit_task, with_callbacks, with_index
from skembed.engine import Embedded, embed, resolve_devices
from skembed.exceptions import (
    InvalidParameterError,
    InvalidRowsError,
    InvalidRowsWarning,
    describe_rows,
    warn_user,
)
from skembed.store import EmbeddingStore, resolve_store

__all__ = ["BaseEmbedder", "EmbeddingReport", "device_setting", "plain_text"]

Self = TypeVar("Self", bound="BaseEmbedder")

_MOST_SHOWN = 1000

_COMPARABLE = (str, bool, int, float, os.PathLike, EmbeddingStore)


@dataclass(frozen=True)
class EmbeddingReport:
    """What the last `transform` did; `embedder.report_`.

    Attributes
    ----------
    n_rows : int
        Rows asked for.
    n_distinct : int
        Different rows among them, bad ones left out.
    n_encoded : int
        Rows the model ran on in this call.
    n_reused : int
        Distinct rows that came from the store.
    faults : dict of int to str
        Bad rows by position, with what is wrong with each.
    row_sizes : ndarray of shape (n_rows,), int64
        Full length of each row in the modality's unit, before anything was cut; 0 for bad rows.
    seconds, rows_per_second : float
        Duration of the call, loading and checking included, and rows asked for per second.
    device, dtype : str
        Where the model runs, in which format.
    """

    n_rows: int
    n_distinct: int
    n_encoded: int
    row_sizes: NDArray[np.int64] = field(repr=False)
    faults: dict[int, str] = field(repr=False)
    seconds: float
    device: str
    dtype: str

    @property
    def n_reused(self) -> int:
        """Distinct rows that were found, not encoded."""
        return self.n_distinct - self.n_encoded

    @property
    def rows_per_second(self) -> float:
        """Rows asked for, per second."""
        return self.n_rows / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        bad = f", {len(self.faults):,} bad" if self.faults else ""
        return (
            f"{self.n_rows:,} rows, {self.n_distinct:,} distinct{bad}: {self.n_encoded:,} encoded, "
            f"{self.n_reused:,} reused; {self.seconds:.2f} s on {self.device} in {self.dtype}"
        )


class BaseEmbedder(CallbackSupportMixin, TransformerMixin, BaseEstimator):
    """Base class of embedders.

    A subclass declares its parameters and constraints and implements `_check_rows` and
    `_make_encoder`. Its parameters include those that have constraints here.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "device": [str, list, tuple],
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "cache": [str, os.PathLike, EmbeddingStore, None],
        "on_error": [StrOptions({"raise", "nan"})],
        "revision": [str, None],
        "trust_remote_code": ["boolean"],
        "verbose": ["verbose"],
    }
    _parameter_checks: ClassVar[dict[str, Callable[[Any], object]]] = {}
    """What else refuses values of the right type, by the parameter's name; None is not shown it."""

    _is_private: ClassVar[tuple[str, ...]] = ("report_", "_present")
    """Attributes left out of pickles: the report of the last call, which grows with the rows, and
    the encoder last used, which any process finds again by the parameters."""

    # What a room implements -----------------------------------------------------------------

    def _check_rows(self, X: Any) -> CheckedRows:
        """Check the container and the rows of X."""
        raise NotImplementedError

    def _make_encoder(self) -> Encoder:
        """Return the encoder that the present parameters ask for."""
        raise NotImplementedError

    def _embed(self, encoder: Encoder, rows: CheckedRows) -> Embedded:
        """Embed good rows; a room may look at them before or after."""
        return embed(
            encoder,
            rows.items,
            store=resolve_store(self.cache),
            batch_size=None if self.batch_size == "auto" else self.batch_size,
            progress=type(self).__name__ if self.verbose else None,
        )

    # The estimator --------------------------------------------------------------------------

    @with_callbacks
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
        with fit_task(self, X, y):
            self._encoder()
            self._checked(X)
        self._has_been_fitted = True
        return self

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
        encoder = self._encoder()
        rows = self._checked(X)
        embedded = self._embed(encoder, rows)
        faults = dict(rows.faults)
        faults.update({int(rows.positions[i]): why for i, why in embedded.faults.items()})
        vectors, sizes = embedded.vectors, embedded.sizes
        if rows.faults:  # bad rows were left out: make room for them
            vectors = np.full((rows.n_rows, encoder.width), np.nan, dtype=np.float32)
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
            device=encoder.device,
            dtype=encoder.dtype,
        )
        self.report_ = self._make_report(encoder, report)
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
            If neither `fit` nor `transform` has been called. (scikit-learn's HTML view asks for
            names; showing an estimator must not look for its model.)
        """
        if not self.__dict__.keys() & {"_has_been_fitted", "_present"}:
            raise NotFittedError(
                f"This {type(self).__name__} has not seen rows yet; call fit or transform first."
            )
        prefix = type(self).__name__.lower()
        width = getattr(self, "n_features_out_", None) or self._encoder().width
        return np.array([f"{prefix}{i}" for i in range(width)], dtype=object)

    @property
    def encoder_(self) -> Encoder:
        """The encoder of the present parameters, once `fit` or `transform` has made it."""
        params, encoder = self.__dict__.get("_present", (None, None))
        if not isinstance(encoder, Encoder) or params != _snapshot(self._params()):
            raise AttributeError(
                f"This {type(self).__name__} has not made its encoder for its present parameters; "
                "call fit or transform first."
            )
        return encoder

    @property
    def n_features_out_(self) -> int:
        """Number of output features."""
        return self.encoder_.width

    @property
    def device_(self) -> str:
        """Where the model runs."""
        return self.encoder_.device

    @property
    def dtype_(self) -> str:
        """Number format in which the model runs."""
        return self.encoder_.dtype

    # Plumbing -------------------------------------------------------------------------------

    def _params(self) -> dict[str, Any]:
        params: dict[str, Any] = self.get_params(deep=False)
        return params

    def _encoder(self) -> Encoder:
        params = self._params()
        self._validate_parameters(params)
        encoder = self._make_encoder()
        present = (_snapshot(params), encoder)
        if self.__dict__.get("_present") != present:
            self._present = present
        return encoder

    def _checked(self, X: Any) -> CheckedRows:
        rows = self._check_rows(X)
        if self.on_error == "raise":
            self._refuse_or_warn(rows.faults, rows.n_rows)
        return rows

    def _make_report(self, encoder: Any, report: EmbeddingReport) -> EmbeddingReport:
        """Return the report as the room gives it."""
        return report

    def _refuse_or_warn(self, faults: dict[int, str], n_rows: int) -> None:
        if not faults:
            return
        found = f"{len(faults):,} of {n_rows:,} rows cannot be embedded:{describe_rows(faults)}"
        if self.on_error == "raise":
            raise InvalidRowsError(
                f"{found}\nMend or drop them (all are in this error's `faults`), or set "
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

    def __getstate__(self) -> dict[str, Any]:
        state: Any = super().__getstate__()
        return {name: value for name, value in state.items() if name not in self._is_private}

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True
        tags.input_tags.allow_nan = self.on_error == "nan"
        tags.transformer_tags.preserves_dtype = []
        return tags


def plain_text(text: str) -> str:
    """Return the text of a str of any kind, as grids of NumPy arrays and enums set them.

    `str()` of an enum's member gives its name.
    """
    return str.__str__(text)


def device_setting(device: Any) -> str | tuple[str, ...]:
    """Return a device parameter as a setting that can be compared and stored."""
    if isinstance(device, str):
        return plain_text(device)
    return tuple(map(str, resolve_devices(device)))


def _snapshot(params: dict[str, Any]) -> dict[str, Any]:
    """Return parameters that can be compared, and stay as they are when a list is changed."""
    return {name: _comparable(value) for name, value in params.items()}


def _comparable(value: Any) -> Any:
    if isinstance(value, _COMPARABLE) or value is None:
        return value
    # A model's repr is that of any other of the same architecture.
    return repr(value) if isinstance(value, (list, tuple)) else (type(value), id(value))
