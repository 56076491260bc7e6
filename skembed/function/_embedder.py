"""The estimator for a function."""

from __future__ import annotations

import os
from collections.abc import Callable
from numbers import Integral
from typing import Any, ClassVar, NoReturn

import numpy as np
from sklearn.utils import Tags
from sklearn.utils._param_validation import Interval

from skembed._base import BaseEmbedder
from skembed._inputs import CheckedRows
from skembed.engine import Embedded
from skembed.exceptions import InvalidParameterError, UnsupportedModelError
from skembed.function._encoder import FunctionEncoder, Learned, learn_width, name_of
from skembed.function._inputs import check_row
from skembed.store import EmbeddingStore, digest_of, resolve_store
from skembed.weights import fingerprint, kept_recent

__all__ = ["FunctionEmbedder"]


def _refuse_empty(version: str) -> None:
    if not version.strip():
        raise InvalidParameterError(
            f"version={version!r}: expected the name of a model, such as 'text-embedding-3-small "
            "2024-01', or None."
        )


class FunctionEmbedder(BaseEmbedder):
    """Embed rows with your own function: a service client, an ONNX session, a lookup.

    The function takes a list of rows and returns a 2-D array with one vector per row. It is called
    once on each distinct row, in batches, and again if a service could not be reached; vectors are
    stored like those of any other embedder.

    `fit` checks the parameters and the rows and runs the function on the first row to learn the
    number of features; `transform` works without it.

    Parameters
    ----------
    function : callable
        Takes a list of rows and returns an array, a tensor, a frame or nested lists of real numbers
        of shape (n_rows, n_features). A row's vector must not depend on the other rows in the list.
        Clones share the function. pickle saves it by the name of its module, so for pickling it
        can't be a lambda or a nested function; joblib's workers accept those too. Anything that
        can't be pickled (a client, a session) has to be created inside it, in each process, for
        example by another function with `functools.cache`.
    version : str, default=None
        A name for everything that determines the vectors: the service, its model, its settings,
        your own preparation. Vectors are stored under it, so change it when any of these change,
        and don't give the same version to another function. None is for functions that depend only
        on their code: vectors are then stored under the code, the constants and the objects that it
        uses, which are determined at every call. It can't see files that the code reads or what a
        service does. If the function uses something that can't be inspected (a client, a session),
        or changes what it uses when it runs, an error asks for `version`.
    n_features : int, default=None
        Number of features. None learns it from the first row. If it is given, `fit` doesn't run
        the function and accepts zero rows.
    max_retries : int, default=5
        How often a call is retried after a failure that may be temporary: an error that is, or was
        caused by, a `ConnectionError` or `TimeoutError`, that has an HTTP status (408, 409, 425,
        429, or 500 and above, in its `status_code`, `status`, `code` or those of its `response`),
        or that asks for a retry (`retry_after` in seconds, or that header, up to ten minutes).
        Otherwise the waits are about 1, 2, 4, ... seconds, at most a minute. A warning says that a
        call is retried.
    batch_size : int, default=64
        Maximum rows per call of the function.
    cache : "run", path, EmbeddingStore or None, default="run"
        Where vectors are kept so that no row is embedded twice. "run": this process, its clones and
        its joblib workers share them until the process ends. A folder: they persist, and everything
        that uses the folder shares them. None: nothing is kept, and only duplicates within one call
        are embedded once.
    on_error : {"raise", "nan"}, default="raise"
        What to do with rows that are missing or of another kind, on which the function fails, or
        whose vectors are not finite: raise an error that names every one, or return rows of NaN,
        warn and list them in `report_.faults`. If the function fails on a batch, its rows are tried
        one by one.
    verbose : bool, default=False
        Whether to show a progress bar when the work takes longer than a second.

    Attributes
    ----------
    n_features_out_ : int
        Number of output features.
    report_ : EmbeddingReport
        What the last `transform` did: rows, distinct rows, rows embedded, bad rows. Not part of
        pickles.

    Raises
    ------
    FunctionError
        If the function fails on the first three rows, returns something other than vectors, is
        refused access (HTTP 401, 402, 403) or fails `max_retries + 1` times in a row. Its own error
        is the `__cause__`. Rows embedded before the failure stay in the store.

    See Also
    --------
    BaseEmbedder : For an embedder with its own parameters.

    Notes
    -----
    A row is a str, bytes, a number, a NumPy array, or a list, tuple or dict of these. Rows with the
    same content count as one row; for dicts, the order matters too. Pass rows as a list, 1-D array,
    Series or one-column frame, or as an array with more dimensions; for a frame with several
    columns, pass ``frame.to_dict("records")``.

    Examples
    --------
    >>> from skembed import FunctionEmbedder
    >>> def embed(words):
    ...     return [[len(word), word.count("a")] for word in words]
    >>> FunctionEmbedder(embed).fit_transform(["banana", "kiwi", "banana"])
    array([[6., 3.],
           [4., 0.],
           [6., 3.]], dtype=float32)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseEmbedder._parameter_constraints,
        "function": [callable],
        "version": [str, None],
        "n_features": [Interval(Integral, 1, None, closed="left"), None],
        "max_retries": [Interval(Integral, 0, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
    }
    _parameter_checks: ClassVar[dict[str, Callable[[Any], object]]] = {"version": _refuse_empty}
    _is_private: ClassVar[tuple[str, ...]] = (*BaseEmbedder._is_private, "_identity")
    _is_shared: ClassVar[tuple[str, ...]] = ("function",)
    _check_row = staticmethod(check_row)

    def __init__(
        self,
        function: Callable[[list[Any]], Any],
        *,
        version: str | None = None,
        n_features: int | None = None,
        max_retries: int = 5,
        batch_size: int = 64,
        cache: str | os.PathLike[str] | EmbeddingStore | None = "run",
        on_error: str = "raise",
        verbose: bool = False,
    ) -> None:
        self.function = function
        self.version = version
        self.n_features = n_features
        self.max_retries = max_retries
        self.batch_size = batch_size
        self.cache = cache
        self.on_error = on_error
        self.verbose = verbose

    @property
    def n_features_out_(self) -> int:
        """Number of output features."""
        if self.n_features is not None:
            return int(self.n_features)
        if self._known() is None:
            raise AttributeError(
                f"This {type(self).__name__} has seen no rows yet; call fit or transform first."
            )
        width: int = self._learned.width
        return width

    def _known(self) -> Learned | None:
        """Return what has been learned of the present function."""
        is_of_it = self.__dict__.get("_learned_of") == (self.function, self.version)
        return self._learned if is_of_it else None

    def _check_rows(self, X: Any) -> CheckedRows:
        if isinstance(X, np.ndarray) and X.ndim > 1 and X.dtype.kind in "biufc":
            X = list(X)
        return super()._check_rows(X)

    def _get_ready(self, params: dict[str, Any]) -> None:
        self._identity = self._find_identity()

    def _find_identity(self) -> bytes:
        if self.version is not None:
            return digest_of({"version": str.__str__(self.version)})
        try:
            return digest_of({"function": fingerprint(self.function)})
        except UnsupportedModelError as error:
            self._ask_for_version(str(error))

    def _ask_for_version(self, reason: str) -> NoReturn:
        raise InvalidParameterError(
            f"function={name_of(self.function)}: set version to a name for everything that "
            "determines its vectors, such as 'text-embedding-3-small'. They are stored under it, "
            f"because the function's own content cannot be determined: {reason}"
        )

    def _learn(self, rows: CheckedRows, y: Any) -> None:
        self._learned = self._find_width(rows)
        self._learned_of = (self.function, self.version)

    def _embed(self, rows: CheckedRows) -> Embedded:
        self._learn(rows, None)
        return super()._embed(rows)

    def _find_width(self, rows: CheckedRows) -> Learned:
        if self.n_features is not None:
            return Learned(int(self.n_features))
        if not rows.items:
            if (known := self._known()) is not None:
                return known
            raise InvalidParameterError(
                f"There are no good rows to learn the number of features of "
                f"{name_of(self.function)} from. Set n_features."
            )
        key = ("function", self._identity)
        return kept_recent(key, lambda: self._learn_width(rows), imports=False)

    def _learn_width(self, rows: CheckedRows) -> Learned:
        learned = learn_width(
            self.function,
            self._identity,
            rows.items,
            resolve_store(self.cache),
            batch_size=self.batch_size,
            max_retries=self.max_retries,
        )
        if learned.vector is not None and self._find_identity() != self._identity:
            self._ask_for_version("it changes what it uses when it runs (a counter, a cache).")
        return learned

    def _get_encoder(self) -> FunctionEncoder:
        return FunctionEncoder(
            self.function,
            self._identity,
            self._learned,
            batch_size=self.batch_size,
            max_retries=self.max_retries,
        )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        return tags
