"""The convolutions over frames that tell a transformer where its frames stand, clip by clip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skembed.acceleration._frames import checked_convolution
from skembed.acceleration._passes import gelu_kind

__all__ = ["PositionalConvolution"]

_BLOCKS = 32
"""Of frames whose spectra are multiplied at once: 25 MiB at 768 channels."""


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

    def pack(self) -> None:
        """Take the weights' spectra; on CPUs."""
        for stage in self.stages:
            stage.pack()  # type: ignore[operator]

    def unpack(self) -> None:
        """Undo `pack`."""
        for stage in self.stages:
            stage.spectrum = None  # type: ignore[assignment]

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
    """One convolution over frames, perhaps a normalisation, and a GELU.

    With kernels this long, products of spectra are fewer than those of frames: 1,764 frames of 768
    channels take a Zen 4 core 66 ms in float32 and 79 in bfloat16, a convolution 174 and 119.
    """

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
        self._size = max(16, 1 << (2 * self.kernel - 1).bit_length())
        self._weight: Tensor | None = conv.weight.detach()
        self.spectrum: Tensor | None = None

    def pack(self) -> None:
        """Take the weight's spectrum, shape (frequencies * groups, in, out)."""
        weight = self.weight.detach().float() if self._weight is None else self._weight
        spectrum = torch.fft.rfft(weight, n=self._size).conj().unflatten(0, (self.groups, -1))
        self.spectrum = spectrum.permute(3, 0, 2, 1).flatten(0, 1).resolve_conj().contiguous()

    def forward(self, x: Tensor, lengths: Sequence[int]) -> Tensor:
        """Map frames of clips end to end, shape (frames, d), to the same."""
        parts = self._convolve(x, lengths) if self.spectrum is None else self._multiply(x, lengths)
        out = torch.cat(list(parts))
        return F.gelu(out if self.norm is None else self.norm(out))

    def _convolve(self, x: Tensor, lengths: Sequence[int]) -> Iterator[Tensor]:
        """Yield each clip's frames."""
        for clip in x.split(list(lengths)):
            out = F.conv1d(
                clip.t()[None], self.weight, self.bias, padding=self.kernel // 2, groups=self.groups
            )
            yield out[0].t()[: len(clip)]  # an even kernel gives one frame more than it takes

    def _multiply(self, x: Tensor, lengths: Sequence[int]) -> Iterator[Tensor]:
        """Yield frames of one clip after the other, by overlap-save in float32."""
        assert self.spectrum is not None
        taken, kept = self._blocks(lengths)
        padded = F.pad(x, (0, 0, 0, 1))  # the last row stands for what is not there
        bias = 0.0 if self.bias is None else self.bias.float()
        for some, own in zip(taken.split(_BLOCKS), kept.split(_BLOCKS), strict=True):
            blocks = padded.index_select(0, some.flatten()).float().view(*some.shape, -1)
            spectra = torch.fft.rfft(blocks, dim=1).unflatten(2, (self.groups, -1))
            spectra = spectra.permute(1, 2, 0, 3).flatten(0, 1)
            spectra = torch.bmm(spectra, self.spectrum).unflatten(0, (-1, self.groups))
            out = torch.fft.irfft(spectra.permute(2, 0, 1, 3).flatten(2), n=self._size, dim=1)
            yield (out[:, : own.shape[1]][own] + bias).to(x.dtype)

    def _blocks(self, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return which frames each block takes, (blocks, size), and which of its own it keeps."""
        n_own, n_all = self._size - self.kernel + 1, sum(lengths)
        taken, kept, start = [], [], 0
        for n in lengths:
            first = torch.arange(0, n, n_own)[:, None]
            at = first + torch.arange(self._size) - self.kernel // 2
            taken.append(torch.where((at >= 0) & (at < n), start + at, n_all))
            kept.append(first + torch.arange(n_own) < n)
            start += n
        return torch.cat(taken), torch.cat(kept)
