"""The estimator for tables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import Tags
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from skembed._inputs import CheckedRows
from skembed._later import later
from skembed.exceptions import (
    InvalidParameterError,
    ModelNotFoundError,
    TrainingWarning,
    warn_user,
)
from skembed.store import EmbeddingStore
from skembed.tabular._columns import ColumnsEmbedder
from skembed.tabular._settings import TableSettings, choose_training, fault_of_model, is_pretrained
from skembed.training import (
    Contrastive,
    FineTune,
    InContext,
    SelfSupervised,
    Strategy,
    TrainedState,
)

__all__ = ["TabularEmbedder"]

Tabular = TypeVar("Tabular", bound="TabularEmbedder")

_WIDTH = 64
_LEARNED = ("_table", "_chosen", "_learned_with", "n_features_in_", "feature_names_in_")
"""What `fit` learns beside `trained_`."""

_resolve_device = later("skembed.engine._devices", "resolve_device")
_find_encoder = later("skembed.tabular._encoder", "find_encoder")
_keep_context = later("skembed.tabular._pretrained", "keep_context")
_can_be_folded = later("skembed.training._ways", "can_be_folded")


class TabularEmbedder(ColumnsEmbedder):
    """Turn rows of tables into dense vectors: dates, numbers, categories and words.

    `fit` decides what each column is, and trains a network: on labels if there are any, else on the
    rows alone. Rows that are alike lie close together. Or it keeps rows for a pretrained model.

    Parameters
    ----------
    model : {"mlp", "resnet", "ft_transformer", "tabm", "tabicl"}, str or Path, default="mlp"
        The network: linear layers [1]_; the same with shortcuts [1]_; a transformer over the
        columns [1]_; many linear networks that share their weights [2]_. Numbers come in by
        piecewise-linear embeddings [3]_, categories by entity embeddings. "tabicl" is not trained:
        it is a pretrained model that reads each row beside those of `fit` [4]_; needs ``pip install
        skembed[tables]`` and the hub, or the path of its checkpoint (a ``.ckpt`` file).
    n_components : int or "auto", default="auto"
        Number of features of a vector. "auto" is 64; "tabicl" has 512, and no other number.
    columns : dict or None, default=None
        Kinds of columns by name, where they are not to be inferred: "number", "category",
        "boolean", "date", "duration", "text", "tags" or "drop". Columns without names, or with
        names that are no strings, are x0, x1, ... `columns_` says what was decided, and why.
    text : transformer or None, default=None
        What embeds columns of text, a `TextEmbedder` for example. None counts groups of letters.
    training : "auto", FineTune, Contrastive, SelfSupervised or InContext, default="auto"
        "auto": with y of 50 rows or more ``FineTune(cross_fit=5)``, so that `fit_transform` gives
        each row the vector of a network that has not seen its label; else ``SelfSupervised()``.
        With too few distinct rows for folds there are none, and a warning says so. `partial_fit`
        learns from any number of labels. Of "tabicl" it is ``InContext()``, with folds if there
        is y.
    device : str, default="auto"
        Where the network runs: "auto", "cpu", "cuda", "cuda:1", "mps".
    cache : "run", path, EmbeddingStore or None, default="run"
        Where what was learned is kept, so that the same training is not done twice in a search.
        Vectors are not stored: to compute them is faster.
    on_error : {"raise", "nan"}, default="raise"
        What to do with rows that have an infinite number: raise an error that names every one, or
        return rows of NaN, warn and list them in `report_.faults`. Missing values are no errors.
    verbose : bool, default=False
        Whether to show a progress bar when the work takes longer than a second.
    random_state : int, default=0
        Seed of the network's first weights.

    Attributes
    ----------
    columns_ : dict of str to Column
        What each column was taken for.
    n_features_in_ : int
        Number of columns.
    feature_names_in_ : ndarray of str objects of shape (n_features,)
        Names of the columns, if they are all strings.
    n_features_out_ : int
        Number of output features.
    trained_ : TrainedState
        What was learned.
    history_ : dict of str to list
        What was recorded of each epoch.
    report_ : EmbeddingReport
        What the last `transform` did. Rows are not compared: `n_distinct` is None. `notes` has the
        cells that could not be read, by row.

    See Also
    --------
    SelfSupervised : Training on rows alone.
    FineTune : Training on labels.

    Notes
    -----
    A row's vector does not depend on the rows beside it, to within rounding. Numbers are brought to
    a normal distribution by the quantiles of the rows in `fit`; missing values have embeddings of
    their own, but are medians to "tabicl".

    Words of which 95% or more are numbers or dates are read as such. The others, or those that come
    in `transform`, count as missing; a warning names their rows, and so does `report_.notes`. If
    the column's kind was given, they are bad rows instead, as `on_error` says.

    Rows have no `sample_weight`: it would have to be what equal rows are, and to train in batches a
    row of weight 2 is not two rows. Classes have, by ``FineTune(class_weight="balanced")``.

    References
    ----------
    .. [1] Y. Gorishniy et al., "Revisiting Deep Learning Models for Tabular Data", NeurIPS 2021,
       arXiv:2106.11959.
    .. [2] Y. Gorishniy et al., "TabM: Advancing Tabular Deep Learning with Parameter-Efficient
       Ensembling", ICLR 2025, arXiv:2410.24210.
    .. [3] Y. Gorishniy et al., "On Embeddings for Numerical Features in Tabular Deep Learning",
       NeurIPS 2022, arXiv:2203.05556.
    .. [4] J. Qu et al., "TabICL: A Tabular Foundation Model for In-Context Learning on Large Data",
       ICML 2025, arXiv:2502.05564.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skembed import TabularEmbedder
    >>> X, y = load_iris(return_X_y=True)
    >>> TabularEmbedder(n_components=8).fit_transform(X, y).shape
    (150, 8)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **ColumnsEmbedder._parameter_constraints,
        "model": [str, Path],
        "n_components": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "columns": [dict, None],
        "text": [HasMethods(["fit", "transform"]), None],
        "training": [StrOptions({"auto"}), FineTune, Contrastive, SelfSupervised, InContext],
        "device": [str],
        "random_state": [Interval(Integral, 0, None, closed="left")],
    }
    _are_free: ClassVar[frozenset[str]] = ColumnsEmbedder._are_free - {"model"}

    def __init__(
        self,
        model: str = "mlp",
        *,
        n_components: int | str = "auto",
        columns: Mapping[str, str] | None = None,
        text: Any = None,
        training: Any = "auto",
        device: str = "auto",
        cache: str | os.PathLike[str] | EmbeddingStore | None = "run",
        on_error: str = "raise",
        verbose: bool = False,
        random_state: int = 0,
    ) -> None:
        self.model = model
        self.n_components = n_components
        self.columns = columns
        self.text = text
        self.training = training
        self.device = device
        self.cache = cache
        self.on_error = on_error
        self.verbose = verbose
        self.random_state = random_state

    def fit(self: Tabular, X: Any, y: Any = None) -> Tabular:  # type: ignore[override]
        """Learn what the columns are, and train the network.

        Parameters
        ----------
        X : DataFrame, array-like or sparse matrix of shape (n_rows, n_columns)
            Of pandas, polars or Arrow; an array; a list of rows.
        y : array-like of shape (n_rows,) or (n_rows, n_outputs), default=None
            Labels or numbers to learn from, if `training` does.

        Returns
        -------
        self
        """
        return super().fit(X, y)

    def fit_transform(self, X: Any, y: Any = None) -> Any:  # type: ignore[override]
        """Fit to rows and embed them.

        Parameters
        ----------
        X, y
            As for `fit`.

        Returns
        -------
        vectors : ndarray of shape (n_rows, n_components), float32
            As of `transform`; with `training.cross_fit`, each row's vector is one of a network
            trained without it.
        """
        return super().fit_transform(X, y)

    def partial_fit(  # type: ignore[override]
        self: Tabular, X: Any, y: Any = None, classes: Any = None
    ) -> Tabular:
        """Train for one epoch on rows, going on from what was learned; see `FineTune`.

        Columns are what they were in the first call.

        Parameters
        ----------
        X, y
            As for `fit`.
        classes : array-like of shape (n_classes,), default=None
            All classes that any call will give.

        Returns
        -------
        self
        """
        return super().partial_fit(X, y, classes)

    def _validate_parameters(self, params: dict[str, Any]) -> None:
        super()._validate_parameters(params)
        fault = fault_of_model(self.model, self.n_components, self.training)
        if fault is not None:
            raise InvalidParameterError(f"{type(self).__name__}: {fault}")

    # What is trained ------------------------------------------------------------------------

    @property
    def _strategy(self) -> Any:
        if self.training != "auto":
            return self.training
        return self.__dict__.get("_chosen") or SelfSupervised()

    def _fit_trained(self, X: Any, y: Any, sample_weight: Any, **step: Any) -> CheckedRows:
        before = {name: self.__dict__[name] for name in _LEARNED if name in self.__dict__}
        warm_starts = isinstance(self.training, Strategy) and self.training.warm_start
        goes_on = "trained_" in self.__dict__ and bool(step or warm_starts)
        if goes_on and not step:
            self._refuse_other_columns()
        try:
            if self.training == "auto" and not goes_on:
                self._chosen = choose_training(self.model, y, is_step=bool(step))
            self._keeps_columns = goes_on
            return super()._fit_trained(X, y, sample_weight, **step)
        except BaseException:  # what was learned before is not lost
            for name in _LEARNED:
                self.__dict__.pop(name, None)
            self.__dict__.update(before)
            raise

    def _train(self, *args: Any) -> None:
        rows, y = args[-2:]
        name = type(self).__name__
        has_folds = self.training == "auto" and self._strategy.cross_fit is not None
        if has_folds and not _can_be_folded(self._strategy, self._encoder, rows, y, name):
            self._chosen = clone(self._strategy).set_params(cross_fit=None)
            warn_user(
                f"{name}: there are too few distinct rows, or rows of a class, to learn without a "
                "fifth of them. fit_transform gives vectors of a model that has seen their "
                "labels, and what is fitted on them will be too sure of itself.",
                TrainingWarning,
                once=f"too few rows to fold of {', '.join(self.columns_):.200}",
            )
        if is_pretrained(self.model):
            if args[2]:
                raise InvalidParameterError(
                    f"partial_fit: model={self.model!r} keeps the rows of one call. Call fit."
                )
            self._refuse(rows)
            state = _keep_context(self._strategy, str(self.model), rows, y, name)
            self.trained_ = replace(state, made_with=self._made_with(self._settings()))
            self._learned_with = self._objects()
        else:
            super()._train(*args)

    # The encoder ----------------------------------------------------------------------------

    def _settings(self) -> Any:
        columns = None if self.columns is None else tuple(dict(self.columns).items())
        return TableSettings(
            model=str(self.model),
            width=_WIDTH if isinstance(self.n_components, str) else int(self.n_components),
            seed=int(self.random_state),
            columns=columns,
        )

    def _find_encoder(self, state: TrainedState | None = None) -> Any:
        settings = self._settings()
        if not self.__dict__.get("_is_learning"):
            state = self._trained_state(settings)
        return _find_encoder(settings, self._table, _resolve_device(self.device), state)

    @property
    def _encoder(self) -> Any:
        try:
            return self._get_encoder()
        except ModelNotFoundError as error:  # what looks through attributes goes on
            raise AttributeError(str(error)) from error

    def _get_encoder(self) -> Any:
        if self.__dict__.get("_is_learning"):
            return self._find_encoder()
        if "_table" not in self.__dict__:
            raise NotFittedError(f"This {type(self).__name__} is not fitted yet; call fit first.")
        settings = self._settings()
        state, last = self._trained_state(settings), self.__dict__.setdefault("_last", {})
        found = last.get("encoder")
        if found is None or found[:2] != (settings, state):
            found = last["encoder"] = (settings, state, self._find_encoder())
        return found[2]

    def _keep_encoder(self, encoder: Any) -> None:
        self._last["encoder"] = (self._settings(), self.trained_, encoder)

    def _made_with(self, settings: Any) -> dict[str, str]:
        made = super()._made_with(settings)
        if not is_pretrained(self.model):
            return made
        if not self._table.is_random:  # there is nothing that the seed decides
            del made["seed"]
        return {**made, "model": "'tabicl'"}  # whose content counts, wherever its file is

    def _as_parameter(self, setting: str, value: str) -> tuple[str, str]:
        return {"width": "n_components", "seed": "random_state"}.get(setting, setting), value

    @property
    def n_features_out_(self) -> int:
        """Number of output features."""
        if is_pretrained(self.model) and "trained_" in self.__dict__:
            return int(self.trained_.arrays.get("width", 0))  # without looking for its weights
        return int(self._settings().width)

    def __sklearn_is_fitted__(self) -> bool:
        return "trained_" in self.__dict__

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = True
        tags.target_tags.required = isinstance(self.training, FineTune)
        return tags
