"""How the frames of a clip become one vector.

Knows tensors and their shapes, not models.
"""

from __future__ import annotations

import torch
from torch import Tensor

from skembed.exceptions import InvalidParameterError

__all__ = ["AUDIO_POOLINGS", "pool_frames", "pooled_width", "refuse_pooling"]

AUDIO_POOLINGS = ("auto", "mean", "std", "mean_std", "max", "first")


def pool_frames(frames: Tensor, pooling: str, *, n_prefix: int = 0) -> Tensor:
    """Pool frames of shape (..., frames, d) to vectors of shape (..., width).

    Parameters
    ----------
    frames : Tensor of shape (..., frames, d)
        Of one clip, or of several of equal length; none of them padding.
    pooling : {"mean", "std", "mean_std", "max", "first"}
        The standard deviation is that of a population: 0 of a single frame. "mean_std" is both
        side by side, as in statistics pooling (Snyder et al., 2018,
        doi:10.1109/ICASSP.2018.8461375).
    n_prefix : int
        Tokens before the frames, such as a class token, which take part in "first" only.
    """
    if pooling == "first":
        return frames[..., 0, :]
    frames = frames[..., n_prefix:, :]
    if pooling == "max":
        return frames.amax(-2)
    if pooling == "mean":
        return frames.mean(-2)
    std, mean = torch.std_mean(frames, -2, correction=0)
    return std if pooling == "std" else torch.cat([mean, std], -1)


def pooled_width(d: int, pooling: str) -> int:
    """Return the number of features that frames of d features are pooled to."""
    return 2 * d if pooling == "mean_std" else d


def refuse_pooling(pooling: str, name: str) -> None:
    """Refuse to pool what is one vector a clip already, unless "auto" leaves it as it is."""
    if pooling != "auto":
        raise InvalidParameterError(
            f"pooling={pooling!r}, but {name} gives one vector a clip, which has nothing to pool. "
            "Leave pooling='auto', or choose a layer before its end."
        )
