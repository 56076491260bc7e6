"""The convolutions over frames that give a transformer their positions, clip by clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skembed.acceleration._frames import checked_convolution
from skembed.acceleration._passes import gelu_kind

__all__ = ["PositionalConvolution"]


class PositionalConvolution(nn.Module):
    """transformers' module: one convolution, or several with a normalisation after each."""

    def __init__(self, reference: Any) -> None:
        super().__init__()
        stages = list(getattr(reference, "layers", [reference]))
        if getattr(reference, "batch_norm", None) is not None:
            raise NotImplementedError("batch normalisation")
        if any(gelu_kind(stage.activation) != "none" for stage in stages):
            raise NotImplementedError("another activation than GELU")
        self.stages = nn.ModuleList([_Stage(stage) for stage in stages])

    def forward(self, x: Tensor, lengths: Sequence[int]) -> Tensor:
        """Map frames of clips end to end, shape (frames, d), to the same shape.

        What comes out after the last clip is zero.
        """
        n = sum(lengths)
        states = x[:n]
        for stage in self.stages:
            states = stage(states, lengths)
        return F.pad(states, (0, 0, 0, len(x) - n))


class _Stage(nn.Module):
    """One convolution over frames, perhaps a normalisation, and a GELU."""

    def __init__(self, reference: Any) -> None:
        super().__init__()
        conv = checked_convolution(reference.conv)
        if conv.stride != (1,) or conv.padding != (conv.kernel_size[0] // 2,):
            raise NotImplementedError(f"convolution {conv}")
        self.norm = getattr(reference, "layer_norm", None)
        self.kernel, self.groups = conv.kernel_size[0], conv.groups
        # Weight normalisation is worked out here.
        self.weight = nn.Parameter(conv.weight.detach().clone(), False)
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach(), False)

    def forward(self, x: Tensor, lengths: Sequence[int]) -> Tensor:
        """Map frames of clips end to end, shape (frames, d), to the same."""
        frames, around = [], self.kernel // 2
        for clip in x.split(list(lengths)):
            out = F.conv1d(clip.t()[None], self.weight, self.bias, 1, around, 1, self.groups)
            frames.append(out[0].t()[: len(clip)])  # an even kernel gives one more than it takes
        out = torch.cat(frames)
        return F.gelu(out if self.norm is None else self.norm(out))
