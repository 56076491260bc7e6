"""Learning from targets: a linear head on the vectors, trained with the model.

It is fitted to the vectors first, unless they are those of random weights.

Knows vectors and targets, not rows or models.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multioutput import MultiOutputClassifier
from torch import Tensor, nn

from skembed._inputs import CheckedRows
from skembed.exceptions import InvalidParameterError
from skembed.training._examples import FrozenRows
from skembed.training._fine_tune import FineTune
from skembed.training._objective import Batch, Embed, Objective
from skembed.training._state import TrainedState
from skembed.training._targets import Targets, check_targets
from skembed.training._validation import score_by, scorer_of, split, without_advice

__all__ = ["LinearHead", "Supervised", "check_labels", "make_supervised"]

_C = 3.0
"""Inverse strength of the first fit's penalty, on vectors at a mean square distance of 1.

Of MiniLM on 16, 64, 256 and 2,000 food reviews, 0.1 to 100 tried: the log loss of new reviews is
0.74, 0.65, 0.59 and 0.51, the least or within 0.02 of it; of 10 it is 0.78, 0.68, 0.64 and 0.53."""

_SCALES = tuple(2.0 ** (step / 4) for step in range(-16, 9))
"""Of a classifier's outputs, tried on held-out rows."""


class LinearHead(nn.Module):
    """Maps vectors to one output per class, label or number.

    Numbers are learned in units of their spread, about their mean: `scale` and `center`.
    """

    center: Tensor
    scale: Tensor

    def __init__(
        self,
        weight: NDArray[Any],
        bias: NDArray[Any],
        center: NDArray[Any] | None = None,
        scale: NDArray[Any] | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(weight.astype(np.float32)))
        self.bias = nn.Parameter(torch.from_numpy(bias.astype(np.float32)))
        self.has_units = center is not None and scale is not None
        if center is not None and scale is not None:
            for name, values in (("center", center), ("scale", scale)):
                fixed = torch.from_numpy(values.astype(np.float32))
                self.register_parameter(name, nn.Parameter(fixed, requires_grad=False))

    @classmethod
    def fitted(cls, vectors: NDArray[np.float32], targets: Targets) -> LinearHead:
        """Return the head that is best on fixed vectors, up to a small penalty."""
        weights = targets.weights
        # About their mean, and near length 1: vectors of some models differ little from each other.
        middle = vectors.mean(axis=0, dtype=np.float64)
        spread = float(np.sqrt(np.square(vectors - middle).sum(axis=1).mean())) or 1.0
        unit = (vectors - middle) / spread
        units: tuple[NDArray[Any], ...] = ()
        if targets.kind == "numbers":
            units = center, scale = _units_of(targets)
            ridge = Ridge().fit(unit, (targets.values - center) / scale, sample_weight=weights)
            coef = ridge.coef_.reshape(targets.n_outputs, -1)
            bias = np.reshape(ridge.intercept_, -1)
        elif targets.kind == "labels":
            fits = [_fit_classes(unit, column, 2, weights) for column in targets.values.T]
            coef = np.concatenate([coef for coef, _ in fits])
            bias = np.concatenate([bias for _, bias in fits])
        else:
            coef, bias = _fit_classes(unit, targets.values, targets.n_outputs, weights)
            if targets.n_outputs == 2:
                coef, bias = np.concatenate([-coef, coef]) / 2, np.concatenate([-bias, bias]) / 2
        coef = coef / spread
        return cls(coef, bias - coef @ middle, *units)

    @classmethod
    def fresh(cls, width: int, targets: Targets, seed: int) -> LinearHead:
        """Return a head of random weights, as those of the model are."""
        bound = width**-0.5
        shape = targets.n_outputs, width
        weight = np.random.default_rng(seed).uniform(-bound, bound, shape)
        units = _units_of(targets) if targets.kind == "numbers" else ()
        return cls(weight, np.zeros(targets.n_outputs), *units)

    @classmethod
    def learned(cls, before: TrainedState, targets: Targets) -> LinearHead | None:
        """Return the head that was trained, if it has the outputs that targets ask for."""
        if not {"weight", "bias"} <= set(before.head) or before.kind != targets.kind:
            return None
        known, classes = before.classes, targets.classes
        if known is not None and (classes is None or not np.array_equal(known, classes)):
            return None
        head = cls(**before.head)
        return head if len(head.bias) == targets.n_outputs else None

    def forward(self, vectors: Tensor) -> Tensor:
        """Return outputs (n, outputs)."""
        return F.linear(vectors, self.weight, self.bias)

    def in_units(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return targets as the outputs should be."""
        if not self.has_units:
            return values
        center, scale = self.center.cpu().numpy(), self.scale.cpu().numpy()
        found: NDArray[Any] = ((values - center) / scale).astype(np.float32)
        return found

    def in_users_units(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return weight and bias of a head whose outputs are what targets are, float64."""
        weight, bias = (p.detach().cpu().double().numpy() for p in (self.weight, self.bias))
        if not self.has_units:
            return weight, bias
        center, scale = (p.cpu().double().numpy() for p in (self.center, self.scale))
        return weight * scale[:, None], bias * scale + center


def _units_of(targets: Targets) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean and the standard deviation of numbers (outputs,), 1 of those all alike."""
    center = np.average(targets.values, axis=0, weights=targets.weights)
    square = np.average(np.square(targets.values - center), axis=0, weights=targets.weights)
    scale = np.sqrt(square)
    is_alike = scale <= 1e-12 * np.abs(center)
    return center, np.where(is_alike, 1.0, scale)


def _fit_classes(
    vectors: NDArray[Any],
    values: NDArray[Any],
    n_classes: int,
    weights: NDArray[np.float32],
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return coefficients and intercepts of a logistic regression; zeros of unseen classes."""
    n_rows = 1 if n_classes == 2 else n_classes
    coef, bias = np.zeros((n_rows, vectors.shape[1])), np.zeros(n_rows)
    present = np.unique(values[weights > 0])
    if len(present) == 1 and n_classes == 2:
        bias[:] = 5.0 if present[0] else -5.0
    if len(present) > 1:
        is_used = weights > 0
        fit = LogisticRegression(C=_C, max_iter=300)
        with without_advice():
            fit.fit(vectors[is_used], values[is_used], sample_weight=weights[is_used])
        if n_classes == 2 or len(present) > 2:
            where: Any = slice(None) if n_classes == 2 else present.astype(int)
            coef[where], bias[where] = fit.coef_, fit.intercept_
        else:
            first, second = present.astype(int)
            coef[second], bias[second] = fit.coef_[0] / 2, fit.intercept_[0] / 2
            coef[first], bias[first] = -coef[second], -bias[second]
        if n_classes > len(present) > 1 and n_classes > 2:  # never chosen before they are seen
            bias[np.setdiff1d(np.arange(n_classes), present.astype(int))] = bias.min() - 5
    return coef, bias


def check_labels(
    strategy: FineTune,
    y: Any,
    rows: CheckedRows,
    owner: str,
    sample_weight: Any,
    *,
    loss: str | None = None,
    classes: Any = None,
) -> Targets:
    """Check and encode the targets of good rows; messages call who needs them `owner`.

    `loss` stands in for the strategy's; `classes` are all that there are, if y may lack some.
    """
    return check_targets(
        y,
        rows,
        owner,
        loss=loss or strategy.loss,
        class_weight=strategy.class_weight,
        sample_weight=sample_weight,
        classes=classes,
    )


def make_supervised(
    strategy: FineTune, targets: Targets, rows: FrozenRows, seed: int
) -> Supervised:
    """Return the objective of a strategy."""
    if strategy.sampling == "balanced" and targets.kind != "classes":
        raise InvalidParameterError(
            f"training__sampling='balanced': y is made of {targets.kind}, not of classes. Use "
            "sampling='shuffle'."
        )
    train, held_out = split(targets, strategy.validation_fraction, seed, rows.keys)
    head = None if rows.before is None else LinearHead.learned(rows.before, targets)
    if head is None and rows.are_random:
        head = LinearHead.fresh(rows.width, targets.take(train), seed)
    return Supervised(
        targets,
        train,
        held_out,
        head=head or LinearHead.fitted(rows.vectors[train], targets.take(train)),
        loss=strategy.loss,
        batch_size=strategy._n_per_step,
        sampling=strategy.sampling,
        scorer=scorer_of(strategy.scoring),
    )


class Supervised(Objective):
    """Cross-entropy, or an error of numbers, of a linear head."""

    is_per_row = True
    head: LinearHead

    def __init__(
        self,
        targets: Targets,
        train: NDArray[np.int64],
        held_out: NDArray[np.int64],
        *,
        head: LinearHead,
        loss: str,
        batch_size: int,
        sampling: str,
        scorer: Any = None,
    ) -> None:
        self.targets, self.train, self.held_out = targets, train, held_out
        self.head, self.n_rows = head, len(train)
        self._loss, self._batch_size, self._sampling, self._scorer = (
            *(loss, batch_size, sampling),
            scorer,
        )
        self._values = torch.from_numpy(head.in_units(targets.values))
        self._weights = torch.from_numpy(targets.weights)

    def n_batches(self) -> int:
        """Return how many batches an epoch has."""
        return -(-len(self.train) // self._batch_size)

    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Yield the rows in a random order, or as many of each class."""
        order = rng.permutation(self.train)
        if self._sampling == "balanced":
            order = _balanced(self.targets.values[self.train], self.train, rng)
        for start in range(0, len(order), self._batch_size):
            yield Batch(order[start : start + self._batch_size])

    def loss(self, vectors: Tensor, batch: Batch, positions: Sequence[int] | None = None) -> Tensor:
        """Return the weighted mean of the rows' losses, or what some rows add to it."""
        rows = torch.from_numpy(batch.rows)
        weights = self._weights[rows].to(vectors.device)
        whole = weights.sum()
        if positions is not None:
            at = torch.tensor(positions)
            rows, weights = rows[at], weights[at.to(vectors.device)]
        losses = self._losses(self.head(vectors), self._values[rows].to(vectors.device))
        return (losses * weights).sum() / whole.clamp_min(1e-12)

    def score(self, embed: Embed) -> float | None:
        """Return the scorer's value, or the least loss with a minus, on held-out rows."""
        if not len(self.held_out):
            return None
        vectors = embed(self.held_out)
        if not np.isfinite(vectors).all():
            return -math.inf
        if self._scorer is None:
            with torch.no_grad():
                at = torch.from_numpy(vectors).to(next(self.head.parameters()).device)
                loss = self._least_loss(at)
            return -math.inf if math.isnan(loss) else -loss
        return score_by(self._scorer, self.as_estimator(), vectors, self._y(self.held_out))

    def _least_loss(self, vectors: Tensor) -> float:
        """Return the loss on held-out rows with the outputs scaled as is best for them.

        The classifier is dropped, and whoever learns from the vectors finds a scale of its own: how
        sure it has become says nothing of them (temperature scaling, arXiv:1706.04599).
        """
        outputs, values = self.head(vectors), self._values[self.held_out].to(vectors.device)
        weights = self._weights[self.held_out].to(vectors.device)
        scales = (1.0,) if self.targets.kind == "numbers" else _SCALES
        losses = torch.stack([self._losses(scale * outputs, values) for scale in scales])
        return float((losses @ weights).min() / weights.sum().clamp_min(1e-12))

    def as_estimator(self) -> Any:
        """Return the head as an estimator of scikit-learn, for scorers."""
        weight, bias = self.head.in_users_units()
        if self.targets.kind == "numbers":
            return _regressor(weight, bias)
        if self.targets.kind == "classes":
            return _classifier(weight, bias, self.targets.classes)
        found = MultiOutputClassifier(LogisticRegression())
        found.estimators_ = [
            _classifier(weight[i : i + 1], bias[i : i + 1], np.arange(2)) for i in range(len(bias))
        ]
        found.classes_ = [each.classes_ for each in found.estimators_]
        return found

    def _y(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        values = self.targets.values[rows]
        if self.targets.classes is not None:
            values = self.targets.classes[values]
        return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values

    def _losses(self, outputs: Tensor, values: Tensor) -> Tensor:
        """Return the loss of each row."""
        if self.targets.kind == "classes":
            return F.cross_entropy(outputs, values, reduction="none")
        if self.targets.kind == "labels":
            return F.binary_cross_entropy_with_logits(outputs, values, reduction="none").mean(1)
        if self._loss == "absolute_error":
            return F.l1_loss(outputs, values, reduction="none").mean(1)
        if self._loss == "huber":
            return F.huber_loss(outputs, values, reduction="none").mean(1)
        return F.mse_loss(outputs, values, reduction="none").mean(1)


def _regressor(weight: NDArray[Any], bias: NDArray[Any]) -> Ridge:
    found = Ridge()
    is_one = len(weight) == 1
    found.coef_ = weight[0] if is_one else weight
    found.intercept_ = float(bias[0]) if is_one else bias
    found.n_features_in_ = weight.shape[1]
    return found


def _classifier(weight: NDArray[Any], bias: NDArray[Any], classes: Any) -> LogisticRegression:
    found = LogisticRegression()
    found.classes_ = classes
    has_two = len(weight) == 2
    found.coef_ = weight[1:] - weight[:1] if has_two else weight
    found.intercept_ = bias[1:] - bias[:1] if has_two else bias
    found.n_features_in_ = weight.shape[1]
    return found


def _balanced(
    values: NDArray[Any], rows: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return as many rows as there are, as many of each class."""
    classes = [rows[values == each] for each in np.unique(values)]
    n_each = -(-len(rows) // len(classes))
    drawn = []
    for members in classes:
        n_rounds = -(-n_each // len(members))
        rounds = [rng.permutation(members) for _ in range(n_rounds)]
        drawn.append(np.concatenate(rounds)[:n_each])
    return rng.permutation(np.concatenate(drawn))
