"""Sample rates: one filter, whether sound comes whole or in pieces."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import soxr
from numpy.typing import NDArray

__all__ = ["Resampler", "resample"]

# VHQ passes the same band with a stopband below -155 dB, which 16-bit sounds, at -98 dB, cannot
# show, and takes 1.8 times as long at odd ratios. HQ is also what librosa resamples with.
_QUALITY = "HQ"

_BLOCK = 1 << 15

# soxr takes 0.02 s at this ratio; between 1e-9 Hz and another rate it did not come back.
_MOST_RATIO = 4096


def _check_rates(rate: float, to: float) -> None:
    for each in (rate, to):
        if not (math.isfinite(each) and each > 0):
            raise ValueError(f"a sample rate of {each} Hz, expected a positive number")
    if not 1 / _MOST_RATIO <= to / rate <= _MOST_RATIO:
        raise ValueError(
            f"sample rates of {rate:g} and {to:g} Hz are more than {_MOST_RATIO:,} times apart"
        )


class Resampler:
    """Resample a sound that comes in pieces from one rate in Hz to another.

    The pieces, cut anywhere, give bit for bit what the whole sound gives: they are put together
    and cut again into blocks of one size before they are filtered.
    """

    def __init__(self, rate: float, to: float) -> None:
        _check_rates(rate, to)
        self._ratio = Fraction(to) / Fraction(rate)
        self._n_in = self._n_out = 0
        if self._ratio == 1:
            return
        self._stream = soxr.ResampleStream(rate, to, 1, dtype="float32", quality=_QUALITY)
        # A block of what goes has a bounded size too.
        self._block = np.empty(max(1, int(_BLOCK / max(1.0, float(self._ratio)))), np.float32)
        self._n_held = 0

    def push(self, samples: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Take a piece of shape (n,) and return what is ready, in blocks of shape (m,)."""
        self._n_in += len(samples)
        return [samples] if self._ratio == 1 else self._filter(samples)

    def finish(self) -> list[NDArray[np.float32]]:
        """Return the rest; in all ceil(n * to / rate) samples have come for n."""
        if self._ratio == 1:
            return []
        # soxr rounds the number of samples, so that a short sound could have none.
        silence = np.zeros(math.ceil(2 / self._ratio) + 1, np.float32)
        n_expected, n_before = math.ceil(self._n_in * self._ratio), self._n_out
        blocks = self._filter(silence)
        blocks.append(self._stream.resample_chunk(self._block[: self._n_held], last=True))
        return [np.concatenate(blocks)[: n_expected - n_before]]

    def _filter(self, samples: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        ready = []
        while len(samples):
            n = min(len(samples), len(self._block) - self._n_held)
            self._block[self._n_held : self._n_held + n] = samples[:n]
            self._n_held += n
            samples = samples[n:]
            if self._n_held == len(self._block):
                ready.append(self._stream.resample_chunk(self._block))
                self._n_out += len(ready[-1])
                self._n_held = 0
        return ready


def resample(samples: NDArray[np.float32], rate: float, to: float) -> NDArray[np.float32]:
    """Resample a whole sound of shape (n,) to shape (ceil(n * to / rate),)."""
    if rate == to:
        return samples
    resampler = Resampler(rate, to)
    blocks = resampler.push(samples)
    return np.concatenate([*blocks, *resampler.finish()])
