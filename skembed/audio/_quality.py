"""Samples: integers as floats between -1 and 1, channels as one, and quality problems."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["QualityCheck", "mix", "mixed", "to_float"]

# Below -80 dB of full scale is what 16-bit converters and dither leave of no sound at all.
_SILENCE = 1e-4

# Of the power of channels, what their mean keeps: -40 dB is left of a channel and its inverse
# where a codec or noise has changed both a little, but of no two microphones.
_LEAST_LEFT = 1e-4

# Floats go beyond 1 by mastering and by lossy coding, but not by 18 dB; 8-bit integers do.
_MOST_PEAK = 8.0

# The highest step of 16 bits. That of 8 bits is 127/128, where a sine of full scale stays for
# 5.7 % of the time in runs, so that below this no level is taken for the end of the scale.
_FULL_SCALE = 32767 / 32768
_SHORTEST_RUN = 4

# A sine of full scale in 16 bits has below 1 % of its samples there, one driven 1 dB over it 30 %.
# Not calibrated on music: a limiter reaches its ceiling, but mostly for less than a run.
_MOST_CLIPPED = 0.05

_BLOCK = 1 << 16

_SCALES = {
    np.dtype(np.uint8): 128.0,
    np.dtype(np.int8): 128.0,
    np.dtype(np.int16): 32768.0,
    np.dtype(np.int32): 2147483648.0,
}


def to_float(array: NDArray[Any]) -> NDArray[np.float32]:
    """Return samples as float32, integers divided by their full scale; TypeError if unknown."""
    dtype = array.dtype.newbyteorder("=")
    if dtype in _SCALES:
        # Powers of two: the division is exact, and in the order that libsndfile has it.
        samples: NDArray[np.float32] = array.astype(np.float32)
        if dtype == np.uint8:
            samples -= np.float32(128)
        samples *= np.float32(1 / _SCALES[dtype])
        return samples
    if dtype.kind == "f" and dtype.itemsize <= 8:
        with np.errstate(over="ignore"):
            return array.astype(np.float32, copy=False)
    raise TypeError(f"samples of dtype {array.dtype}: {_advice(dtype)}")


def _advice(dtype: np.dtype[Any]) -> str:
    if dtype.kind == "c":
        return "complex numbers are not sound samples; pass the waveform, not a spectrum"
    if dtype.kind in "iu":
        return (
            "their full scale is unknown; if they are 16-bit PCM, use .astype('int16'), else "
            "divide by the full scale to floats between -1 and 1"
        )
    return "expected float32 between -1 and 1 or int16"


def mix(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average the channels: (n, channels) to (n,), summed in float64 in their order."""
    if frames.shape[1] == 1:
        return frames[:, 0]
    total = np.zeros(len(frames))
    with np.errstate(invalid="ignore"):
        for channel in range(frames.shape[1]):
            total += frames[:, channel]
    mean: NDArray[np.float32] = (total / frames.shape[1]).astype(np.float32)
    return mean


class QualityCheck:
    """Look at a sound at `rate` Hz that comes in pieces, before it is resampled.

    What is empty, not finite or beyond 8 times full scale is unreadable. Findings are silence
    (within -80 dB of full scale around the mean), channels that cancel out, and clipping (5 % of
    the samples stay at the extreme, at or beyond full scale of 16 bits, for 4 samples or more).
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._n = self._n_not_finite = self._first_not_finite = 0
        self._sum = 0.0
        self._low, self._high = np.inf, -np.inf
        self._power = self._power_of_channels = 0.0
        self._ends = (_EndOfScale(), _EndOfScale())

    def mix(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the next frames (n, channels) as one channel, having looked at them."""
        samples = mix(frames)
        if self.add(samples) < np.inf and frames.shape[1] > 1:
            every = np.ascontiguousarray(frames).reshape(-1)
            self._power += float(np.vdot(samples, samples))
            self._power_of_channels += float(np.vdot(every, every)) / frames.shape[1]
        return samples

    def add(self, samples: NDArray[np.floating[Any]]) -> float:
        """Look at the next samples, of shape (n,); return how far they are apart."""
        if not len(samples):
            return np.inf
        n_before, self._n = self._n, self._n + len(samples)
        low, high = float(samples.min()), float(samples.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            bad = ~np.isfinite(samples)
            if not self._n_not_finite:
                self._first_not_finite = n_before + int(bad.argmax())
            self._n_not_finite += int(bad.sum())
            return np.inf
        self._low, self._high = min(self._low, low), max(self._high, high)
        self._sum += float(samples.sum(dtype=np.float64))
        self._ends[0].add(samples, high)
        self._ends[1].add(-samples, -low)
        return high - low

    def why_unreadable(self) -> str | None:
        """Say why what came so far is no sound; None if it is one."""
        if self._n == 0:
            return "empty: no samples"
        if self._n_not_finite:
            return (
                f"{self._n_not_finite:,} of its samples are NaN or infinite, the first at second "
                f"{self._first_not_finite / self._rate:.3f}"
            )
        if (peak := max(self._high, -self._low)) > _MOST_PEAK:
            hint = "divide integers by their full scale, 32,768 for 16 bits"
            return f"its samples reach {peak:,.6g}, expected -1 to 1: {hint}"
        return None

    def finding(self) -> str | None:
        """Say what is poor about what came so far; None if nothing."""
        if (
            self._power < _LEAST_LEFT * self._power_of_channels
            and self._power_of_channels > self._n * _SILENCE**2
        ):
            return "in opposite phase: its channels cancel out when averaged; pass one of them"
        mean = self._sum / self._n
        if max(self._high - mean, mean - self._low) < _SILENCE:
            return "silent: no sample is more than -80 dB of full scale away from the mean"
        share = sum(end.n_clipped for end in self._ends) / self._n
        if share >= _MOST_CLIPPED:
            return (
                f"clipped: {share:.0%} of its samples are stuck at full scale; "
                "record or convert it at a lower level"
            )
        return None


def mixed(
    waveform: NDArray[Any], check: QualityCheck | None = None
) -> Iterator[NDArray[np.float32]]:
    """Yield copies of a waveform's pieces, (n,) or (n, channels), in one channel.

    `check` looks at them.
    """
    frames = waveform.reshape(len(waveform), -1)
    for start in range(0, len(frames), _BLOCK):
        block = to_float(frames[start : start + _BLOCK])
        samples = mix(block) if check is None else check.mix(block)
        yield samples.copy()  # whoever changes the waveform now changes no half of this


class _EndOfScale:
    """Count the samples that stay at the highest value there is, if that is full scale."""

    def __init__(self) -> None:
        self._level = _FULL_SCALE
        self._n_in_runs = 0
        self._n_open = 0

    def add(self, samples: NDArray[np.floating[Any]], high: float) -> None:
        if high > self._level:
            self._level, self._n_in_runs, self._n_open = high, 0, 0
        if high < self._level:
            self._close()
            return
        is_there = samples == high
        edges = np.flatnonzero(np.diff(is_there, prepend=False, append=False))
        lengths = edges[1::2] - edges[::2]
        if edges[0] == 0:
            lengths[0] += self._n_open
            self._n_open = 0
        self._close()
        if is_there[-1]:
            self._n_open = int(lengths[-1])
            lengths = lengths[:-1]
        self._n_in_runs += int(lengths[lengths >= _SHORTEST_RUN].sum())

    @property
    def n_clipped(self) -> int:
        return self._n_in_runs + self._n_open * (self._n_open >= _SHORTEST_RUN)

    def _close(self) -> None:
        self._n_in_runs, self._n_open = self.n_clipped, 0
