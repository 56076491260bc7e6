"""Rows as the model takes them, prepared once where memory allows.

Knows encoders and their parts, never modalities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skembed._encoder import Fault, Prepared
from skembed.engine import BackboneEncoder
from skembed.weights import available_memory

__all__ = ["Examples", "FaultyRows", "VectorExamples"]

_MOST_BYTES = 2 << 30
_SHARE_OF_MEMORY = 0.25


class FaultyRows(Exception):
    """Rows cannot be prepared; `faults` says why, by their place among the items."""

    def __init__(self, faults: dict[int, str]) -> None:
        super().__init__(f"{len(faults)} rows cannot be prepared")
        self.faults = faults


class Examples:
    """The parts of rows: one of each, or with seeds a random view.

    `faults` names the rows that cannot be prepared, by their place among the items.
    """

    def __init__(self, encoder: BackboneEncoder, items: Sequence[Any]) -> None:
        self._encoder, self._items = encoder, items
        self._kept: dict[int, Any] = {}
        self._n_bytes_left = min(
            _MOST_BYTES, int((available_memory() or 1 << 40) * _SHARE_OF_MEMORY)
        )
        self.faults: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._items)

    def prepare(self) -> None:
        """Prepare all rows, or find out which cannot be, and keep what memory allows."""
        rest = list(range(len(self._items)))
        while rest:
            done = self._prepare(rest[:256])
            rest = rest[len(done) :]

    def parts(self, rows: Sequence[int], seeds: Sequence[int] | None = None) -> list[Any]:
        """Return a part of each row; with seeds, another one for each. FaultyRows says why not."""
        if seeds is not None:
            views = self._encoder.views([self._items[row] for row in rows], seeds)
            pairs = zip(rows, views, strict=True)
            _refuse({row: view.reason for row, view in pairs if isinstance(view, Fault)})
            return views
        missing = [row for row in dict.fromkeys(rows) if row not in self._kept]
        found: dict[int, Any] = {}
        while missing:
            done = self._prepare(missing)
            found.update(zip(missing, done, strict=False))
            missing = missing[len(done) :]
        _refuse({row: self.faults[row] for row in rows if row in self.faults})
        return [self._kept[row] if row in self._kept else found[row] for row in rows]

    def costs(self, parts: Sequence[Any]) -> NDArray[np.int64]:
        """Return what each part costs to run."""
        return self._encoder.costs(parts)

    def _prepare(self, rows: Sequence[int]) -> list[Any]:
        """Prepare the first of some rows, and keep them while there is room."""
        parts: list[Any] = []
        for row, found in zip(
            rows, self._encoder.prepare([self._items[r] for r in rows]), strict=False
        ):
            if isinstance(found, Fault):
                self.faults[row] = found.reason
                parts.append(None)
                continue
            assert isinstance(found, Prepared)
            part = found.parts[0]
            parts.append(part)
            n_bytes = int(getattr(part, "nbytes", 0))
            if row not in self._kept and n_bytes <= self._n_bytes_left:
                self._n_bytes_left -= n_bytes
                self._kept[row] = part
        return parts


def _refuse(faults: dict[int, str]) -> None:
    if faults:
        raise FaultyRows(faults)


class VectorExamples(Examples):
    """Rows that are vectors already."""

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        import torch

        self._parts = list(torch.from_numpy(vectors))
        self.faults = {}

    def __len__(self) -> int:
        return len(self._parts)

    def prepare(self) -> None:
        """Do nothing: they are prepared."""

    def parts(self, rows: Sequence[int], seeds: Sequence[int] | None = None) -> list[Any]:
        """Return the vectors."""
        return [self._parts[row] for row in rows]

    def costs(self, parts: Sequence[Any]) -> NDArray[np.int64]:
        """Return that each costs 1."""
        return np.ones(len(parts), dtype=np.int64)
