"""Pooling: how the tokens of a row become one vector.

Knows tensors and lengths; text, audio frames and image patches are pooled alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from skembed.engine._packed import Rows

__all__ = ["POOLINGS", "finish", "pool"]


def _mean(tokens: Tensor, first: int) -> Tensor:
    return tokens.mean(1)


def _cls(tokens: Tensor, first: int) -> Tensor:
    return tokens[:, 0]


def _max(tokens: Tensor, first: int) -> Tensor:
    return tokens.amax(1)


def _mean_sqrt_len(tokens: Tensor, first: int) -> Tensor:
    # Reimers and Gurevych, 2019, arXiv:1908.10084: the sum over the square root of the length.
    return tokens.sum(1) / float(tokens.shape[1] ** 0.5)


def _weighted_mean(tokens: Tensor, first: int) -> Tensor:
    # Muennighoff, 2022, arXiv:2202.08904, eq. 3: weights rise with the position in the row.
    weights = torch.arange(
        first + 1, first + 1 + tokens.shape[1], device=tokens.device, dtype=tokens.dtype
    )
    return torch.einsum("rtd,t->rd", tokens, weights / weights.sum())


def _last_token(tokens: Tensor, first: int) -> Tensor:
    return tokens[:, -1]


POOLINGS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "mean": _mean,
    "cls": _cls,
    "max": _max,
    "mean_sqrt_len": _mean_sqrt_len,
    "weighted_mean": _weighted_mean,
    "last_token": _last_token,
}
"""Each takes tokens of shape (rows, length, d) and how many were left out before the first."""


def pool(hidden: Tensor, rows: Rows, modes: Sequence[str], *, n_skipped: int = 0) -> Tensor:
    """Pool packed tokens to one vector a row.

    Parameters
    ----------
    hidden : Tensor of shape (tokens, d)
        Rows end to end.
    rows : Rows
        Where they lie.
    modes : sequence of str
        Names in `POOLINGS`; the vectors of several are joined in this order.
    n_skipped : int, default=0
        Leading tokens of every row that do not take part (a prompt).

    Returns
    -------
    pooled : Tensor of shape (rows, len(modes) * d), float32
    """
    pooled = []
    for start, n_rows, length in rows.groups:
        tokens = hidden[start : start + n_rows * length].unflatten(0, (n_rows, length)).float()
        first = min(n_skipped, length - 1)
        tokens = tokens[:, first:]
        pooled.append(torch.cat([POOLINGS[mode](tokens, first) for mode in modes], dim=-1))
    return torch.cat(pooled)


def finish(vectors: Tensor, n_components: int | None, normalize: bool) -> Tensor:
    """Keep the leading features, then scale rows to unit length if asked to.

    Parameters
    ----------
    vectors : Tensor of shape (rows, width)
        What a model gives.
    n_components : int or None
        Leading features to keep (Kusupati et al., 2022, arXiv:2205.13147).
    normalize : bool
        Whether rows end at unit length.
    """
    vectors = vectors[:, :n_components]
    return F.normalize(vectors, p=2, dim=-1) if normalize else vectors
