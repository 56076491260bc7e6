"""The skeleton of every embedder: the steps of `fit` and `transform`, names, tags.

Estimators hold no weights.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from dataclasses import replace
from numbers import Integral
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import TransformerMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils import Tags
from sklearn.utils._param_validation import Interval, StrOptions

from skembed._encoder import Encoder
from skembed._estimator import Estimator
from skembed._inputs import CheckedRows, column_of, is_missing, labels_of
from skembed._report import EmbeddingReport
from skembed._sklearn import CallbackSupportMixin, fit_task, with_callbacks, with_index
from skembed._workers import send_with_line
from skembed.engine import Embedded, embed, stay_safe_after_fork
from skembed.exceptions import (
    InvalidRowsError,
    InvalidRowsWarning,
    SkembedError,
    describe_rows,
    warn_user,
)
from skembed.store import EmbeddingStore, resolve_store
from skembed.weights import fingerprint

__all__ = ["BaseEmbedder"]

Self = TypeVar("Self", bound="BaseEmbedder")


class BaseEmbedder(CallbackSupportMixin, TransformerMixin, Estimator):
    """Base class for embedders, including your own.

    A subclass declares its parameters and implements `_check_row`, which turns a row into an item,
    and `_get_encoder`, which returns the `Encoder` that turns items into vectors. This class
    handles rows in any container, bad rows, duplicates, the store, batches, progress, feature
    names, `set_output`, clones and pickles. `docs/your_own_embedder.md` builds an embedder, and
    `skembed.testing.check_embedder` checks it.

    The parameters below are available to subclasses that name them in `__init__`; other subclasses
    use the defaults.

    Parameters
    ----------
    batch_size : int or "auto", default="auto"
        Maximum rows per batch. "auto" follows the encoder's `policy`.
    cache : "run", path, EmbeddingStore or None, default="run"
        Where vectors are kept, so that no row is embedded twice; see `TextEmbedder`.
    on_error : {"raise", "nan"}, default="raise"
        What to do with bad rows: raise an error that names every one, or return rows of NaN, warn
        and list them in `report_.faults`.
    verbose : bool, default=False
        Whether to show a progress bar when the work takes longer than a second.

    Attributes
    ----------
    n_features_out_ : int
        Number of output features.
    report_ : EmbeddingReport
        What the last `transform` did: rows, distinct rows, rows encoded, bad rows. Not part of
        pickles.

    See Also
    --------
    FunctionEmbedder : An embedder made from a function.
    """

    batch_size: Any = "auto"
    cache: Any = "run"
    on_error: str = "raise"
    verbose: bool = False

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "cache": [str, os.PathLike, EmbeddingStore, None],
        "on_error": [StrOptions({"raise", "nan"})],
        "verbose": ["verbose"],
    }

    # What the last call left behind, which grows with the rows. It is one object from `fit` on:
    # `transform` changes no attribute.
    _is_private: ClassVar[tuple[str, ...]] = ("_last",)

    _rows_are: ClassVar[tuple[str, str]] = ("rows", "[row, another_row]")
    """What messages call rows, and a right argument of `transform`."""

    # What an embedder implements ------------------------------------------------------------

    def _check_row(self, value: Any) -> Any:
        """Return the item for a row; raise a ValueError that says why the row is bad."""
        raise NotImplementedError(f"{type(self).__name__} has to implement _check_row")

    def _get_encoder(self) -> Encoder:
        """Return what embeds items, for the current parameters."""
        raise NotImplementedError(f"{type(self).__name__} has to implement _get_encoder")

    # What it may implement ------------------------------------------------------------------

    def _check_rows(self, X: Any) -> CheckedRows:
        """Check the container and the rows of X."""
        what, example = self._rows_are
        column = column_of(X, what=what, example=example)
        items, faults = [], dict[int, str]()
        for row, value in enumerate(column):
            if is_missing(value):
                faults[row] = f"missing ({value!r})"
                continue
            try:
                items.append(self._check_row(value))
            except (TypeError, ValueError) as error:
                faults[row] = str(error)
        positions = np.delete(np.arange(len(column), dtype=np.int64), list(faults))
        return CheckedRows(items, positions, len(column), faults)

    def _get_ready(self, params: dict[str, Any]) -> None:
        """Prepare, before rows are checked, in `fit` and `transform`."""

    def _learn(self, rows: CheckedRows, y: Any) -> None:
        """Learn from good rows in `fit`."""

    def _refuse(self, rows: CheckedRows) -> None:
        """Refuse good rows that the parameters rule out."""

    def _embed(self, rows: CheckedRows) -> Embedded:
        """Embed good rows."""
        return embed(
            _identified(self._get_encoder()),
            rows.items,
            store=resolve_store(self.cache),
            batch_size=None if self.batch_size == "auto" else self.batch_size,
            progress=type(self).__name__ if self.verbose else None,
        )

    def _make_report(self, report: EmbeddingReport) -> Any:
        """Return the report as the room gives it."""
        return report

    def _warn_of(self, report: Any, rows: CheckedRows) -> None:
        """Warn about what was done to rows."""

    def _is_news(self, report: EmbeddingReport) -> bool:
        """Return whether rows were encoded now, or in this run, perhaps by a worker.

        An earlier run has already warned about what it stored.
        """
        return report.n_encoded > 0 or self.cache == "run"

    # The estimator --------------------------------------------------------------------------

    def fit(self: Self, X: Any, y: Any = None) -> Self:
        """Check the parameters, the rows as far as possible without a model, and the model's files.

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
        """Fit to rows and embed them; the rows are checked once.

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
            The rows to embed.

        Returns
        -------
        vectors : ndarray of shape (n_rows, n_features), float32
            In the order of X. Rows of NaN for bad rows if `on_error="nan"`.

        Raises
        ------
        InvalidInputError
            If X is not a collection of rows.
        InvalidRowsError
            If rows are bad and `on_error="raise"`; it names every one. Good rows that were embedded
            before a bad one was found stay in the store.
        """
        started = time.perf_counter()
        self.__dict__.setdefault("_last", {})["report"] = None  # of an earlier call
        self._begin()
        return self._transform_rows(self._checked(X), X, started)

    @with_callbacks
    def _fit_rows(
        self,
        X: Any,
        y: Any,
        learn: Callable[[CheckedRows, Any], None] | None = None,
        sample_weight: Any = None,
    ) -> CheckedRows:
        """Fit, and return the checked rows; `learn` stands in for `_learn`."""
        with fit_task(self, X, y, sample_weight):
            self._last: dict[str, Any] = {}
            self._begin()
            rows = self._checked(X)
            (learn or self._learn)(rows, y)
        self._has_been_fitted = True
        return rows

    def _transform_rows(
        self,
        rows: CheckedRows,
        X: Any,
        started: float,
        embed: Callable[[CheckedRows], Embedded] | None = None,
    ) -> NDArray[np.float32]:
        """Embed checked rows of X, report, and refuse or warn of bad ones.

        `embed` stands in for `_embed`.
        """
        self._refuse(rows)
        embedded = (embed or self._embed)(rows)
        faults = dict(rows.faults)
        faults.update({int(rows.positions[i]): why for i, why in embedded.faults.items()})
        notes = dict(rows.notes)
        notes.update({int(rows.positions[i]): note for i, note in embedded.notes.items()})
        vectors, sizes, n_unknown = embedded.vectors, embedded.sizes, embedded.n_unknown
        if rows.faults:  # bad rows were left out: make room for them
            vectors = np.full((rows.n_rows, vectors.shape[1]), np.nan, dtype=np.float32)
            vectors[rows.positions] = embedded.vectors
            sizes = np.zeros(rows.n_rows, dtype=np.int64)
            sizes[rows.positions] = embedded.sizes
            if embedded.n_unknown is not None:
                n_unknown = np.zeros(rows.n_rows, dtype=np.int64)
                n_unknown[rows.positions] = embedded.n_unknown
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
            n_used=embedded.n_used,
            n_unknown=n_unknown,
        )
        of_room = self._make_report(report)
        self._last["report"] = of_room
        self._warn_of(of_room, rows)
        self._refuse_or_warn(faults, rows)
        wrapped: NDArray[np.float32] = with_index(self, vectors, X)
        return wrapped

    @property
    def report_(self) -> Any:
        """What the last `transform` did."""
        report = self.__dict__.get("_last", {}).get("report")
        if report is None:
            raise AttributeError(f"This {type(self).__name__} has not transformed rows yet.")
        return report

    @property
    def n_features_out_(self) -> int:
        """Number of output features."""
        return self._get_encoder().width

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Return the names of the output features: the class name in lower case and a number.

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
        was_used = self.__dict__.get("_last", {}).get("report") is not None
        if not (was_used or self.__dict__.keys() & {"_has_been_fitted", "_present"}):
            call = "fit" if self.__sklearn_tags__().requires_fit else "fit or transform"
            raise NotFittedError(
                f"This {type(self).__name__} has not seen rows yet; call {call} first."
            )
        prefix = type(self).__name__.lower()
        width = getattr(self, "n_features_out_", None)
        if width is None:
            self._begin()
            width = self.n_features_out_
        return np.array([f"{prefix}{i}" for i in range(width)], dtype=object)

    # Plumbing -------------------------------------------------------------------------------

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        send_with_line(cls)

    def _begin(self) -> None:
        stay_safe_after_fork()
        params = self.get_params(deep=False)
        self._validate_parameters(params)
        try:
            self._get_ready(params)
        except SkembedError as error:
            # It says all: a page of the library's own frames would only hide it.
            raise error.with_traceback(None) from error.__cause__

    def _checked(self, X: Any) -> CheckedRows:
        if isinstance(X, CheckedRows):
            return X
        rows = replace(self._check_rows(X), labels=labels_of(X))
        if self.on_error == "raise":
            self._refuse_or_warn(rows.faults, rows)
        return rows

    def _refuse_or_warn(self, faults: dict[int, str], rows: CheckedRows) -> None:
        if not faults:
            return
        found = (
            f"{len(faults):,} of {rows.n_rows:,} rows cannot be embedded:"
            f"{describe_rows(faults, rows.labels)}"
        )
        if self.on_error == "raise":
            raise InvalidRowsError(
                f"{found}\nFix or drop them (all are in this error's `faults`), or set "
                "on_error='nan' for rows of NaN.",
                faults,
            )
        # In each call: other rows, or the same ones again, must not become NaN in silence.
        warn_user(f"{found}\nTheir vectors are NaN.", InvalidRowsWarning)

    def __sklearn_is_fitted__(self) -> bool:
        return True  # nothing is learned

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True
        tags.input_tags.allow_nan = self.on_error == "nan"
        tags.transformer_tags.preserves_dtype = []
        return tags


def _identified(encoder: Encoder) -> Encoder:
    """Return an encoder, or, of one that has no digest, a copy with that of its present content."""
    if hasattr(encoder, "digest") and hasattr(encoder, "model_key"):
        return encoder
    identified = copy.copy(encoder)
    if not hasattr(encoder, "digest"):
        identified.digest = fingerprint(encoder)
    if not hasattr(encoder, "model_key"):
        identified.model_key = identified.digest
    return identified
