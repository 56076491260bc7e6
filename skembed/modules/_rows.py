"""Rows of different lengths end to end in one tensor, and where each lies.

Knows lengths and tensors, not what a token is.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Rows", "TokenBatch"]


@dataclass(frozen=True)
class Rows:
    """Where the rows of a packed sequence lie, by their lengths in tokens.

    Rows of like length should be neighbours: they share attention calls. `n_more` tokens after the
    last row are ignored; `is_exact` keeps attention's scores in float32, slower in bfloat16.
    """

    lengths: Sequence[int]
    n_more: int = 0
    is_exact: bool = False

    @functools.cached_property
    def groups(self) -> list[tuple[int, int, int]]:
        """Runs of equal length as (first token, rows, length)."""
        groups, start = [], 0
        for length, run in groupby(self.lengths):
            n_rows = sum(1 for _ in run)
            groups.append((start, n_rows, length))
            start += n_rows * length
        return groups

    @functools.cached_property
    def starts(self) -> NDArray[np.int64]:
        """First token of each row and the end, shape (rows + 1,)."""
        return np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])

    @property
    def n_tokens(self) -> int:
        """Tokens of all rows."""
        return int(self.starts[-1])

    def positions(self) -> NDArray[np.int64]:
        """Return each token's position in its row, from 0, shape (tokens,)."""
        return np.arange(self.n_tokens) - np.repeat(self.starts[:-1], self.lengths)

    @functools.cached_property
    def boundaries(self) -> Tensor:
        """First token of each row and the end, shape (rows + 1,), int32, on the CPU."""
        return torch.from_numpy(self.starts).to(torch.int32)

    @functools.cached_property
    def plans(self) -> dict[Any, Any]:
        """Whatever attention works out once for all layers, by what that depends on."""
        return {}


@dataclass(frozen=True)
class TokenBatch:
    """Token ids of rows, end to end, and each token's position in its row; both int64."""

    ids: Tensor
    positions: Tensor
    rows: Rows

    @classmethod
    def of(cls, sequences: Sequence[NDArray[np.int64]]) -> TokenBatch:
        """Put sequences of token ids end to end."""
        rows = Rows([len(ids) for ids in sequences])
        ids = torch.from_numpy(np.concatenate(sequences))
        return cls(ids, torch.from_numpy(rows.positions()), rows)

    def padded(self, fill: int) -> tuple[Tensor, Tensor]:
        """Return the ids of each row, (rows, longest), filled up, and which of them are tokens."""
        lengths = torch.tensor(list(self.rows.lengths), device=self.ids.device)
        longest = max(self.rows.lengths)
        is_token = torch.arange(longest, device=self.ids.device) < lengths[:, None]
        ids = self.ids.new_full(is_token.shape, fill)
        ids[is_token] = self.ids
        return ids, is_token

    def to(self, device: torch.device) -> TokenBatch:
        """Return the batch on a device."""
        moved = [self.ids, self.positions]
        if device.type == "cuda":
            moved = [each.pin_memory() for each in moved]
        ids, positions = (each.to(device, non_blocking=True) for each in moved)
        return TokenBatch(ids, positions, self.rows)
