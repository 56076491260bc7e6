"""Networks that turn the cells of a row into one vector.

Knows tensors, not columns or what they mean. No layer looks at other rows of a batch, in training
neither: a row's vector is its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from skembed.modules import Dropout, DroppedReLU, attend
from skembed.tabular._cells import Cells

__all__ = ["ARCHITECTURES", "TableNetwork"]


class MLP(nn.Module):
    """Linear layers, ReLU and dropout on all cells side by side, and a linear layer beside them.

    NOTE[DIFF] The paper's has no layer beside: what a line tells of a row need not be found anew.

    Shape: (n, cells, d) -> (n, width).
    """

    def __init__(self, n_cells: int, d: int, width: int) -> None:
        super().__init__()
        sizes = [n_cells * d, 256, 256]
        layers: list[nn.Module] = []
        for d_in, d_out in pairwise(sizes):
            layers += [nn.Linear(d_in, d_out), DroppedReLU(0.1)]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], width))
        self.beside = nn.Linear(sizes[0], width)

    def forward(self, cells: Tensor) -> Tensor:
        """Return vectors."""
        x = cells.flatten(1)
        vectors: Tensor = self.layers(x) + self.beside(x)
        return vectors


class ResNet(nn.Module):
    """Blocks that add to what they are given (Gorishniy et al. 2021, arXiv:2106.11959).

    NOTE[DIFF] Layer norms in place of the paper's batch norms, which would mix rows.

    Shape: (n, cells, d) -> (n, width).
    """

    def __init__(self, n_cells: int, d: int, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(n_cells * d, 192)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(192),
                nn.Linear(192, 384),
                DroppedReLU(0.2),
                nn.Linear(384, 192),
            )
            for _ in range(2)
        )
        self.last = nn.Sequential(nn.LayerNorm(192), nn.ReLU(), nn.Linear(192, width))

    def forward(self, cells: Tensor) -> Tensor:
        """Return vectors."""
        x = self.first(cells.flatten(1))
        for block in self.blocks:
            x = x + block(x)
        vectors: Tensor = self.last(x)
        return vectors


class FTTransformer(nn.Module):
    """Cells attend to each other, and one more to all (Gorishniy et al. 2021, arXiv:2106.11959).

    Shape: (n, cells, d) -> (n, width).
    """

    def __init__(self, n_cells: int, d: int, width: int) -> None:
        super().__init__()
        self.summary = nn.Parameter(torch.empty(d).uniform_(-1 / math.sqrt(d), 1 / math.sqrt(d)))
        self.blocks = nn.ModuleList(_Block(d, has_norm=i > 0) for i in range(3))
        self.last = nn.Sequential(nn.LayerNorm(d), nn.ReLU(), nn.Linear(d, width))

    def forward(self, cells: Tensor) -> Tensor:
        """Return vectors."""
        x = torch.cat([self.summary.expand(len(cells), 1, -1), cells], dim=1)
        for block in self.blocks[:-1]:
            x = block(x, x)
        # Of the last block only what the summary finds is needed.
        vectors: Tensor = self.last(self.blocks[-1](x[:, :1], x)[:, 0])
        return vectors


class _Block(nn.Module):
    """Attention of 8 heads and a ReGLU, each after a layer norm; the first has none before it."""

    def __init__(self, d: int, *, has_norm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d) if has_norm else nn.Identity()
        self.look = nn.Linear(d, 3 * d)  # queries, keys and values
        self.out = nn.Linear(d, d)
        n_hidden = d * 4 // 3
        self.forward_norm = nn.LayerNorm(d)
        self.up, self.down = nn.Linear(d, 2 * n_hidden), nn.Linear(n_hidden, d)
        self.drop = Dropout(0.1)

    def forward(self, x: Tensor, of: Tensor) -> Tensor:
        """Return what cells x become by looking at the cells `of`."""
        heads = self.look(self.norm(of)).unflatten(-1, (3, 8, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = heads.contiguous().unbind(0)
        query = query[:, :, : x.shape[1]]
        found = attend(query, key, value, dropout=0.2 if self.training else 0.0)
        x = x + self.out(found.transpose(1, 2).flatten(2))
        first, second = self.up(self.forward_norm(x)).chunk(2, dim=-1)
        x = x + self.down(self.drop(first * second.relu()))
        return x


class TabM(nn.Module):
    """Many MLPs that share their weights up to scales and biases (arXiv:2410.24210).

    In training each member gives its own vector; what is learned from is each of them by itself.
    Afterwards a row's vector is their mean.

    Shape: (n, cells, d) -> (n, members, width) in training, else (n, width).
    """

    n_members = 16

    def __init__(self, n_cells: int, d: int, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(self.n_members, n_cells, 1).normal_())
        sizes = [n_cells * d, 256, 256]
        self.layers = nn.ModuleList(
            _Members(d_in, d_out, self.n_members, is_first=i == 0)
            for i, (d_in, d_out) in enumerate(pairwise(sizes))
        )
        self.relu = DroppedReLU(0.1)
        self.last = _Members(sizes[-1], width, self.n_members)

    def forward(self, cells: Tensor) -> Tensor:
        """Return vectors."""
        x = (cells.unsqueeze(1) * self.scale).flatten(2)
        for layer in self.layers:
            x = self.relu(layer(x))
        vectors: Tensor = self.last(x)
        return vectors if self.training else vectors.mean(1)


class _Members(nn.Module):
    """A linear layer with scales and biases for each member (arXiv:2002.06715, equation 5)."""

    def __init__(self, d_in: int, d_out: int, n_members: int, *, is_first: bool = False) -> None:
        super().__init__()
        bound = d_in**-0.5
        self.weight = nn.Parameter(torch.empty(d_out, d_in).uniform_(-bound, bound))
        bias = torch.empty(d_out).uniform_(-bound, bound)
        self.bias = nn.Parameter(bias.expand(n_members, -1).clone())
        # The first layer's inputs are scaled already, by numbers drawn for each cell.
        self.r = None if is_first else nn.Parameter(torch.ones(n_members, d_in))
        self.s = nn.Parameter(torch.ones(n_members, d_out))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, members, d_in) to (n, members, d_out)."""
        if self.r is not None:
            x = x * self.r
        return torch.addcmul(self.bias, F.linear(x, self.weight), self.s)


ARCHITECTURES: dict[str, tuple[Callable[[int, int, int], nn.Module], int]] = {
    "mlp": (MLP, 12),
    "resnet": (ResNet, 12),
    "ft_transformer": (FTTransformer, 64),
    "tabm": (TabM, 12),
}
"""What turns cells into a vector, and how wide the cells are."""


class TableNetwork(nn.Module):
    """A network of one architecture on the cells of a row.

    Shape: arrays of n rows -> (n, width).
    """

    def __init__(
        self,
        architecture: str,
        bins: Sequence[NDArray[np.float32]],
        cardinalities: Sequence[int],
        dense: Sequence[int],
        width: int,
    ) -> None:
        super().__init__()
        make, d = ARCHITECTURES[architecture]
        self.cells = Cells(bins, cardinalities, dense, d)
        self.trunk = make(self.cells.n_cells, d, width)

    def forward(self, arrays: Mapping[str, Tensor]) -> Tensor:
        """Return vectors."""
        vectors: Tensor = self.trunk(self.cells(arrays))
        return vectors
