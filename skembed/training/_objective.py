"""What training minimises: the contract between the loop and the strategies.

The loop embeds the rows of a batch; all else is the objective's: which rows share a batch, what
their vectors should be, how good they are on held-out rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["Batch", "Embed", "Objective"]


class Embed(Protocol):
    """Embeds rows as the present weights do, without gradients: (n,) -> (n, d).

    With seeds, a random view of each, with dropout; `change` as of a `Batch`.
    """

    def __call__(
        self,
        rows: NDArray[np.int64],
        seeds: Sequence[int] | None = None,
        change: Callable[[Any], Any] | None = None,
    ) -> NDArray[np.float32]:
        """Return vectors (n, d)."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What a step learns from.

    `rows` are the examples to embed, by place; one that comes twice is seen in two views. `extra`
    is the objective's own. `views`: random views are wanted, whatever the strategy says.
    """

    rows: NDArray[np.int64]
    extra: Any = None
    views: bool = False
    change: Callable[[Any], Any] | None = None


class Objective(ABC):
    """What training minimises.

    Attributes
    ----------
    head : Module
        What is trained on top of the vectors, and dropped afterwards; an empty one if there is
        none.
    n_rows : int
        How many rows an epoch embeds.
    held_out : array of shape (n_held_out,), int64
        What is not learned from, to compare epochs.
    is_per_row : bool
        Whether the loss of a batch is the mean of its rows' losses, so that pieces of it can be run
        one after the other. Else the loss needs all vectors of a batch at once.
    """

    head: nn.Module
    n_rows: int
    held_out: NDArray[np.int64]
    is_per_row: bool = False

    @abstractmethod
    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Yield the batches of one epoch."""

    @abstractmethod
    def n_batches(self) -> int:
        """Return how many batches an epoch has."""

    @abstractmethod
    def loss(self, vectors: Tensor, batch: Batch, positions: Sequence[int] | None = None) -> Tensor:
        """Return the loss of a batch, given the vectors of its rows, (rows, d).

        With `positions`, of a loss per row: what these rows of the batch add to it, given their
        vectors alone.
        """

    @abstractmethod
    def score(self, embed: Embed) -> float | None:
        """Return how good the present weights are on held-out rows, greater is better.

        None if no rows are held out.
        """
