"""Random views of a sound, for training: parts of it, faster or slower, in noise, with gaps.

Knows samples and features, not models; every choice is the generator's. Masks are those of
SpecAugment (arXiv:1904.08779), shorter.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from skembed.audio._resampling import resample

__all__ = ["cut_at_random", "mask_bands", "random_view"]

_LEAST_SHARE = 0.8
_MOST_SPEED = 0.1
_GAIN = (-6.0, 6.0)
_NOISE = (10.0, 40.0)
"""In dB: of the clip, and below it."""

_N_MASKS = 2
_LONGEST_MASK = 0.05
_WIDEST_MASK = 0.15

Samples = NDArray[np.float32]


def random_view(samples: Samples, rng: np.random.Generator, least: int = 1) -> Samples:
    """Return a sound cut, resampled, louder or softer, in noise and with gaps.

    At least 0.8 of it are kept, at 0.9 to 1.1 of its speed, 6 dB louder (no louder than 1) to 6 dB
    softer, with white noise 10 to 40 dB below it and two gaps of up to a twentieth of its length.
    `least` samples remain.
    """
    n = len(samples)
    kept = cut_at_random(samples, max(least, round(n * rng.uniform(_LEAST_SHARE, 1))), rng)
    faster = resample(kept, 1.0, 1 / rng.uniform(1 - _MOST_SPEED, 1 + _MOST_SPEED))
    view = np.array(faster if len(faster) >= least else kept, dtype=np.float32)
    gain, peak = 10 ** (rng.uniform(*_GAIN) / 20), float(np.abs(view).max(initial=0))
    view *= min(gain, max(1.0, 1 / peak)) if peak else gain
    power = float(np.square(view, dtype=np.float64).mean())
    deviation = (power / 10 ** (rng.uniform(*_NOISE) / 10)) ** 0.5
    view += rng.normal(0, deviation, len(view)).astype(np.float32)
    for _ in range(_N_MASKS):
        start, stop = _random_span(len(view), _LONGEST_MASK, rng)
        view[start:stop] = 0
    return view


def cut_at_random(samples: Samples, n: int, rng: np.random.Generator) -> Samples:
    """Return `n` samples in a row, or all if there are fewer."""
    start = int(rng.integers(max(0, len(samples) - n) + 1))
    return samples[start : start + n]


def mask_bands(features: Tensor, dimension: int, rng: np.random.Generator) -> Tensor:
    """Return features with their mean in two spans of up to 15% of the bands."""
    masked, mean = features.clone(), features.mean()
    for _ in range(_N_MASKS):
        start, stop = _random_span(features.shape[dimension], _WIDEST_MASK, rng)
        masked.narrow(dimension, start, stop - start).fill_(mean)
    return masked


def _random_span(n: int, most: float, rng: np.random.Generator) -> tuple[int, int]:
    length = int(rng.integers(int(n * most) + 1))
    start = int(rng.integers(n - length + 1))
    return start, start + length
