"""Rows as the model takes them, prepared once where memory allows, and as it embeds them at first.

Knows encoders and their parts, never modalities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skembed._encoder import Fault, Prepared
from skembed._inputs import ArrayRows
from skembed.engine import BackboneEncoder, embed
from skembed.store import EmbeddingStore
from skembed.training._trained import state_of
from skembed.weights import RandomSource, available_memory

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "ArrayExamples",
    "Examples",
    "FaultyRows",
    "FrozenRows",
    "collate_vectors",
    "equal_rows",
    "vector_examples",
]

_MOST_BYTES = 2 << 30
_SHARE_OF_MEMORY = 0.25


class FaultyRows(Exception):
    """Rows cannot be learned from; `faults` says why, by their place among the items."""

    def __init__(self, faults: Mapping[int, str]) -> None:
        super().__init__(f"{len(faults)} rows cannot be learned from")
        self.faults = faults


def equal_rows(encoder: BackboneEncoder, items: Sequence[Any]) -> NDArray[np.int64]:
    """Return numbers that are equal for equal rows."""
    seen: dict[bytes, int] = {}
    contents = encoder.contents(items)
    return np.array([seen.setdefault(bytes(each), len(seen)) for each in contents])


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
        """Prepare all rows, and keep what memory allows. FaultyRows says which cannot be."""
        rest = list(range(len(self._items)))
        while rest:
            done = self._prepare(rest[:256])
            rest = rest[len(done) :]
        _refuse(self.faults)

    def parts(self, rows: NDArray[np.int64], seeds: Sequence[int] | None = None) -> Sequence[Any]:
        """Return a part of each row; with seeds, another one for each. FaultyRows says why not."""
        places = rows.tolist()
        if seeds is not None:
            views = self._encoder.views([self._items[row] for row in places], seeds)
            pairs = zip(places, views, strict=True)
            _refuse({row: view.reason for row, view in pairs if isinstance(view, Fault)})
            return views
        missing = [row for row in dict.fromkeys(places) if row not in self._kept]
        found: dict[int, Any] = {}
        while missing:
            done = self._prepare(missing)
            found.update(zip(missing, done, strict=False))
            missing = missing[len(done) :]
        _refuse({row: self.faults[row] for row in places if row in self.faults})
        return [self._kept[row] if row in self._kept else found[row] for row in places]

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


def _refuse(faults: Mapping[int, str]) -> None:
    if faults:
        raise FaultyRows(faults)


class ArrayExamples(Examples):
    """Rows that are numbers side by side, and need no preparation."""

    def __init__(self, items: ArrayRows) -> None:
        self._rows = items
        self.faults = {}

    def __len__(self) -> int:
        return len(self._rows)

    def prepare(self) -> None:
        """Do nothing: they are prepared."""

    def parts(self, rows: NDArray[np.int64], seeds: Sequence[int] | None = None) -> ArrayRows:
        """Return the rows; they have no random views."""
        return self._rows.take(rows)

    def costs(self, parts: Sequence[Any]) -> NDArray[np.int64]:
        """Return that each costs 1."""
        return np.ones(len(parts), dtype=np.int64)


def vector_examples(vectors: NDArray[np.float32]) -> ArrayExamples:
    """Return rows that are vectors already; `collate_vectors` makes batches of them."""
    return ArrayExamples(ArrayRows({"vectors": vectors}))


def collate_vectors(parts: ArrayRows) -> Tensor:
    """Return a batch of vectors."""
    import torch

    return torch.from_numpy(parts.arrays["vectors"])


class FrozenRows:
    """What the weights to start from say of rows, found when it is asked for.

    They are those of `encoder`, or those that were learned `before`. FaultyRows says which rows
    cannot be embedded. `head_only`: no others than a projection's are trained.
    """

    def __init__(
        self,
        encoder: BackboneEncoder,
        items: Sequence[Any],
        store: EmbeddingStore | None,
        before: BackboneEncoder | None,
        *,
        head_only: bool,
    ) -> None:
        self.before, self.items = state_of(before), items
        self._encoder, self._store = before or encoder, store
        self._of_raw = encoder if head_only else self._encoder
        self._head_only = head_only

    @cached_property
    def raw(self) -> NDArray[np.float32]:
        """The vectors as they are stored: those of the frozen model if only a head is trained."""
        found = embed(self._of_raw.unfinished(), self.items, store=self._store)
        _refuse(found.faults)
        return found.vectors

    @property
    def vectors(self) -> NDArray[np.float32]:
        """The vectors that the user would see."""
        return self._encoder.finish(self.raw)

    @property
    def are_random(self) -> bool:
        """Whether what is trained has learned nothing yet."""
        is_random = isinstance(self._encoder.backbone.source, RandomSource)
        return is_random and self.before is None and not self._head_only

    @property
    def width(self) -> int:
        """Number of features of the vectors that the user would see."""
        return self._encoder.width

    @cached_property
    def keys(self) -> NDArray[np.int64]:
        """Numbers that are equal for equal rows."""
        return equal_rows(self._encoder, self.items)
