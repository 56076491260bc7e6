"""Parts of equal shape in one tensor, and modules that run on them.

Knows tensors and their shapes, not what is in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Stacks"]


@dataclass(frozen=True)
class Stacks:
    """Parts of each shape and type in one tensor, and where each part stood.

    Parameters
    ----------
    tensors : list of Tensor of shape (n, ...)
        The stacks.
    order : list of int
        For each part, in the order of the stacks, its place in the batch.
    """

    tensors: list[Tensor]
    order: list[int]

    @classmethod
    def of(cls, parts: Sequence[Tensor]) -> Stacks:
        """Stack parts."""
        places: dict[Any, list[int]] = {}
        for i, part in enumerate(parts):
            places.setdefault((part.shape, part.dtype), []).append(i)
        stacks = [torch.stack([parts[i] for i in indices]) for indices in places.values()]
        return cls(stacks, [i for indices in places.values() for i in indices])

    def to(self, device: torch.device) -> Stacks:
        """Return the batch on a device."""
        tensors = [t.pin_memory() for t in self.tensors] if device.type == "cuda" else self.tensors
        return Stacks([t.to(device, non_blocking=True) for t in tensors], self.order)

    def join(self, vectors: list[Tensor]) -> Tensor:
        """Return vectors of each stack, (n, d), as one tensor in the order of the parts."""
        joined = torch.cat(vectors)
        if len(vectors) == 1:
            return joined
        return joined[torch.tensor(self.order, device=joined.device).argsort()]
