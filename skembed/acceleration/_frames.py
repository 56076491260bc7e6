"""The convolutions from samples to frames, on clips of any length without padding.

They run as linear layers do: frames are rows, channels are columns, and a convolution is one
product with overlapping rows of what it takes, which needs no copy. Clips lie end to end, so that
few shapes occur, and run piece by piece, so that what one layer hands to the next stays in the
cache. On 2 Zen 5 cores all of wav2vec2-base takes 45 ms for a second of sound in bfloat16 and 80 in
float32, with the model's own convolutions on clip after clip 53 and 90.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skembed.acceleration._linear import steady_size
from skembed.acceleration._passes import gelu_kind

__all__ = ["FrameEncoder", "checked_convolution"]

_FRAMES = 50
"""Of the last layer in one piece: a second of sound, 6 MiB after the first layer in float32."""

_ROWS = 640
"""Of the first layer in one product, where a piece holds the ends of clips."""


class _Layer(nn.Module):
    """A convolution over frames, perhaps a layer normalisation, and a GELU, of transformers."""

    def __init__(self, reference: Any) -> None:
        super().__init__()
        conv = checked_convolution(reference.conv)
        if gelu_kind(reference.activation) != "none":
            raise NotImplementedError(f"activation {type(reference.activation).__name__}")
        norm = getattr(reference, "layer_norm", None)
        if norm is not None and type(norm) not in (nn.LayerNorm, nn.GroupNorm):
            raise NotImplementedError(f"normalisation {type(norm).__name__}")
        self.kernel, self.stride = conv.kernel_size[0], conv.stride[0]
        self.n_in, self.n_out = conv.in_channels, conv.out_channels
        weight = conv.weight.detach().permute(0, 2, 1).reshape(conv.out_channels, -1)
        self.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach(), False)
        self.norm: Any = norm

    def n_frames(self, n: int) -> int:
        """Return how many frames come of n."""
        return (n - self.kernel) // self.stride + 1

    def forward(self, x: Tensor) -> Tensor:
        """Map x of shape (n, n_in) to (frames, n_out)."""
        n_rows = self.n_frames(len(x))
        rows = x.as_strided(
            (n_rows, self.kernel * self.n_in), (self.stride * self.n_in, 1), x.storage_offset()
        )
        out = F.linear(rows, self.weight, self.bias)
        return F.gelu(out if self.norm is None else self.norm(out))


def checked_convolution(conv: Any) -> nn.Conv1d:
    """Refuse a convolution that pads with other than zeros, or is something else."""
    if not isinstance(conv, nn.Conv1d) or conv.padding_mode != "zeros" or conv.dilation != (1,):
        raise NotImplementedError(f"convolution {conv}")
    return conv


@dataclass(frozen=True)
class _Clip:
    """A clip as the first layer takes it."""

    samples: Tensor  # and zeros after them
    weight: Tensor  # of the first layer, with the normalisation of this clip
    bias: Tensor | None
    start: int  # rows of the first layer's output
    end: int


class FrameEncoder(nn.Module):
    """Samples of clips to frames: the convolutions at the start of a speech model.

    Group normalisation over time is folded into the first layer for each clip: mean and variance of
    a convolution's output follow from mean and covariance of what it takes: one pass, not three.
    Layers of other kinds than those of transformers' speech models are a NotImplementedError.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_Layer(each) for each in layers])
        first, *others = self._layers
        if first.n_in != 1:
            raise NotImplementedError(f"{first.n_in} channels of sound")
        if any(isinstance(each.norm, nn.GroupNorm) for each in others) or (
            isinstance(first.norm, nn.GroupNorm) and first.norm.num_groups != first.n_out
        ):
            raise NotImplementedError("group normalisation")
        if any(each.kernel < each.stride for each in self._layers) or any(
            conv.conv.padding != (0,) or conv.conv.groups != 1  # type: ignore[union-attr]
            for conv in layers
        ):
            raise NotImplementedError("a convolution with gaps, padding or groups")
        # Folded from what was given, whatever format and device the rest is moved to.
        self._weight = first.weight.detach().double()
        self._bias = None if first.bias is None else first.bias.detach().double()
        affine = [getattr(first.norm, name, None) for name in ("weight", "bias")]
        self._affine = [None if each is None else each.detach().double() for each in affine]
        self._step = math.prod(each.stride for each in others)

    @property
    def _layers(self) -> list[_Layer]:
        return list(self.layers)  # type: ignore[arg-type]

    def n_frames(self, n_samples: int) -> int:
        """Return how many frames a clip gives."""
        n = n_samples
        for layer in self._layers:
            n = layer.n_frames(n) if n >= layer.kernel else 0
        return n

    def forward(self, clips: Sequence[Tensor]) -> Tensor:
        """Map clips, each (samples,) in float32, to their frames end to end, (frames, channels)."""
        placed = list(self._place(clips))
        n_all = placed[-1].end // self._step
        n_piece = _FRAMES if n_all >= _FRAMES else steady_size(n_all)
        n_rows = n_piece
        for layer in reversed(self._layers[1:]):
            n_rows = (n_rows - 1) * layer.stride + layer.kernel
        frames = []
        for start in range(0, n_all, n_piece):
            x = self._first_layer(placed, start * self._step, n_rows)
            for layer in self._layers[1:]:
                x = layer(x)
            frames.append(x)
        joined = frames[0] if len(frames) == 1 else torch.cat(frames)
        starts = [each.start // self._step for each in placed]
        lengths = [self.n_frames(len(each)) for each in clips]
        return torch.cat([joined[at : at + n] for at, n in zip(starts, lengths, strict=True)])

    def _place(self, clips: Sequence[Tensor]) -> Iterator[_Clip]:
        """Yield the clips in a row, each from a multiple of all later layers' strides."""
        first, start = self._layers[0], 0
        place = first.weight
        for clip in clips:
            end = start + -(-first.n_frames(len(clip)) // self._step) * self._step
            n_samples = (end - start - 1) * first.stride + first.kernel
            weight, bias, samples = self._fold(clip.cpu())  # float64 is not on every device
            samples = F.pad(samples, (0, max(0, n_samples - len(samples))))
            samples, weight = samples.to(place), weight.to(place)
            yield _Clip(samples, weight, None if bias is None else bias.to(place), start, end)
            start = end

    def _fold(self, clip: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return weight and bias of the first layer for a clip, float64, and its samples."""
        first = self._layers[0]
        if not isinstance(first.norm, nn.GroupNorm):
            return self._weight, self._bias, clip
        # The normalisation takes away what a constant adds to the samples.
        samples = clip.double()
        samples = samples - samples.mean()
        n_rows = first.n_frames(len(clip))
        rows = samples.as_strided((n_rows, first.kernel), (first.stride, 1)).contiguous()
        mean = rows.mean(0)
        covariance = rows.T @ rows / n_rows - torch.outer(mean, mean)
        variance = ((self._weight @ covariance) * self._weight).sum(1).clamp(min=0)
        scale = (variance + first.norm.eps).rsqrt()
        gain, shift = self._affine
        if gain is not None:
            scale = scale * gain
        weight = self._weight * scale[:, None]
        bias = -(weight @ mean)
        return weight, bias if shift is None else bias + shift, samples.float()

    def _first_layer(self, clips: Sequence[_Clip], start: int, n_rows: int) -> Tensor:
        """Return rows of the first layer's output from `start` on, zeros after the last clip."""
        parts, at, stop = [], start, start + n_rows
        first = self._layers[0]
        for clip in clips:
            if clip.end <= at or clip.start >= stop:
                continue
            until = min(clip.end, stop)
            most = n_rows if until - at == n_rows else _ROWS
            while at < until:
                # Few shapes: what follows a piece's own rows is computed whole, then cut.
                n = min(most, until - at)
                n_run = min(n if n == most else -(-n // 64) * 64, clip.end - at)
                rows = clip.samples.as_strided(
                    (n_run, first.kernel), (first.stride, 1), (at - clip.start) * first.stride
                )
                parts.append(F.linear(rows, clip.weight, clip.bias)[:n])
                at += n
        if at < stop:
            parts.append(parts[0].new_zeros(stop - at, first.n_out))
        x = parts[0] if len(parts) == 1 else torch.cat(parts)
        return F.gelu(first.norm(x) if isinstance(first.norm, nn.LayerNorm) else x)
