"""Losses of similar and dissimilar vectors; all compare directions, not lengths.

Knows tensors alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "class_cosine_loss",
    "cosine_loss",
    "info_nce_loss",
    "supervised_contrastive_loss",
    "triplet_loss",
]


def info_nce_loss(
    anchors: Tensor, candidates: Tensor, temperature: float, ignored: Tensor | None = None
) -> Tensor:
    """Return the mean cross-entropy of finding each anchor's candidate among all candidates.

    -log exp(cos(a_i, c_i) / t) / sum_j exp(cos(a_i, c_j) / t), arXiv:1807.03748.

    Shape
    -----
    anchors (n, d); candidates (m, d), the first n those of the anchors; ignored (n, m), bool: what
    is no negative.
    """
    similarity = _unit(anchors) @ _unit(candidates).T / temperature
    if ignored is not None:
        similarity = similarity.masked_fill(ignored, -torch.inf)
    return F.cross_entropy(similarity, torch.arange(len(anchors), device=anchors.device))


def supervised_contrastive_loss(
    vectors: Tensor, is_same: Tensor, temperature: float, ignored: Tensor | None = None
) -> Tensor:
    """Return the mean over rows of how unlikely the rows of their class are, one by one.

    -1/|P(i)| sum_{p in P(i)} log exp(cos(i, p) / t) / sum_{a != i} exp(cos(i, a) / t): L_out of
    arXiv:2004.11362. Rows without another one of their class have no term of their own.

    Shape
    -----
    vectors (n, d); is_same (n, n), bool: pairs of one class; ignored (n, n), bool: pairs that are
    left out, beside each row with itself.
    """
    unit = _unit(vectors)
    left_out = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    if ignored is not None:
        left_out = left_out | ignored
    similarity = (unit @ unit.T / temperature).masked_fill(left_out, -torch.inf)
    is_positive = is_same & ~left_out
    n_positives = is_positive.sum(1)
    has_any = n_positives > 0
    similarity, is_positive = similarity[has_any], is_positive[has_any]
    log_shares = similarity - similarity.logsumexp(1, keepdim=True)
    per_row = log_shares.masked_fill(~is_positive, 0.0).sum(1) / n_positives[has_any]
    return -per_row.sum() / has_any.sum().clamp_min(1)


def class_cosine_loss(vectors: Tensor, is_same: Tensor, ignored: Tensor | None = None) -> Tensor:
    """Return the squared errors of all cosines, which are to be 1 within a class and 0 between.

    Pairs of one class weigh as much together as those of different ones, arXiv:2209.11055.

    Shape
    -----
    vectors (n, d); is_same (n, n), bool; ignored (n, n), bool: pairs that are left out.
    """
    unit = _unit(vectors)
    errors = (unit @ unit.T - is_same.to(unit.dtype)).square()
    kept = torch.ones_like(is_same).triu(1)
    if ignored is not None:
        kept &= ~ignored
    means = [errors[chosen].mean() for chosen in (kept & is_same, kept & ~is_same) if chosen.any()]
    return torch.stack(means).mean() if means else errors.sum() * 0


def cosine_loss(first: Tensor, second: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared error of cosines, of (n, d) and (n, d), targets (n,)."""
    return (F.cosine_similarity(first, second) - targets).square().mean()


def triplet_loss(anchors: Tensor, positives: Tensor, negatives: Tensor, margin: float) -> Tensor:
    """Return the mean lack of distance: of cosines, the negative's is to be less by a margin.

    max(0, cos(a, n) - cos(a, p) + margin), after arXiv:1503.03832; all of shape (n, d).
    """
    near, far = F.cosine_similarity(anchors, positives), F.cosine_similarity(anchors, negatives)
    return F.relu(far - near + margin).mean()


def _unit(vectors: Tensor) -> Tensor:
    return F.normalize(vectors, dim=-1)
