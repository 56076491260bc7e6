"""The skeleton of embedders that can be trained in `fit`: strategies, what was learned, export.

Knows strategies and states, not what is trained: a subclass finds the encoder for its parameters
and what it has learned.
"""

from __future__ import annotations

import os
import time
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from sklearn.base import clone
from sklearn.utils import Tags

from skembed._inputs import CheckedRows
from skembed._later import later
from skembed._learned import LearnedEmbedder
from skembed._sklearn import has_watchers, watch_epochs, without_callbacks
from skembed.engine import Embedded
from skembed.exceptions import (
    InvalidInputError,
    InvalidParameterError,
    InvalidRowsWarning,
    SkembedError,
    describe_rows,
    warn_user,
)
from skembed.store import resolve_store
from skembed.training import Contrastive, FineTune, Strategy, TrainedState, check_pairs

__all__ = ["TrainableEmbedder"]

Trainable = TypeVar("Trainable", bound="TrainableEmbedder")

_learn = later("skembed.training._learn", "learn")
_cross_fit = later("skembed.training._cross_fit", "cross_fit")
_export = later("skembed.training._export", "export")


class TrainableEmbedder(LearnedEmbedder):
    """Base class of embedders whose `fit` trains a model if the parameter `training` says how."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **LearnedEmbedder._parameter_constraints,
        "training": [FineTune, Contrastive, None],
    }

    _is_private: ClassVar[tuple[str, ...]] = (*LearnedEmbedder._is_private, "_is_learning")

    _encoder: Any
    """The encoder of the present parameters and what was learned."""

    @abstractmethod
    def _find_encoder(self, state: TrainedState | None = None) -> Any:
        """Return the encoder for the present parameters, and for `state` while learning."""

    @abstractmethod
    def _keep_encoder(self, encoder: Any) -> None:
        """Let `_encoder` be this one."""

    # The estimator --------------------------------------------------------------------------

    def fit(self: Trainable, X: Any, y: Any = None, sample_weight: Any = None) -> Trainable:
        """Check the parameters, the rows and the model's files; with `training`, train the model.

        Without `training` nothing is learned.

        Parameters
        ----------
        X : collection of rows
            As for `transform`.
        y : array-like of shape (n_rows,) or (n_rows, n_outputs), default=None
            What `training` learns from; ignored without it.
        sample_weight : array-like of shape (n_rows,), default=None
            Weights of the rows in the loss of `training`; ignored without it.

        Returns
        -------
        self
        """
        self._warn_of_unlearned(self._fit_trained(X, y, sample_weight))
        return self

    def fit_transform(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit to rows and embed them; the rows are checked once.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.

        Returns
        -------
        vectors : ndarray of shape (n_rows, n_features), float32
            As of `transform`; with `training.cross_fit`, each row's vector is one of a model
            trained without it.
        """
        started = time.perf_counter()
        if self._are_pairs(X):
            raise InvalidInputError(
                "fit_transform: X is made of pairs of rows, which have no vectors of their own. "
                "Call fit(pairs), then transform(rows)."
            )
        rows = self._fit_trained(X, y, sample_weight)
        if self._strategy is None or self._strategy.cross_fit is None:
            return self._transform_rows(rows, X, started)
        embed = partial(self._embed_out_of_fold, y, sample_weight)
        return self._transform_rows(rows, X, started, embed)

    def _embed_out_of_fold(self, y: Any, sample_weight: Any, rows: CheckedRows) -> Embedded:
        """Embed the rows that were learned from, each by a model trained without it."""

        def embed_without(fold: int, others: CheckedRows) -> Embedded:
            of_fold = self._strategy.settled(self.trained_.kind).set_params(cross_fit=None)
            if of_fold.checkpoint is not None:
                of_fold.set_params(checkpoint=Path(of_fold.checkpoint) / f"fold_{fold}")
            other = without_callbacks(self._untrained()).set_params(training=of_fold)
            other._fit_trained(others, y, sample_weight)
            embedded: Embedded = other._embed(rows)
            return embedded

        whole = self._embed(rows)
        if self.trained_.kind == "views" and self.trained_.method == "context":  # without labels
            return whole
        found: Embedded = _cross_fit(self._strategy, self._encoder, rows, y, whole, embed_without)
        return found

    def _untrained(self: Trainable) -> Trainable:
        """Return an embedder that takes the same checked rows, and has learned nothing."""
        other: Trainable = clone(self)
        return other

    def partial_fit(
        self: Trainable, X: Any, y: Any = None, classes: Any = None, sample_weight: Any = None
    ) -> Trainable:
        """Train for one epoch on rows, going on from what `fit` or `partial_fit` has learned.

        The weights and what stands on top of the vectors while training (a classifier) go on from
        where they are, or from the model as it was published; the optimizer starts anew. The
        learning rate is constant, and what is learned is kept: no rows are held out to compare
        epochs. Of `training`, `n_epochs`, `warmup`, `validation_fraction`, `scoring`, `patience`
        and `checkpoint` count in `fit` alone. Without `training`, parameters and rows are checked
        and nothing is learned.

        Parameters
        ----------
        X : collection of rows
            As for `transform`.
        y : array-like of shape (n_rows,) or (n_rows, n_outputs), default=None
            What `training` learns from.
        classes : array-like of shape (n_classes,), default=None
            All classes that any call will give, for `FineTune`. They are those of the first call,
            which need not have rows of each; it takes those in y if it names none.
        sample_weight : array-like of shape (n_rows,), default=None
            Weights of the rows in the loss.

        Returns
        -------
        self

        Raises
        ------
        NotFittedError
            If parameters that decide what is learned have changed since.
        InvalidRowsError
            If y has classes that were not named at first; it names the rows.
        """
        rows = self._fit_trained(X, y, sample_weight, is_step=True, classes=classes)
        self._warn_of_unlearned(rows)
        return self

    def _warn_of_unlearned(self, rows: CheckedRows) -> None:
        """Warn of bad rows that were left out; `fit_transform` warns of them as rows of NaN."""
        if self._strategy is not None and rows.faults:
            warn_user(
                f"{len(rows.faults):,} of {rows.n_rows:,} {rows.noun}s were not learned from:"
                f"{describe_rows(rows.faults, rows.labels)}",
                InvalidRowsWarning,
            )

    def _fit_trained(self, X: Any, y: Any, sample_weight: Any, **step: Any) -> CheckedRows:
        before: TrainedState | None = self.__dict__.get("trained_")
        if step and before is not None and self._strategy is not None:
            before = self._trained_state(self._settings())
        self.__dict__.pop("trained_", None)
        self._is_learning = True
        try:
            watch = watch_epochs(self, X, y, sample_weight)
            learn = partial(self._train, before, sample_weight, step, watch)
            rows = self._fit_rows(X, y, learn, sample_weight)
        except BaseException:
            self.__dict__.pop("_present", None)  # the model before it was trained
            if before is not None:  # what was learned before is not lost
                self.trained_ = before
            raise
        finally:
            del self._is_learning
        if self._strategy is not None:
            self._keep_encoder(self._find_encoder())
        return rows

    def _validate_parameters(self, params: dict[str, Any]) -> None:
        checks = [partial(super()._validate_parameters, params)]
        # What transform uses is as it was fitted.
        if self.__dict__.get("_is_learning") and isinstance(self._strategy, Strategy):
            checks.append(partial(self._strategy.check))
        faults = []
        for check in checks:
            try:
                check()
            except InvalidParameterError as error:
                faults.append(str(error))
        if faults:
            raise InvalidParameterError("\n".join(faults))

    def _are_pairs(self, X: Any) -> bool:
        """Return whether rows given to `fit` are pairs of what `transform` takes."""
        return isinstance(self._strategy, Strategy) and self._strategy._takes_pairs(X)

    def _checked(self, X: Any) -> CheckedRows:
        if not (self.__dict__.get("_is_learning") and self._are_pairs(X)):
            return super()._checked(X)
        return check_pairs(X, self._check_rows, drops_bad=self.on_error == "nan")

    def _train(
        self,
        before: TrainedState | None,
        sample_weight: Any,
        step: dict[str, Any],
        watch: Callable[..., Any] | None,
        rows: CheckedRows,
        y: Any,
    ) -> None:
        if self._strategy is None:
            return
        self._refuse(rows)
        owner = type(self).__name__
        goes_on = before is not None and (step or self._strategy.warm_start)
        try:
            self.trained_ = _learn(
                self._strategy,
                self._encoder.whole(),
                rows,
                y,
                owner=owner,
                sample_weight=sample_weight,
                store=resolve_store(self.cache),
                before=self._find_encoder(before) if goes_on else None,
                made_with=self._made_with(self._settings()),
                title=f"{owner}: training" if self.verbose else None,
                drops_bad_rows=self.on_error == "nan",
                watch=watch,
                trains_anew=has_watchers(self),
                **step,
            )
        except SkembedError as error:
            # It says all: a page of the library's own frames would only hide it.
            raise error.with_traceback(None) from error.__cause__
        self._learned_with = self._objects()

    def export(self, folder: str | os.PathLike[str]) -> Path:
        """Write the model, as it is now, into a folder that its own library loads.

        Texts: a sentence-transformers folder, which transformers reads as well. Pictures and
        sounds: a transformers or timm folder, or a state dict for torchvision, torchaudio or your
        own module, as `model.safetensors`. What these formats have no place for (a projection
        trained by `method="head"`, the pooling of a layer) is said in the folder's README.md, which
        has the code that loads the model and gives the same vectors, up to 1e-5 in float32. LoRA's
        matrices are added to the weights. Works without `fit` where nothing is trained.

        Parameters
        ----------
        folder : path
            A new or empty folder. It appears under its name when it is complete.

        Returns
        -------
        folder : Path

        Raises
        ------
        NotFittedError
            With `training`, before `fit`.
        InvalidParameterError
            If there is something in the folder.
        UnsupportedModelError
            If the model has no weights, or none that its library would load.
        """
        self._begin()
        exported: Path = _export(self._encoder.whole(), folder, self)
        return exported

    def set_params(self: Trainable, **params: Any) -> Trainable:
        """Set parameters of the embedder, and of its `training` as `training__learning_rate`.

        Parameters
        ----------
        **params
            Values by name.

        Returns
        -------
        self
        """
        inner = [name for name in params if name.startswith("training__")]
        training = params.get("training", self.training)
        if inner and not isinstance(training, Strategy):
            raise InvalidParameterError(
                f"{inner[0]}: {type(self).__name__} has training={training!r:.60}, which has no "
                "parameters. Set a strategy first, as training=FineTune(...); in a search, put "
                f"{training!r:.60} into a grid of its own."
            )
        changed: Trainable = super().set_params(**params)
        return changed

    def __sklearn_is_fitted__(self) -> bool:
        return self._strategy is None or "trained_" in self.__dict__

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = self._strategy is not None
        tags.target_tags.required = self._strategy is not None and self._strategy._needs_y
        return tags
