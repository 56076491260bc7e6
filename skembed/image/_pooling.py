"""How a picture's features become one vector: feature maps, patch tokens, or a vector already.

Knows tensors and their shapes, not models.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from skembed.exceptions import InvalidParameterError

__all__ = ["IMAGE_POOLINGS", "Pool", "make_pool"]

IMAGE_POOLINGS = ("auto", "cls", "mean", "cls+mean", "max")


class Pool(nn.Module):
    """Pools patch tokens (n, tokens, d), a feature map (n, d, h, w) or nothing (n, d).

    Parameters
    ----------
    mode : {"cls", "mean", "cls+mean", "max", "none"}
        "none" leaves vectors as they are.
    n_dims : int
        Dimensions of the features: 2, 3 or 4.
    n_prefix : int
        Tokens before the patches (class, registers), which take no part in means and maxima.
    """

    def __init__(self, mode: str, n_dims: int, n_prefix: int = 0) -> None:
        super().__init__()
        self.mode, self.n_dims, self.n_prefix = mode, n_dims, n_prefix

    def forward(self, features: Tensor) -> Tensor:
        """Return vectors of shape (n, width)."""
        if self.mode == "none":
            return features
        if self.n_dims == 4:
            dims = (2, 3)
            return features.amax(dims) if self.mode == "max" else features.mean(dims)
        patches = features[:, self.n_prefix :]
        if self.mode == "cls":
            return features[:, 0]
        if self.mode == "max":
            return patches.amax(1)
        mean = patches.mean(1)
        return mean if self.mode == "mean" else torch.cat([features[:, 0], mean], 1)


def make_pool(
    pooling: str, shape: Sequence[int], *, n_prefix: int, has_class: bool, name: str
) -> tuple[Pool, int]:
    """Return the module that pools features of this shape, and the width that it gives.

    Parameters
    ----------
    pooling : str
        A name in `IMAGE_POOLINGS`. "auto" is the class token where there is one, else the mean.
    shape : sequence of int
        Of the features of one picture or more: (n, d), (n, tokens, d) or (n, d, h, w).
    n_prefix : int
        Tokens before the patches.
    has_class : bool
        Whether the first token stands for the whole picture.
    name : str
        The model, for messages.

    Raises
    ------
    InvalidParameterError
        If features of this shape cannot be pooled so.
    """
    n_dims = len(shape)
    if n_dims == 2:
        if pooling != "auto":
            raise InvalidParameterError(
                f"pooling={pooling!r}, but {name} ends in one vector a picture, which has nothing "
                "to pool. Leave pooling='auto', or choose a layer before its end."
            )
        return Pool("none", 2), int(shape[1])
    if n_dims not in (3, 4):
        raise InvalidParameterError(
            f"{name} gives features of shape {tuple(shape)}; expected (n, features), (n, tokens, "
            "features) or (n, features, height, width). Choose another layer."
        )
    has_class = has_class and n_dims == 3
    if pooling == "auto":
        pooling = "cls" if has_class else "mean"
    if "cls" in pooling and not has_class:
        what = "a feature map" if n_dims == 4 else "patches without a class token"
        raise InvalidParameterError(
            f"pooling={pooling!r}, but {name} gives {what}. Use 'mean' or 'max'."
        )
    d = int(shape[2] if n_dims == 3 else shape[1])
    return Pool(pooling, n_dims, n_prefix), 2 * d if pooling == "cls+mean" else d
