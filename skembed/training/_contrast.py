"""Learning from pairs of rows: of one class, given, or two views of a row.

Knows vectors, classes and pairs, not rows or models.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from skembed._inputs import CheckedRows, is_missing
from skembed._parameters import plain
from skembed.exceptions import (
    InvalidInputError,
    InvalidParameterError,
    InvalidRowsError,
    InvalidTargetsError,
    describe_rows,
)
from skembed.training._contrastive import Contrastive
from skembed.training._examples import FrozenRows
from skembed.training._objective import Batch, Embed, Objective
from skembed.training._similarity import (
    class_cosine_loss,
    cosine_loss,
    info_nce_loss,
    supervised_contrastive_loss,
    triplet_loss,
)
from skembed.training._targets import Targets, check_targets
from skembed.training._validation import score_by, scorer_of, split, without_advice

__all__ = ["Classes", "Pairs", "Views", "check_contrast", "make_contrast"]

_MOST_OF_PROBE = 2000
_MOST_OF_A_CLASS = 4
"""Most rows of a class that come into a batch together, so that there are other classes in it."""

_LOSSES = {
    "classes": ("cosine", "supervised_contrastive"),
    "pairs": ("info_nce",),
    "triplets": ("info_nce", "triplet"),
    "scores": ("cosine",),
    "views": ("info_nce",),
}
"""The losses of each kind of targets, the first for "auto"."""

_NAMES = {"classes": "labels", "scores": "pairs with similarities", "views": "views"}


# What there is to learn from -----------------------------------------------------------------


def check_contrast(
    strategy: Contrastive, y: Any, rows: CheckedRows, owner: str, sample_weight: Any
) -> Targets:
    """Check and encode what good rows are to be told by; messages call who needs it `owner`."""
    if sample_weight is not None:
        raise InvalidTargetsError(
            f"sample_weight: {owner} learns from pairs, which have no weights."
        )
    targets = _find_targets(strategy, y, rows, owner)
    kind = "triplets" if targets.kind == "pairs" and rows.n_sides == 3 else targets.kind
    name, known = _NAMES.get(kind, kind), _LOSSES[kind]
    if strategy.loss not in ("auto", *known):
        raise InvalidParameterError(
            f"training__loss={strategy.loss!r}: there is no such loss of {name}; expected "
            f"{' or '.join(map(repr, known))}, or 'auto'."
        )
    if kind != "classes" and strategy.scoring != "loss":
        raise InvalidParameterError(
            f"training__scoring={strategy.scoring!r}: {name} have no classes that a scorer could "
            "compare; expected 'loss'."
        )
    if kind == "views" and strategy.method == "head":
        raise InvalidParameterError(
            "training__method='head': stored vectors have no views; expected 'full' or 'lora'."
        )
    return targets


def _find_targets(strategy: Contrastive, y: Any, rows: CheckedRows, owner: str) -> Targets:
    if rows.n_sides > 1:
        return _check_pairs(y, rows)
    if strategy.positives == "labels" or (strategy.positives == "auto" and y is not None):
        targets = check_targets(y, rows, owner)
        if targets.kind != "classes":
            kind = "numbers" if targets.kind == "numbers" else "several labels a row"
            raise InvalidTargetsError(
                f"y: expected one class per row, got {kind}. Use training=FineTune(...), or give "
                "pairs of rows and their similarity."
            )
        if np.unique(targets.values, return_counts=True)[1].max() < 2:
            raise InvalidTargetsError("y: expected two rows of one class, got one of each class.")
        return targets
    if len(rows.items) < 2:
        raise InvalidInputError(f"{owner} learns from two rows or more, got {len(rows.items)}.")
    return _targets_of("views", np.arange(len(rows.items)))


def _targets_of(kind: Any, values: NDArray[Any]) -> Targets:
    return Targets(kind, values, np.ones(len(values), dtype=np.float32))


def _check_pairs(y: Any, rows: CheckedRows) -> Targets:
    places = np.arange(len(rows.items)).reshape(-1, rows.n_sides)
    if len(places) < 2:
        raise InvalidInputError(f"X: expected two pairs or more, got {len(places)}.")
    if y is None:
        return _targets_of("pairs", places)
    if rows.n_sides == 3:
        raise InvalidTargetsError("y: triplets have no similarities; call fit(X) without y.")
    values = np.ravel(np.asarray(y, dtype=object)).tolist()
    if len(values) != rows.n_rows:
        raise InvalidTargetsError(
            f"y: expected one similarity for each of {rows.n_rows:,} pairs, got {len(values):,}."
        )
    faults, scores = dict[int, str](), []
    for pair in rows.positions[::2].tolist():
        score = None if is_missing(values[pair]) else values[pair]
        if not isinstance(score, (int, float, np.number, np.bool_)) or not -1 <= score <= 1:
            faults[pair] = f"{plain(values[pair])!r:.60}"
        else:
            scores.append(score)
    if faults:
        raise InvalidRowsError(
            f"y: expected cosine similarities, from -1 to 1; {len(faults):,} of {rows.n_rows:,} "
            f"are not:{describe_rows(faults, rows.labels)}",
            faults,
        )
    return _targets_of("scores", np.asarray(scores, dtype=np.float32))


def make_contrast(
    strategy: Contrastive, targets: Targets, rows: FrozenRows, seed: int
) -> Objective:
    """Return the objective of a strategy."""
    train, held_out = split(targets, strategy.validation_fraction, seed, rows.keys)
    kinds: dict[str, type[_Contrast]] = {"classes": Classes, "views": Views}
    kind = kinds.get(targets.kind, Pairs)
    return kind(strategy, targets, train, held_out, rows.keys, seed)


# Objectives ----------------------------------------------------------------------------------


class _Contrast(Objective):
    """What the three have in common. `keys` are equal numbers for equal rows."""

    def __init__(
        self,
        strategy: Contrastive,
        targets: Targets,
        train: NDArray[np.int64],
        held_out: NDArray[np.int64],
        keys: NDArray[np.int64],
        seed: int,
    ) -> None:
        self.head = nn.Module()
        self.strategy, self.targets, self.train, self.held_out = strategy, targets, train, held_out
        self._keys, self._seed = torch.from_numpy(keys), seed
        self._values = torch.from_numpy(targets.values)
        self.n_rows = len(train)

    def n_batches(self) -> int:
        """Return how many batches an epoch has."""
        return max(1, round(len(self.train) / self.strategy._n_per_step))

    def _chunks(self, order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Cut rows into batches of nearly equal size: one row alone has nothing to differ from."""
        return np.array_split(order, max(1, round(len(order) / self.strategy._n_per_step)))

    def score(self, embed: Embed) -> float | None:
        """Return the mean loss of fixed batches of held-out rows, with a minus."""
        if not len(self.held_out):
            return None
        rng = np.random.default_rng(self._seed)
        losses = []
        for chunk in self._chunks(rng.permutation(self.held_out)):
            batch = self._batch(chunk)
            seeds = rng.integers(1 << 62, size=len(batch.rows)).tolist() if batch.views else None
            losses.append(float(self.loss(torch.from_numpy(embed(batch.rows, seeds)), batch)))
        return -float(np.mean(losses))

    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Yield the rows or pairs in a random order."""
        for chunk in self._chunks(rng.permutation(self.train)):
            yield self._batch(chunk)

    def _batch(self, chunk: NDArray[np.int64]) -> Batch:
        """Return a batch of some rows or pairs."""
        return Batch(chunk)

    def _equal(self, rows: NDArray[np.int64], others: NDArray[np.int64]) -> Tensor:
        """Return which of some rows equal which of others, (n, m)."""
        return self._keys[rows][:, None] == self._keys[others]


class Classes(_Contrast):
    """Rows of one class belong together."""

    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Yield batches with several rows of each class, and all classes alike in each part.

        The rows of a class are put into groups, whose places are spread over the epoch. A group is
        whole in its batch: a row alone would have none of its class beside it.
        """
        classes, groups, places = self._of(self.train), [], []
        for each, n in self._n_groups.items():
            groups += np.array_split(rng.permutation(self.train[classes == each]), n)
            places.append((np.arange(n) + rng.random(n)) / n)
        order = np.argsort(np.concatenate(places))
        for some in np.array_split(order, self.n_batches()):
            yield Batch(np.concatenate([groups[i] for i in some]))

    def n_batches(self) -> int:
        """Return how many batches an epoch has, each with two groups or more."""
        return min(super().n_batches(), max(1, sum(self._n_groups.values()) // 2))

    @cached_property
    def _n_groups(self) -> dict[int, int]:
        """How many groups the rows of each class are put into."""
        present, counts = np.unique(self._of(self.train), return_counts=True)
        size = min(_MOST_OF_A_CLASS, max(2, self.strategy._n_per_step // len(present)))
        n_each = np.maximum(1, counts // size)
        return dict(zip(present.tolist(), n_each.tolist(), strict=True))

    def loss(self, vectors: Tensor, batch: Batch, positions: Sequence[int] | None = None) -> Tensor:
        """Return the loss of all pairs in a batch."""
        of = self._values[batch.rows]
        is_same = (of[:, None] == of).to(vectors.device)
        ignored = self._equal(batch.rows, batch.rows).to(vectors.device)
        if self.strategy.loss == "supervised_contrastive":
            temperature = self.strategy.temperature
            return supervised_contrastive_loss(vectors, is_same, temperature, ignored)
        return class_cosine_loss(vectors, is_same, ignored)

    def score(self, embed: Embed) -> float | None:
        """Return how well a logistic regression on training rows does on held-out rows."""
        if not len(self.held_out):
            return None
        some = np.random.default_rng(self._seed).permutation(self.train)[:_MOST_OF_PROBE]
        known = self.targets.classes
        assert known is not None
        of_some, vectors = embed(some), embed(self.held_out)
        if not (np.isfinite(of_some).all() and np.isfinite(vectors).all()):
            return -math.inf
        with without_advice():
            probe = LogisticRegression(max_iter=1000).fit(of_some, known[self._of(some)])
        classes = self._of(self.held_out)
        scorer = scorer_of(self.strategy.scoring)
        if scorer is not None:
            return score_by(scorer, probe, vectors, known[classes])
        shares = probe.predict_log_proba(vectors)
        columns = np.searchsorted(probe.classes_, known[classes])
        return float(shares[np.arange(len(columns)), columns].mean())

    def _of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        found: NDArray[np.int64] = self.targets.values[rows]
        return found


class Pairs(_Contrast):
    """Rows that are given as pairs belong together, or are as similar as is said."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._n_sides = 2 if self.targets.kind == "scores" else self.targets.values.shape[1]
        self.n_rows = len(self.train) * self._n_sides

    def _batch(self, chunk: NDArray[np.int64]) -> Batch:
        # First all first sides, then all second ones.
        rows = chunk * self._n_sides + np.arange(self._n_sides)[:, None]
        return Batch(rows.ravel(), extra=chunk)

    def loss(self, vectors: Tensor, batch: Batch, positions: Sequence[int] | None = None) -> Tensor:
        """Return the loss of a batch of pairs."""
        sides = vectors.chunk(self._n_sides)
        if self.targets.kind == "scores":
            return cosine_loss(sides[0], sides[1], self._values[batch.extra].to(vectors.device))
        if self.strategy.loss == "triplet":
            return triplet_loss(sides[0], sides[1], sides[2], self.strategy.margin)
        n = len(sides[0])
        anchors, candidates = batch.rows[:n], batch.rows[n:]
        # No negatives: rows equal to the anchor, or to a partner that it has here in any pair.
        partners = self._equal(candidates[:n], candidates).float()
        ignored = self._equal(anchors, candidates) | (
            self._equal(anchors, anchors).float() @ partners > 0
        )
        ignored.fill_diagonal_(False)
        return info_nce_loss(
            sides[0], vectors[n:], self.strategy.temperature, ignored.to(vectors.device)
        )


class Views(_Contrast):
    """Two random views of a row belong together."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.n_rows = 2 * len(self.train)

    def _batch(self, chunk: NDArray[np.int64]) -> Batch:
        return Batch(np.tile(chunk, 2), views=True)

    def loss(self, vectors: Tensor, batch: Batch, positions: Sequence[int] | None = None) -> Tensor:
        """Return the loss of a batch of rows, each of them seen twice."""
        first, second = vectors.chunk(2)
        rows = batch.rows[: len(first)]
        ignored = self._equal(rows, rows).fill_diagonal_(False).to(vectors.device)
        return info_nce_loss(first, second, self.strategy.temperature, ignored)
