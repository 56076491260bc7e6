"""Tables of embeddings of which the rows to learn from use a part: that part is trained alone.

A step would else make gradients and moments of a whole vocabulary, nearly all of them 0: of MiniLM,
more than half of all weights, a sixth of a step on short texts. What is learned is the same, but
that weight decay leaves alone what no row uses.

Knows modules and batches, not what a table stands for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["UsedRows", "train_used_rows"]

_LEAST_VALUES = 1 << 20
_MOST_SHARE = 0.5


class UsedRows(nn.Module):
    """An embedding whose `weight` is that of its used rows; it knows no others."""

    table: Tensor
    places: Tensor

    def __init__(self, embedding: nn.Embedding, is_used: Tensor) -> None:
        super().__init__()
        self.used = is_used.nonzero()[:, 0]
        self.register_buffer("table", embedding.weight.detach(), persistent=False)
        self.weight = nn.Parameter(self.table[self.used])
        # On a CPU an unknown row is an IndexError, not a wrong vector.
        places = torch.full_like(is_used, len(self.table), dtype=torch.int64)
        places[self.used] = torch.arange(len(self.used), device=places.device)
        self.register_buffer("places", places, persistent=False)
        padding = embedding.padding_idx
        is_known = padding is not None and bool(is_used[padding])
        self.padding_idx = int(places[padding]) if is_known else None

    def forward(self, ids: Tensor) -> Tensor:
        """Return the embeddings of ids."""
        return F.embedding(self.places[ids], self.weight, self.padding_idx)

    def whole(self) -> Tensor:
        """Return the table with what was learned."""
        whole = self.table.clone()
        whole[self.used] = self.weight.detach()
        return whole


@torch.no_grad()
def train_used_rows(module: nn.Module, batches: Iterable[Any]) -> None:
    """Put `UsedRows` in the place of a large trained embedding, if batches use half of it at most.

    That is the one in which `module.core` looks up the `ids` of batches, its `token_table`. On the
    first batch the module must give what it gave before.
    """
    embedding = getattr(getattr(module, "core", None), "token_table", None)
    name = next((n for n, each in module.named_modules() if each is embedding), None)
    if embedding is None or name is None or not _is_plain(module, embedding):
        return
    is_used = torch.zeros(len(embedding.weight), dtype=torch.bool, device=embedding.weight.device)
    first = None
    for batch in batches:
        if not hasattr(batch, "ids"):
            return
        first = batch if first is None else first
        is_used[batch.ids] = True
    if first is None or is_used.sum() > _MOST_SHARE * len(is_used):
        return
    used = UsedRows(embedding, is_used)
    expected = module.eval()(first)
    module.set_submodule(name, used)
    try:
        is_same = torch.equal(module(first), expected)
    except (AttributeError, IndexError, RuntimeError):
        is_same = False
    if not is_same:
        module.set_submodule(name, embedding)


def _is_plain(module: nn.Module, embedding: nn.Embedding) -> bool:
    """Return whether a large embedding is trained, is torch's own, and alone has its weights."""
    counts = Counter(id(each) for _, each in module.named_parameters(remove_duplicate=False))
    return (
        type(embedding) is nn.Embedding
        and embedding.weight.requires_grad
        and embedding.weight.numel() >= _LEAST_VALUES
        and counts[id(embedding.weight)] == 1
        and not (embedding.max_norm or embedding.scale_grad_by_freq or embedding.sparse)
    )
