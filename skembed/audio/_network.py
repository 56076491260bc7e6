"""Loaded models on their device: what maps the parts of a batch to vectors.

Every step that makes one faster is proven to change nothing. Knows modules and tensors, not which
model it is nor where rows come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skembed.audio._backbone import Part
from skembed.audio._pooling import pool_frames
from skembed.audio._speech import speech_network
from skembed.engine import are_alike, convert, keep_freed_memory, pack_linear_layers
from skembed.modules import OneAtATime, run_apart

__all__ = ["SpeechClips", "StackedClips", "load_speech", "load_stacked"]


class SpeechClips(nn.Module):
    """Runs a model of waveforms on clips of any lengths, packed, and pools each.

    Parameters
    ----------
    network : SpeechNetwork
        Gives the frames of all clips, end to end.
    pooling : str
        See `pool_frames`.
    """

    def __init__(self, network: Any, pooling: str) -> None:
        super().__init__()
        self.network, self.pooling = network, pooling

    def forward(self, parts: Sequence[Part]) -> Tensor:
        """Return vectors of shape (parts, width)."""
        frames, lengths = self.network([part.values for part in parts])
        return torch.stack(
            [pool_frames(each, self.pooling) for each in frames.float().split(lengths)]
        )


class StackedClips(nn.Module):
    """Runs a model on parts of equal shape together, without padding, and pools each.

    Parameters
    ----------
    module : Module
        Maps a stack (n, ...) to vectors (n, d), or to frames that `arrange` makes (n, frames, d).
    pooling : str or None
        See `pool_frames`; None leaves vectors as they are.
    dtype : torch.dtype
        What the module takes.
    n_prefix : int
        Tokens before the frames.
    """

    def __init__(
        self, module: nn.Module, pooling: str | None, dtype: torch.dtype, n_prefix: int = 0
    ) -> None:
        super().__init__()
        self.module, self.pooling, self.dtype = module, pooling, dtype
        self.n_prefix = n_prefix

    def forward(self, parts: Sequence[Part]) -> Tensor:
        """Return vectors of shape (parts, width)."""
        places: dict[Any, list[int]] = {}
        for i, part in enumerate(parts):
            places.setdefault(part.values.shape, []).append(i)
        vectors: dict[int, Tensor] = {}
        for indices in places.values():
            stack = torch.stack([parts[i].values for i in indices]).to(self.dtype)
            features = self.module(stack).float()
            found = self._pooled(features, [parts[i].n_frames for i in indices])
            vectors.update(zip(indices, found, strict=True))
        return torch.stack([vectors[i] for i in range(len(parts))])

    def _pooled(self, features: Tensor, n_frames: Sequence[int | None]) -> Sequence[Tensor]:
        if self.pooling is None:
            return list(features)
        if all(n is None for n in n_frames):
            return list(pool_frames(features, self.pooling, n_prefix=self.n_prefix))
        return [
            pool_frames(
                frames if n is None else frames[: self.n_prefix + n],
                self.pooling,
                n_prefix=self.n_prefix,
            )
            for frames, n in zip(features, n_frames, strict=True)
        ]


@torch.inference_mode()
def load_speech(
    module: nn.Module,
    *,
    layer: int | None,
    pooling: str,
    dtype: torch.dtype,
    device: torch.device,
) -> SpeechClips:
    """Return what runs a speech model of transformers on packed clips."""
    if device.type == "cpu":
        keep_freed_memory()
    network = speech_network(module, layer=layer, dtype=dtype, device=device)
    return SpeechClips(network, "mean" if pooling == "auto" else pooling).eval()


@torch.inference_mode()
def load_stacked(
    module: nn.Module,
    probe: Tensor,
    *,
    pooling: str | None,
    dtype: torch.dtype,
    device: torch.device,
    n_prefix: int = 0,
    is_foreign: bool = False,
) -> StackedClips:
    """Return what runs a model on stacks, with linear layers on packed weights.

    Parameters
    ----------
    module : Module
        In float32 on the CPU, in evaluation mode; may be changed.
    probe : Tensor
        One part as it may take it, on which every step is proven.
    pooling, n_prefix
        See `StackedClips`.
    dtype : torch.dtype
        In which format it runs.
    device : torch.device
        Where.
    is_foreign : bool
        Whether its code is unknown: it runs in one thread at a time, and nothing is fused.
    """
    if device.type == "cpu":
        keep_freed_memory()
    stack = probe[None].to(dtype)
    if dtype is not torch.float32:
        _convert(module, stack, dtype)
    if device.type != "cpu":
        module = module.to(device)
        run_apart(module, stack.to(device))  # what fails there is no fault of rows
    else:
        expected = run_apart(module, stack)
        pack_linear_layers(
            module,
            lambda: run_apart(module, stack),
            lambda: are_alike(run_apart(module, stack), expected),
            each_alone=is_foreign,
        )
    if is_foreign:
        module = OneAtATime(module)
    return StackedClips(module, pooling, dtype, n_prefix).eval()


def _convert(module: nn.Module, stack: Tensor, dtype: torch.dtype) -> None:
    """Convert a model; statistics and tables stay in float32 where the model runs so."""
    for each in module.modules():
        if isinstance(each, nn.modules.batchnorm._BatchNorm):
            each.to(dtype)
    convert(module, dtype)
    try:
        module(stack.clone())
    except RuntimeError:  # it adds up numbers of both formats
        for buffer in module.buffers():
            if buffer.is_floating_point():
                buffer.data = buffer.data.to(dtype)
