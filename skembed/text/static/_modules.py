"""The torch side of static vectors: a table, and what is made of its rows for each text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["TextRows", "WordBatch", "WordVectors"]


@dataclass(frozen=True, eq=False)
class TextRows:
    """One text, or many end to end, as rows of a table; of `weights` None is a maximum."""

    rows: NDArray[np.int64]
    weights: NDArray[np.float32] | None

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        return self.rows.nbytes + (0 if self.weights is None else self.weights.nbytes)


@dataclass(frozen=True)
class WordBatch:
    """Rows of texts end to end, where each text begins (and the end), and the weights of rows."""

    rows: Tensor  # (words,), int64
    starts: Tensor  # (texts + 1,), int64
    weights: Tensor | None  # (words,), float32

    @classmethod
    def of(cls, texts: TextRows, counts: NDArray[np.int64]) -> WordBatch:
        """Return texts of so many rows each."""
        starts = np.concatenate([[0], np.cumsum(counts)])
        weights = None if texts.weights is None else torch.from_numpy(texts.weights)
        return cls(torch.from_numpy(texts.rows), torch.from_numpy(starts), weights)

    def to(self, device: torch.device) -> WordBatch:
        """Return the batch on a device."""
        weights = None if self.weights is None else self.weights.to(device)
        return WordBatch(self.rows.to(device), self.starts.to(device), weights)


class WordVectors(nn.Module):
    """Maps the words of texts to the weighted sum of their vectors, or to the maximum.

    Shape: (texts, d), float32; zeros for a text without a word.
    """

    layout = "packed"

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(vectors, requires_grad=False)

    def forward(self, batch: WordBatch) -> Tensor:
        """Return vectors."""
        pooled: Tensor = F.embedding_bag(
            batch.rows,
            self.weight,
            batch.starts,
            mode="max" if batch.weights is None else "sum",
            per_sample_weights=batch.weights,
            include_last_offset=True,
        )
        return pooled
