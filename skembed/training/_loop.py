"""The one loop: batches in, trained weights out.

AdamW, warm-up and cosine, clipping, the best epoch kept. A batch's rows are run in pieces planned
by cost, whatever its size, with the gradient of the whole batch. Knows modules and vectors, never
modalities.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skembed._forks import one_at_a_time
from skembed._inputs import some_of
from skembed._random_state import random_state_of, seed_random_state, set_random_state
from skembed.engine import is_out_of_memory, plan_batches
from skembed.exceptions import TrainingError
from skembed.training._depth import Lowest
from skembed.training._examples import Examples
from skembed.training._modes import copied, hold_statistics, set_mode, trained_tensors
from skembed.training._norms import learns_statistics, weigh_next_batch
from skembed.training._objective import Batch, Objective

__all__ = ["Loop", "Settings"]

_NO_DECAY_BELOW_DIMS = 2
_ANY_COST = 1 << 62


@dataclass(frozen=True)
class Settings:
    """How the loop steps; see `FineTune`."""

    n_epochs: int
    learning_rate: float
    head_learning_rate: float
    weight_decay: float
    warmup: float
    max_grad_norm: float | None
    patience: int | None
    seed: int
    dtype: torch.dtype
    budget: int  # most cost of a piece
    layout: Literal["packed", "padded", "equal"]
    augment: bool = False
    n_before: int = 0  # epochs that came before: their random choices are not made again
    is_constant: bool = False  # the learning rate neither rises nor falls


class Loop:
    """Trains a module, and the objective's head, on examples.

    Parameters
    ----------
    module : Module
        Maps a batch, as `collate` makes it, to vectors. Its parameters that require gradients are
        trained, in place.
    collate : callable
        Maps parts to a batch on the device.
    examples : Examples
    objective : Objective
    settings : Settings
    device : torch.device
    lowest : Lowest or None
        Frozen blocks: what they give is computed once, unless rows are seen in random views.
    tell : callable
        Called after each step with the number of rows and the loss.
    name_rows : callable
        Names rows, for messages.

    Attributes
    ----------
    progress : tuple of str
        The attributes, beside weights and the optimizer's moments, that the rest depends on.
    after_epoch : callable
        Called with the loop when an epoch has ended, and before the first.
    before_epoch : callable
        Called when an epoch begins.
    is_stopped : bool
        Whether no epoch is to follow; `after_epoch` may set it.
    """

    progress = ("history", "best_score", "n_worse", "n_done", "budget")

    def __init__(
        self,
        module: nn.Module,
        collate: Callable[[Sequence[Any]], Any],
        examples: Examples,
        objective: Objective,
        settings: Settings,
        device: torch.device,
        *,
        lowest: Lowest | None = None,
        tell: Callable[[int, float], None] = lambda n_rows, loss: None,
        name_rows: Callable[[NDArray[np.int64]], str] = str,
    ) -> None:
        self.module, self.collate, self.examples = module.eval(), collate, examples
        self.objective, self.settings, self.device = objective, settings, device
        self.lowest, self.tell, self.name_rows = lowest, tell, name_rows
        self.budget = settings.budget
        self._is_whole = learns_statistics(module)  # of whole batches, not of pieces
        self.history: dict[str, list[Any]] = {
            key: [] for key in ("epoch", "loss", "score", "learning_rate", "seconds", "n_rows")
        }
        self.best: dict[str, Tensor] = {}
        self.best_head: dict[str, Tensor] = {}
        self.best_score, self.n_worse, self.n_done = -math.inf, 0, 0
        self.after_epoch: Callable[[Loop], None] = lambda loop: None
        self.before_epoch: Callable[[], None] = lambda: None
        self.is_stopped = False
        self.optimizer = self._make_optimizer()
        self._parameters = [p for each in self.optimizer.param_groups for p in each["params"]]
        self._n_steps = settings.n_epochs * objective.n_batches()

    def run(self) -> None:
        """Train from where it stands; the best weights are in the module afterwards."""
        if not self.history["epoch"]:
            self._end_epoch(self.settings.n_before, math.nan, time.perf_counter(), 0)
        while not (self.is_over or self.is_stopped):
            self.before_epoch()
            started = time.perf_counter()
            epoch = self.history["epoch"][-1] + 1
            loss, n_rows = self._run_epoch(epoch)
            self._end_epoch(epoch, loss, started, n_rows)
        self._restore()
        if not all(bool(each.isfinite().all()) for each in trained_tensors(self.module).values()):
            raise TrainingError(
                f"Weights are not finite after {self.n_done:,} steps. Lower the learning rate "
                f"(now {self.settings.learning_rate:.3g})."
            )

    @property
    def is_over(self) -> bool:
        """Whether all epochs are done, or no better one is waited for any more."""
        n_epochs = self.history["epoch"][-1] - self.settings.n_before
        is_hopeless = self.settings.patience is not None and self.n_worse >= self.settings.patience
        return n_epochs >= self.settings.n_epochs or is_hopeless

    def embed(
        self,
        rows: NDArray[np.int64],
        seeds: Sequence[int] | None = None,
        change: Callable[[Any], Any] | None = None,
    ) -> NDArray[np.float32]:
        """Return the vectors of rows with the present weights, without gradients.

        With seeds, those of a random view of each, with dropout. `change` takes 1,024 rows at most.
        """
        if seeds is None:
            self.module.eval()
        else:
            set_mode(self.module)
            hold_statistics(self.module)
        found: NDArray[np.float32] | None = None
        for start in range(0, len(rows), 1024):
            some = rows[start : start + 1024]
            views = None if seeds is None else seeds[start : start + 1024]
            parts = self.examples.parts(some, views)
            if change is not None:
                parts = change(parts)
            with torch.no_grad(), one_at_a_time() if views else contextlib.nullcontext():
                if views:
                    seed_random_state(self.device, views[0])
                for piece in self._pieces(parts):
                    vectors = self._forward(parts, piece, some if seeds is None else None).cpu()
                    if found is None:
                        found = np.empty((len(rows), vectors.shape[1]), dtype=np.float32)
                    found[start + piece] = vectors.numpy()
        return np.empty((0, 0), dtype=np.float32) if found is None else found

    # One epoch ------------------------------------------------------------------------------

    def _run_epoch(self, epoch: int) -> tuple[float, int]:
        """Return the mean loss of an epoch's batches and its rows."""
        rng = np.random.default_rng([self.settings.seed, epoch])
        total, n_rows, n_batches = 0.0, 0, 0
        for batch in self.objective.batches(rng):
            # Random choices depend on seed, epoch and step alone: a resumed run too.
            seed = int(rng.integers(1 << 62))
            seeds = None
            if self.settings.augment or batch.views:
                seeds = rng.integers(1 << 62, size=len(batch.rows)).tolist()
            loss = self._step(batch, seed, seeds)
            total += loss
            n_rows += len(batch.rows)
            n_batches += 1
            self.tell(len(batch.rows), loss)
        return total / max(1, n_batches), n_rows

    def _step(self, batch: Batch, seed: int, seeds: Sequence[int] | None) -> float:
        if not self.module.training:
            set_mode(self.module)
        elif self._is_whole:
            weigh_next_batch(self.module)
        rate = self._rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["base_lr"]
        rows = None if seeds is not None else batch.rows
        if rows is not None:
            self._keep_lowest()
        parts = self.examples.parts(batch.rows, seeds)
        if batch.change is not None:
            parts = batch.change(parts)
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                with one_at_a_time():  # other threads may load models, which draw their weights
                    seed_random_state(self.device, seed)
                    loss = self._gradient(batch, parts, rows)
                break
            except Exception as error:
                is_alone = all(len(piece) == 1 for piece in self._pieces(parts))
                if not is_out_of_memory(error) or is_alone:
                    raise
                if self._is_whole:
                    raise TrainingError(
                        f"A batch of {len(parts)} rows takes too much memory. The model learns the "
                        "statistics of its batch normalisation, which are those of whole batches, "
                        "so it cannot be run in pieces. Lower batch_size."
                    ) from error
            # Out of the handler, so that the failed piece's tensors are gone.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.budget = max(1, min(self.budget, int(self.examples.costs(parts).sum())) // 2)
        if not math.isfinite(loss):
            raise TrainingError(
                f"The loss is {loss} in step {self.n_done + 1:,} of {self._n_steps:,}, in a batch "
                f"with {self.name_rows(batch.rows)}. Lower the learning rate (now {rate:.3g} of "
                "its largest value), or look at these rows."
            )
        if self.settings.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self.settings.max_grad_norm)
        self.optimizer.step()
        self.n_done += 1
        return loss

    def _gradient(
        self, batch: Batch, parts: Sequence[Any], rows: NDArray[np.int64] | None
    ) -> float:
        """Add the gradient of a batch's loss, and return the loss; `rows` as of `_forward`."""
        pieces = self._pieces(parts, is_whole=self._is_whole)
        if len(pieces) == 1:
            loss = self._loss(self._forward(parts, np.arange(len(parts)), rows), batch)
            loss.backward()
            return float(loss.detach())
        if self.objective.is_per_row:
            total = 0.0
            for piece in pieces:
                vectors = self._forward(parts, piece, rows)
                loss = self._loss(vectors, batch, piece.tolist())
                loss.backward()
                total += float(loss.detach())
            return total
        # The loss needs all vectors: they are computed without their graphs, then again piece by
        # piece with the gradient of the loss and the same dropout (GradCache, arXiv:2101.06983).
        states, found = [], []
        for piece in pieces:
            states.append(random_state_of(self.device))
            with torch.no_grad():
                found.append(self._forward(parts, piece, rows))
        order = torch.from_numpy(np.concatenate(pieces)).argsort()
        vectors = torch.cat(found)[order.to(self.device)].requires_grad_()
        loss = self._loss(vectors, batch)
        loss.backward()
        assert vectors.grad is not None
        for piece, state in zip(pieces, states, strict=True):
            set_random_state(self.device, state)
            again = self._forward(parts, piece, rows)
            again.backward(vectors.grad[torch.from_numpy(piece).to(self.device)].to(again.dtype))
        return float(loss.detach())

    def _loss(self, vectors: Tensor, batch: Batch, positions: Any = None) -> Tensor:
        """Return the objective's loss; of members that learn apart (rows, members, d), the mean."""
        if vectors.ndim == 2:
            return self.objective.loss(vectors, batch, positions)
        losses = [self.objective.loss(v, batch, positions) for v in vectors.unbind(1)]
        return torch.stack(losses).mean()

    def _forward(
        self, parts: Sequence[Any], piece: NDArray[np.int64], rows: NDArray[np.int64] | None
    ) -> Tensor:
        """Return the vectors of some of the parts; `rows` says whose they are, if no views."""
        below: Any = contextlib.nullcontext()
        if rows is not None and self.lowest is not None and self.lowest.is_kept:
            below = self.lowest.used(rows[piece])
        with self._autocast(), below:
            vectors: Tensor = self.module(self.collate(some_of(parts, piece))).float()
        return vectors

    def _keep_lowest(self) -> None:
        """Compute once what the frozen blocks give, if they can be left out afterwards."""
        lowest, self.lowest = self.lowest, None
        if lowest is None or lowest.is_kept:
            self.lowest = lowest
            return
        self.module.eval()
        for rows in np.split(np.arange(len(self.examples)), range(1024, len(self.examples), 1024)):
            parts = self.examples.parts(rows)
            costs = self.examples.costs(parts)
            for piece in self._pieces(parts):
                run = partial(self._forward, parts, piece, None)
                if not lowest.keep(run, rows[piece], costs[piece], self.settings.layout):
                    return set_mode(self.module)
        lowest.is_kept = True
        self.lowest = lowest
        set_mode(self.module)

    def _pieces(self, parts: Sequence[Any], *, is_whole: bool = False) -> list[NDArray[np.int64]]:
        costs = self.examples.costs(parts)
        budget = _ANY_COST if is_whole else self.budget
        return plan_batches(costs, budget=budget, layout=self.settings.layout)

    def _autocast(self) -> Any:
        if self.settings.dtype is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.settings.dtype)

    # Rates, and the best weights ------------------------------------------------------------

    def _make_optimizer(self) -> torch.optim.AdamW:
        groups: dict[tuple[float, float], list[Tensor]] = {}
        for module, rate in (
            (self.module, self.settings.learning_rate),
            (self.objective.head, self.settings.head_learning_rate),
        ):
            for each in module.parameters():
                if each.requires_grad:
                    decays = each.ndim >= _NO_DECAY_BELOW_DIMS
                    decay = self.settings.weight_decay if decays else 0.0
                    groups.setdefault((rate, decay), []).append(each)
        return torch.optim.AdamW(
            [
                {"params": params, "weight_decay": decay, "base_lr": rate}
                for (rate, decay), params in groups.items()
            ],
            lr=self.settings.learning_rate,
            fused=True,
        )

    def _rate(self) -> float:
        """Return the share of the learning rate in the present step."""
        if self.settings.is_constant:
            return 1.0
        n_warm = round(self.settings.warmup * self._n_steps)
        if self.n_done < n_warm:
            return (self.n_done + 1) / (n_warm + 1)
        share = (self.n_done - n_warm) / max(1, self._n_steps - n_warm)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, share)))

    def _end_epoch(self, epoch: int, loss: float, started: float, n_rows: int) -> None:
        """Score the present weights, and keep them if they are the best."""
        score = self.objective.score(self.embed)
        seconds = time.perf_counter() - started
        rate = self.settings.learning_rate * self._rate() if self.n_done else 0.0
        values = (epoch, loss, math.nan if score is None else score, rate, seconds, n_rows)
        for key, value in zip(self.history, values, strict=True):
            self.history[key].append(value)
        # Without a score the last ones are the best, and no copy is kept.
        if score is not None and (not self.best or score > self.best_score):
            self.best = copied(trained_tensors(self.module))
            self.best_head = copied(dict(self.objective.head.named_parameters()))
            self.best_score, self.n_worse = score, 0
        elif score is not None:
            self.n_worse += 1
        self.after_epoch(self)

    @torch.no_grad()
    def _restore(self) -> None:
        """Put the best weights back, where epochs were compared."""
        for now, best in (
            (trained_tensors(self.module), self.best),
            (dict(self.objective.head.named_parameters()), self.best_head),
        ):
            for name, tensor in best.items():
                now[name].copy_(tensor)
        self.module.eval()
