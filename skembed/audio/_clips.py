"""Plain modules for clips: they map the parts of a batch to vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor, nn

from skembed.modules import SpeechModel, Stacks, pool

__all__ = ["ClipModule", "Part", "SpeechModule"]


@dataclass(frozen=True, slots=True)
class Part:
    """A clip, or a window of one, as the model takes it."""

    values: Tensor  # samples (n,), or features
    n_frames: int | None = None  # of those the model gives, the clip's own; None is all

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return self.values.nbytes

    def to(self, device: torch.device) -> Part:
        """Return it on a device."""
        values = self.values.pin_memory() if device.type == "cuda" else self.values
        return replace(self, values=values.to(device, non_blocking=True))


class SpeechModule(nn.Module):
    """A speech model on clips of any lengths, whose frames are pooled clip by clip."""

    def __init__(self, core: SpeechModel, pooling: str) -> None:
        super().__init__()
        self.core, self.pooling = core, pooling

    def forward(self, parts: Sequence[Part]) -> Tensor:
        """Return vectors of shape (parts, width), float32."""
        frames, lengths = self.core([part.values for part in parts])
        return torch.stack([pool(each, self.pooling) for each in frames.float().split(lengths)])


class ClipModule(nn.Module):
    """A model on parts of equal shape, stacked without padding, whose frames are pooled.

    The core maps a stack (n, ...) to frames (n, frames, d), or to vectors if the pooling is None.
    """

    def __init__(self, core: nn.Module, pooling: str | None, n_prefix: int = 0) -> None:
        super().__init__()
        self.core, self.pooling, self.n_prefix = core, pooling, n_prefix

    def forward(self, parts: Sequence[Part]) -> Tensor:
        """Return vectors of shape (parts, width), float32."""
        stacks = Stacks.of([part.values for part in parts])
        n_frames = iter([parts[i].n_frames for i in stacks.order])
        vectors = []
        for values in stacks.tensors:
            features = self.core(values).float()
            vectors.append(self._pool(features, list(islice(n_frames, len(values)))))
        return stacks.join(vectors)

    def _pool(self, features: Tensor, n_frames: list[int | None]) -> Tensor:
        if self.pooling is None:
            return features
        if len(set(n_frames)) == 1:
            n = n_frames[0]
            frames = features if n is None else features[:, : self.n_prefix + n]
            return pool(frames, self.pooling, n_prefix=self.n_prefix)
        pairs = zip(features.split(1), n_frames, strict=True)
        return torch.cat([self._pool(each, [n]) for each, n in pairs])
