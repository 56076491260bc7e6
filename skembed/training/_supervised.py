"""Learning from targets: a linear head on the vectors, fitted first, then trained with the model.

Knows vectors and targets, not rows or models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor, nn

from skembed._inputs import CheckedRows
from skembed.training._fine_tune import FineTune
from skembed.training._objective import Batch, Embed, FrozenRows, Objective
from skembed.training._state import TrainedState
from skembed.training._targets import Targets, check_targets
from skembed.training._validation import scorer_of, split

__all__ = ["LinearHead", "Supervised", "check_labels", "make_supervised"]

_C = 10.0
"""Inverse strength of the first fit's penalty, on vectors of mean length 1."""


class LinearHead(nn.Module):
    """Maps vectors to one output per class, label or number."""

    def __init__(self, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(weight.copy()))
        self.bias = nn.Parameter(torch.from_numpy(bias.copy()))

    @classmethod
    def fitted(cls, vectors: NDArray[np.float32], targets: Targets) -> LinearHead:
        """Return the head that is best on fixed vectors, up to a small penalty."""
        scale = float(np.linalg.norm(vectors, axis=1).mean()) or 1.0
        unit, weights = vectors / scale, targets.weights
        if targets.kind == "numbers":
            ridge = Ridge(alpha=1.0 / _C).fit(unit, targets.values, sample_weight=weights)
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
        return cls((coef / scale).astype(np.float32), bias.astype(np.float32))

    @classmethod
    def learned(cls, before: TrainedState, targets: Targets) -> LinearHead | None:
        """Return the head that was trained, if it has the outputs that targets ask for."""
        if set(before.head) != {"weight", "bias"} or before.kind != targets.kind:
            return None
        known, classes = before.classes, targets.classes
        if known is not None and (classes is None or not np.array_equal(known, classes)):
            return None
        head = cls(before.head["weight"], before.head["bias"])
        return head if len(head.bias) == targets.n_outputs else None

    def forward(self, vectors: Tensor) -> Tensor:
        """Return outputs (n, outputs)."""
        return F.linear(vectors, self.weight, self.bias)


def _fit_classes(
    vectors: NDArray[np.float32],
    values: NDArray[Any],
    n_classes: int,
    weights: NDArray[np.float32],
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return coefficients and intercepts of a logistic regression; zeros of unseen classes."""
    n_rows = 1 if n_classes == 2 else n_classes
    coef, bias = np.zeros((n_rows, vectors.shape[1])), np.zeros(n_rows)
    present = np.unique(values)
    if len(present) > 1:
        fit = LogisticRegression(C=_C, max_iter=300).fit(vectors, values, sample_weight=weights)
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
    train, held_out = split(targets, strategy.validation_fraction, seed)
    head = None if rows.before is None else LinearHead.learned(rows.before, targets)
    return Supervised(
        targets,
        train,
        held_out,
        head=head or LinearHead.fitted(rows.vectors[train], targets.take(train)),
        loss=strategy.loss,
        batch_size=strategy.batch_size,
        sampling=strategy.sampling,
        scorer=scorer_of(strategy.scoring),
    )


class Supervised(Objective):
    """Cross-entropy, or an error of numbers, of a linear head."""

    is_per_row = True

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
        self._values = torch.from_numpy(targets.values)
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
        rows = batch.rows if positions is None else batch.rows[list(positions)]
        whole = self._weights[batch.rows].sum().to(vectors.device)
        weights = self._weights[rows].to(vectors.device)
        losses = self._losses(self.head(vectors), self._values[rows].to(vectors.device))
        return (losses * weights).sum() / whole.clamp_min(1e-12)

    def score(self, embed: Embed) -> float | None:
        """Return the scorer's value, or the loss with a minus, on held-out rows."""
        if not len(self.held_out):
            return None
        vectors = embed(self.held_out)
        if self._scorer is not None:
            return float(self._scorer(self.as_estimator(), vectors, self._y(self.held_out)))
        with torch.no_grad():
            head = next(self.head.parameters())
            batch = Batch(self.held_out)
            return -float(self.loss(torch.from_numpy(vectors).to(head.device), batch))

    def as_estimator(self) -> Any:
        """Return the head as an estimator of scikit-learn, for scorers."""
        weight, bias = (p.detach().cpu().double().numpy() for p in self.head.parameters())
        if self.targets.kind == "numbers":
            return _of_numbers(weight, bias)
        if self.targets.kind == "labels":
            return _HeadOfLabels(weight, bias)
        found = LogisticRegression()
        found.classes_ = self.targets.classes
        is_binary = len(weight) == 2
        found.coef_ = weight[1:] - weight[:1] if is_binary else weight
        found.intercept_ = bias[1:] - bias[:1] if is_binary else bias
        found.n_features_in_ = weight.shape[1]
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


def _of_numbers(weight: NDArray[Any], bias: NDArray[Any]) -> Ridge:
    found = Ridge()
    is_one = len(weight) == 1
    found.coef_ = weight[0] if is_one else weight
    found.intercept_ = float(bias[0]) if is_one else bias
    found.n_features_in_ = weight.shape[1]
    return found


class _HeadOfLabels:
    """Several labels a row, for scorers."""

    _estimator_type = "classifier"

    def __init__(self, weight: NDArray[Any], bias: NDArray[Any]) -> None:
        self._weight, self._bias = weight, bias

    def decision_function(self, X: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = X @ self._weight.T + self._bias
        return found

    def predict(self, X: NDArray[Any]) -> NDArray[np.int64]:
        return (self.decision_function(X) > 0).astype(np.int64)


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
