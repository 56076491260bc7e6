"""Pooling: how the tokens, patches or frames of a row become one vector.

One set of names for all rooms; several are joined with "+", side by side. Knows tensors and their
shapes, not models.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from skembed.modules._rows import Rows

__all__ = ["POOLINGS", "pool", "pool_rows", "pooled_width"]


def _mean_sqrt_len(tokens: Tensor, offset: int) -> Tensor:
    # Reimers and Gurevych, 2019, arXiv:1908.10084: the sum over the square root of the length.
    return tokens.sum(-2) / float(tokens.shape[-2] ** 0.5)


def _weighted_mean(tokens: Tensor, offset: int) -> Tensor:
    # Muennighoff, 2022, arXiv:2202.08904, eq. 3: weights rise with the position in the row.
    n = tokens.shape[-2]
    weights = torch.arange(offset + 1, offset + 1 + n, device=tokens.device, dtype=tokens.dtype)
    return torch.einsum("...td,t->...d", tokens, weights / weights.sum())


def _std(tokens: Tensor, offset: int) -> Tensor:
    # Of a population: 0 of a single frame (Snyder et al., 2018, doi:10.1109/ICASSP.2018.8461375).
    return torch.std(tokens, -2, correction=0)


POOLINGS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "mean": lambda tokens, offset: tokens.mean(-2),
    "cls": lambda tokens, offset: tokens[..., 0, :],
    "max": lambda tokens, offset: tokens.amax(-2),
    "std": _std,
    "mean_sqrt_len": _mean_sqrt_len,
    "weighted_mean": _weighted_mean,
    "last_token": lambda tokens, offset: tokens[..., -1, :],
}
"""Each takes tokens of shape (..., tokens, d) and how many were left out before the first."""


def pool(features: Tensor, pooling: str, *, n_prefix: int = 0, offset: int = 0) -> Tensor:
    """Pool tokens (..., tokens, d), or maps (n, d, height, width), to vectors.

    Parameters
    ----------
    features : Tensor
        None of the tokens is padding.
    pooling : str
        Names in `POOLINGS`, joined with "+" ("cls+mean"): their vectors side by side.
    n_prefix : int
        Tokens before the patches or frames (class, registers), of which only "cls" takes the first.
    offset : int
        How many tokens were left out before the first.
    """
    if features.ndim == 4 and pooling == "mean":
        return features.mean((2, 3))
    if features.ndim == 4 and pooling == "max":
        return features.amax((2, 3))
    inner = features[..., n_prefix:, :] if n_prefix else features
    pooled = [
        POOLINGS[name](features if name == "cls" else inner, offset) for name in pooling.split("+")
    ]
    return pooled[0] if len(pooled) == 1 else torch.cat(pooled, -1)


def pooled_width(d: int, pooling: str) -> int:
    """Return the number of features that tokens of d features are pooled to."""
    return d * len(pooling.split("+"))


def pool_rows(
    hidden: Tensor,
    rows: Rows,
    pooling: str,
    *,
    n_skipped: int = 0,
    start_of: Callable[[int], int] | None = None,
) -> Tensor:
    """Pool packed tokens (tokens, d) to one vector a row, float32.

    `n_skipped` leading tokens of every row take no part (a prompt). Or `start_of` says for a row's
    length where in it the text begins that is pooled, as if nothing stood before it.
    """
    pooled = []
    for start, n_rows, length in rows.groups:
        tokens = hidden[start : start + n_rows * length].unflatten(0, (n_rows, length)).float()
        if start_of is not None:
            pooled.append(pool(tokens[:, start_of(length) :], pooling))
            continue
        first = min(n_skipped, length - 1)
        pooled.append(pool(tokens[:, first:], pooling, offset=first))
    return torch.cat(pooled)
