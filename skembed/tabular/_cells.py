"""The cells of a row as vectors: numbers, codes, and what is a vector already.

Knows tensors, not columns or what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["Cells", "PiecewiseLinear"]


class PiecewiseLinear(nn.Module):
    """Embeds numbers by a line and by where they lie between the edges of bins.

    Version B of the piecewise-linear embedding: at first a line alone, to which the bins add what
    is learned (Gorishniy et al. 2022, arXiv:2203.05556, and 2025, arXiv:2410.24210). Missing
    numbers, NaN, have a vector of their own for each column.

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
            self.register_buffer(name, torch.from_numpy(array).unsqueeze(1), persistent=False)
        self.line = nn.Parameter(torch.empty(k, d).uniform_(-1, 1))
        self.bias = nn.Parameter(torch.empty(k, d).uniform_(-1, 1))
        self.missing = nn.Parameter(torch.empty(k, d).uniform_(-1, 1))
        self.weight = nn.Parameter(torch.zeros(k, n_bins, d))

    def forward(self, numbers: Tensor) -> Tensor:
        """Return the embeddings of numbers."""
        lines = torch.stack([self.line, self.bias, self.missing], dim=1)
        of_columns = torch.bmm(self._places(numbers), torch.cat([self.weight, lines], dim=1))
        return of_columns.transpose(0, 1)

    @torch.no_grad()
    def _places(self, numbers: Tensor) -> Tensor:
        """Return by what weights, line, bias and the vector of missing ones are multiplied."""
        x = numbers.T.unsqueeze(-1).to(self.start.dtype)
        is_missing = x.isnan()
        x = x.masked_fill(is_missing, 0.0)
        n_bins = self.start.shape[-1]
        places = x.new_empty((*x.shape[:2], n_bins + 3))
        of_bins = places[..., :n_bins]
        torch.addcmul(self.start, self.slope, x, out=of_bins).clamp_(self.least, self.most)
        missing = is_missing.to(x.dtype)
        of_bins *= 1 - missing
        places[..., n_bins:] = torch.cat([x, 1 - missing, missing], dim=-1)
        return places


class Cells(nn.Module):
    """Embeds each cell of a row: numbers first, then codes, then what is a vector already.

    Cells that are hidden have a vector of their own for each column: those of `hidden` (n, cells),
    bool, if it is given. Codes are looked up, each column's in its own part of one table.

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
        if self.numbers is not None:
            found.append(self.numbers(arrays["numbers"]))
        if self.codes is not None:
            found.append(_look_up(self.codes.weight, arrays["codes"] + self.first))
        if self.widths:
            blocks = arrays["dense"].split(self.widths, dim=1)
            found += [
                linear(block).unsqueeze(1) for linear, block in zip(self.dense, blocks, strict=True)
            ]
        cells = torch.cat(found, dim=1)
        if "hidden" in arrays:
            cells = torch.where(arrays["hidden"].unsqueeze(-1), self.hidden, cells)
        return cells


def _look_up(weight: Tensor, codes: Tensor) -> Tensor:
    """Return the rows of a weight; on a CPU the gradient takes half of the time of torch's own."""
    if weight.device.type != "cpu":  # where it would not be the same bits each time
        return F.embedding(codes, weight)
    found: Tensor = weight.index_select(0, codes.flatten()).view(*codes.shape, weight.shape[1])
    return found
