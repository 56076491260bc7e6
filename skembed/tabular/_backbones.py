"""Networks for the columns of one table: what is trained, and what serves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from skembed._backbone import Backbone, Ending, Exported, thawed
from skembed._random_state import own_random_state
from skembed.columns import TableRows, TableShape
from skembed.exceptions import UnsupportedModelError
from skembed.store import digest_of
from skembed.tabular._networks import TableNetwork
from skembed.tabular._settings import TableSettings
from skembed.weights import RandomSource

__all__ = ["Around", "OfTables", "TableBackbone"]


class OfTables(Backbone):
    """What models of tables have in common."""

    prefers_float32 = True

    def prepare(self, item: Any, rng: np.random.Generator | None = None) -> Any:
        """Return the row as it is."""
        return item

    def cost(self, part: Any) -> int:
        """Return that each row costs the same."""
        return 1

    def export(self, module: nn.Module, folder: Path, ending: Ending) -> Exported:
        """Refuse: no other library would know the columns."""
        raise UnsupportedModelError(
            "A model of tables cannot be exported: no other library knows its columns. Pickle the "
            "embedder."
        )


class TableBackbone(OfTables):
    """A network for the columns of one table, at first with random weights.

    `columns` is the digest of what turns cells into numbers.
    """

    def __init__(self, settings: TableSettings, shape: TableShape, columns: bytes) -> None:
        self.name, self.width = f"{settings.model!r} for tables", settings.width
        self._settings, self._shape = settings, shape
        told = f"{settings.model} {settings.width} {settings.seed} {columns.hex()}"
        self.source = RandomSource(told, self._count_bytes)
        self.digest = digest_of({"table": self.source.digest})

    def collate(self, parts: Any) -> dict[str, torch.Tensor]:
        """Return the arrays of rows as tensors; of several parts, one after the other."""
        rows = parts if isinstance(parts, TableRows) else _joined(parts)
        return {name: torch.from_numpy(array) for name, array in rows.arrays.items()}

    def load(self, *, core: nn.Module | None = None, dtype: torch.dtype | None = None) -> nn.Module:
        """Return the network, with the weights that the seed makes."""
        return thawed(Around(self._network() if core is None else core)).eval()

    def _network(self) -> TableNetwork:
        shape = self._shape
        with own_random_state(self._settings.seed):
            return TableNetwork(
                *(self._settings.model, shape.bins, shape.cardinalities, shape.dense),
                self.width,
            )

    def _count_bytes(self) -> int:
        return sum(each.nbytes for each in self._network().parameters())


class Around(nn.Module):
    """The module around the core: nothing."""

    def __init__(self, core: nn.Module) -> None:
        super().__init__()
        self.core = core

    def forward(self, batch: Any) -> torch.Tensor:
        """Return vectors (n, width)."""
        vectors: torch.Tensor = self.core(batch)
        return vectors


def _joined(parts: Sequence[TableRows]) -> TableRows:
    names = parts[0].arrays
    arrays = {name: np.concatenate([part.arrays[name] for part in parts]) for name in names}
    return TableRows(arrays, parts[0].shape)
