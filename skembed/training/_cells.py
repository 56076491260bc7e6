"""Learning from rows alone: cells are hidden or exchanged, and told from the rest.

Knows cells and vectors, not columns or models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import _num_samples
from torch import Tensor, nn

from skembed._inputs import CheckedRows
from skembed._random_state import own_random_state
from skembed.columns import TableRows, TableShape
from skembed.exceptions import InvalidParameterError, InvalidTargetsError
from skembed.training._examples import FrozenRows
from skembed.training._objective import Batch, Embed, Objective
from skembed.training._self_supervised import SelfSupervised
from skembed.training._similarity import info_nce_loss
from skembed.training._targets import Targets
from skembed.training._validation import split

__all__ = ["Contrast", "Reconstruction", "check_rows_alone", "make_self_supervised"]


def check_rows_alone(
    strategy: SelfSupervised, y: Any, rows: CheckedRows, owner: str, sample_weight: Any
) -> Targets:
    """Return the places of good rows: there is nothing else to tell them by."""
    if sample_weight is not None:
        raise InvalidTargetsError(f"sample_weight: {owner} learns from cells, which have none.")
    if not isinstance(rows.items, TableRows):
        raise InvalidParameterError(
            f"{owner}: rows of this kind have no cells to learn from. Use Contrastive(...), which "
            "learns from two views of each row."
        )
    if y is not None and _num_samples(y) != rows.n_rows:  # it is not used, and wrong all the same
        raise InvalidTargetsError(
            f"y: expected one target for each of {rows.n_rows:,} rows, got {_num_samples(y):,}."
        )
    n_rows = len(rows.items)
    return Targets("views", np.arange(n_rows), np.ones(n_rows, dtype=np.float32))


def make_self_supervised(
    strategy: SelfSupervised, targets: Targets, rows: FrozenRows, seed: int
) -> Objective:
    """Return the objective of a strategy."""
    train, held_out = split(targets, strategy.validation_fraction, seed, rows.keys)
    kind = Contrast if strategy.objective == "contrast" else Reconstruction
    assert isinstance(rows.items, TableRows)
    with own_random_state(seed):  # the head's first weights
        objective = kind(strategy, rows.items, rows.width, train, held_out, seed)
    if rows.before is not None:
        _go_on(objective.head, rows.before.head)
    return objective


@torch.no_grad()
def _go_on(head: nn.Module, learned: Mapping[str, NDArray[np.float32]]) -> None:
    """Give a head what was learned before, if it is of the same shape."""
    own = dict(head.named_parameters())
    if {k: tuple(p.shape) for k, p in own.items()} == {k: a.shape for k, a in learned.items()}:
        for name, array in learned.items():
            own[name].copy_(torch.from_numpy(array.copy()))


class _OfCells(Objective):
    """What they have in common: random batches, and the same ones of held-out rows each time."""

    def __init__(
        self,
        strategy: SelfSupervised,
        items: TableRows,
        width: int,
        train: NDArray[np.int64],
        held_out: NDArray[np.int64],
        seed: int,
    ) -> None:
        self.strategy, self.items, self.train, self.held_out = strategy, items, train, held_out
        self.batch_size, self._seed = strategy._n_per_step, seed
        self.head = self._make_head(width, items.shape)
        self.n_rows = len(train)

    def _make_head(self, width: int, shape: TableShape) -> nn.Module:
        raise NotImplementedError

    def _batch(self, rows: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        raise NotImplementedError

    def n_batches(self) -> int:
        """Return how many batches an epoch has."""
        return max(1, round(len(self.train) / self.batch_size))

    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Yield the rows in a random order, with cells chosen anew."""
        for chunk in np.array_split(rng.permutation(self.train), self.n_batches()):
            yield self._batch(chunk, rng)

    @torch.no_grad()
    def score(self, embed: Embed) -> float | None:
        """Return the loss on held-out rows, with a minus."""
        if not len(self.held_out):
            return None
        rng = np.random.default_rng(self._seed)
        n_chunks = -(-len(self.held_out) // 512)
        losses = []
        for chunk in np.array_split(rng.permutation(self.held_out), n_chunks):
            batch = self._batch(chunk, rng)
            vectors = torch.from_numpy(embed(batch.rows, change=batch.change))
            vectors = vectors.to(next(self.head.parameters()).device)
            losses.append(float(self.loss(vectors, batch)))
        return -float(np.mean(losses))

    def _chosen(self, n_rows: int, rng: np.random.Generator, n_kept: int = 0) -> NDArray[np.bool_]:
        """Return which cells are changed, one of each row at least; some are kept, if any."""
        n_cells = self.items.shape.n_cells
        ranks = rng.random((n_rows, n_cells)).argsort(axis=1)
        n_changed = max(1, round(self.strategy.corruption * n_cells))
        return ranks < min(n_changed, n_cells - n_kept)

    def _exchange(
        self, is_chosen: NDArray[np.bool_], rng: np.random.Generator
    ) -> partial[TableRows]:
        """Return what exchanges the chosen cells for those of rows drawn for each."""
        drawn = self.train[rng.integers(len(self.train), size=is_chosen.shape)]
        return partial(_exchanged, others=self.items, places=np.where(is_chosen, drawn, -1))


def _exchanged(parts: TableRows, others: TableRows, places: NDArray[np.int64]) -> TableRows:
    return parts.exchanged(others, places)


def _hiding(parts: TableRows, is_hidden: NDArray[np.bool_]) -> TableRows:
    return parts.hiding(is_hidden)


class Reconstruction(_OfCells):
    """Cells are told from a row of which some are hidden, or have been exchanged.

    A number's loss is its squared error, in standard deviations; a category's the cross-entropy as
    a share of that of a uniform guess; a missing number has none. The loss of a row is the mean
    over the cells that are hidden, or over all of them if they may have been exchanged.
    """

    is_per_row = True
    head: _Tell

    def _make_head(self, width: int, shape: TableShape) -> nn.Module:
        return _Tell(width, shape)

    def _batch(self, rows: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        is_exchanged = self.strategy.objective in ("auto", "denoise")
        is_chosen = self._chosen(len(rows), rng, n_kept=int(is_exchanged))
        if is_exchanged:
            change: Any = self._exchange(is_chosen, rng)
            is_told = np.ones_like(is_chosen)
        else:
            change, is_told = partial(_hiding, is_hidden=is_chosen), is_chosen
        return Batch(rows, extra=is_told, change=change)

    def loss(self, vectors: Tensor, batch: Batch, positions: Sequence[int] | None = None) -> Tensor:
        """Return the mean of the rows' losses, or what some rows add to it."""
        where = np.arange(len(batch.rows)) if positions is None else np.asarray(positions)
        true = self.items.take(batch.rows[where])
        is_told = torch.from_numpy(batch.extra[where]).to(vectors.device)
        losses, has_any = self.head(vectors, true)
        is_told = is_told & has_any
        per_row = (losses * is_told).sum(1) / is_told.sum(1).clamp_min(1)
        loss: Tensor = per_row.sum() / len(batch.rows)
        return loss


class _Tell(nn.Module):
    """Tells all cells of a row from its vector by lines, and gives the loss of each.

    With a layer between, linear models on 10 to 100 labels do as well on vectors of five tables.
    Categories of nearly as many values, up to the same power of two, are told together.
    """

    uniform: Tensor
    places: Tensor

    def __init__(self, width: int, shape: TableShape) -> None:
        super().__init__()
        self.shape = shape
        n_values = np.asarray(shape.cardinalities, dtype=np.int64)
        sizes = np.ceil(np.log2(n_values))
        self.alike = [np.flatnonzero(sizes == size) for size in np.unique(sizes)]
        most = [int(n_values[each].max()) for each in self.alike]
        n_outputs = [len(each) * n for each, n in zip(self.alike, most, strict=True)]
        self.sizes = [len(shape.bins), *n_outputs, sum(shape.dense)]
        self.last = nn.Linear(width, sum(self.sizes))
        for i, each in enumerate(self.alike):
            is_any = np.arange(most[i]) < n_values[each, None]
            nothing = np.where(is_any, 0, -np.inf).astype(np.float32)
            self.register_buffer(f"nothing_{i}", torch.from_numpy(nothing), persistent=False)
        order = np.concatenate([np.zeros(0, dtype=np.int64), *self.alike])
        for name, array in (
            ("uniform", np.log(n_values[order]).astype(np.float32)),
            ("places", order.argsort()),
        ):
            self.register_buffer(name, torch.from_numpy(array), persistent=False)

    def forward(self, vectors: Tensor, true: TableRows) -> tuple[Tensor, Tensor]:
        """Return the loss of each cell, (n, cells), and which cells have one."""
        numbers, *logits, dense = self.last(vectors).split(self.sizes, dim=1)
        arrays = {k: torch.from_numpy(a).to(vectors.device) for k, a in true.arrays.items()}
        is_there = ~arrays["numbers"].isnan()
        errors = (numbers - arrays["numbers"].nan_to_num(0.0)).square()
        found, has_any = [errors], [is_there]
        if self.alike:
            codes = arrays["codes"].long()
            of_codes = [
                _surprise(outputs, self.get_buffer(f"nothing_{i}"), codes[:, each])
                for i, (outputs, each) in enumerate(zip(logits, self.alike, strict=True))
            ]
            losses = torch.cat(of_codes, dim=1) / self.uniform
            found.append(losses.index_select(1, self.places))
        if self.shape.dense:
            of_dense = (dense - arrays["dense"]).square().split(self.shape.dense, dim=1)
            found.append(torch.stack([each.mean(1) for each in of_dense], dim=1))
        losses = torch.cat(found, dim=1)
        rest = losses.new_ones((len(losses), losses.shape[1] - len(self.shape.bins))).bool()
        return losses, torch.cat([*has_any, rest], dim=1)


def _surprise(outputs: Tensor, nothing: Tensor, codes: Tensor) -> Tensor:
    """Return the cross-entropy of codes (n, m), given outputs (n, m * values); some are nothing."""
    shares: Tensor = (outputs.view(-1, *nothing.shape) + nothing).log_softmax(-1)
    return -shares.gather(-1, codes.unsqueeze(-1)).squeeze(-1)


class Contrast(_OfCells):
    """A row, and itself with exchanged cells, are found among the other rows of a batch."""

    def _make_head(self, width: int, shape: TableShape) -> nn.Module:
        return nn.Sequential(nn.Linear(width, 256), nn.ReLU(), nn.Linear(256, 128))

    def _batch(self, rows: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        is_chosen = self._chosen(len(rows), rng, n_kept=1)
        both = np.concatenate([np.zeros_like(is_chosen), is_chosen])
        return Batch(np.tile(rows, 2), change=self._exchange(both, rng))

    def loss(self, vectors: Tensor, batch: Batch, positions: Sequence[int] | None = None) -> Tensor:
        """Return the loss of finding each row's other view."""
        first, second = self.head(vectors).chunk(2)
        return info_nce_loss(first, second, self.strategy.temperature)
