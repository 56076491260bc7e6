"""The cells of a row as vectors: numbers, codes, and what is a vector already.

Knows tensors, not columns or what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["Cells", "PiecewiseLinear"]


class PiecewiseLinear(nn.Module):
    """Embeds numbers by a line and by where they lie between the edges of bins.

    Version B of the piecewise-linear embedding: at first a line alone, to which the bins add what
    is learned (Gorishniy et al. 2022, arXiv:2203.05556, and 2025, arXiv:2410.24210).

    Shape: (n, k) -> (n, k, d).
    """

    slope: Tensor
    start: Tensor
    least: Tensor
    most: Tensor

    def __init__(self, bins: Sequence[NDArray[np.float32]], d: int) -> None:
        super().__init__()
        k, n_bins = len(bins), max(len(edges) - 1 for edges in bins)
        # x lies at slope * x + start in its bin, from 0 to 1; the outer bins have no outer end.
        # Bins that a column lacks are always at 0.
        slope, start = np.zeros((2, k, n_bins), np.float32)
        least, most = np.zeros((2, k, n_bins), np.float32)
        for i, edges in enumerate(bins):
            n, widths = len(edges) - 1, np.diff(edges)
            slope[i, :n], start[i, :n] = 1 / widths, -edges[:-1] / widths
            most[i, :n] = 1
            least[i, 0], most[i, n - 1] = -np.inf, np.inf
        for name, array in (("slope", slope), ("start", start), ("least", least), ("most", most)):
            self.register_buffer(name, torch.from_numpy(array), persistent=False)
        self.line = nn.Parameter(torch.empty(k, d).uniform_(-1, 1))
        self.bias = nn.Parameter(torch.empty(k, d).uniform_(-1, 1))
        self.weight = nn.Parameter(torch.zeros(k, n_bins, d))

    def forward(self, numbers: Tensor) -> Tensor:
        """Return the embeddings of numbers."""
        x = numbers.unsqueeze(-1)
        places = torch.addcmul(self.start, self.slope, x).clamp(self.least, self.most)
        of_bins = torch.einsum("nkb,kbd->nkd", places, self.weight)
        return torch.addcmul(self.bias, self.line, x) + of_bins


class Cells(nn.Module):
    """Embeds each cell of a row: numbers first, then codes, then what is a vector already.

    Missing numbers have a vector of their own for each column, and so have cells that are hidden:
    those of `hidden` (n, cells), bool, if it is given. Codes are looked up, each column's in its
    own part of one table.

    Shape: arrays of n rows -> (n, cells, d).
    """

    first: Tensor

    def __init__(
        self,
        bins: Sequence[NDArray[np.float32]],
        cardinalities: Sequence[int],
        dense: Sequence[int],
        d: int,
    ) -> None:
        super().__init__()
        self.n_cells = len(bins) + len(cardinalities) + len(dense)
        self.d = d
        self.numbers = PiecewiseLinear(bins, d) if bins else None
        self.missing = nn.Parameter(torch.empty(len(bins), d).uniform_(-1, 1)) if bins else None
        self.codes = nn.Embedding(sum(cardinalities), d) if cardinalities else None
        if self.codes is not None:
            nn.init.uniform_(self.codes.weight, -1, 1)
        first = np.cumsum([0, *cardinalities[:-1]]) if cardinalities else np.zeros(0)
        self.register_buffer("first", torch.from_numpy(first.astype(np.int64)), persistent=False)
        self.widths = list(dense)
        self.dense = nn.ModuleList(nn.Linear(width, d) for width in dense)
        self.hidden = nn.Parameter(torch.empty(self.n_cells, d).uniform_(-1, 1))

    def forward(self, arrays: Mapping[str, Tensor]) -> Tensor:
        """Return the embeddings of cells."""
        found = []
        if self.numbers is not None and self.missing is not None:
            numbers = arrays["numbers"]
            is_missing = numbers.isnan()
            embedded = self.numbers(numbers.masked_fill(is_missing, 0.0))
            found.append(torch.where(is_missing.unsqueeze(-1), self.missing, embedded))
        if self.codes is not None:
            found.append(self.codes(arrays["codes"] + self.first))
        if self.widths:
            blocks = arrays["dense"].split(self.widths, dim=1)
            found += [
                linear(block).unsqueeze(1) for linear, block in zip(self.dense, blocks, strict=True)
            ]
        cells = torch.cat(found, dim=1)
        if "hidden" in arrays:
            cells = torch.where(arrays["hidden"].unsqueeze(-1), self.hidden, cells)
        return cells
