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
        # An unknown row is an IndexError, not a wrong vector.
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


class _LookedUp(Exception):
    """All that is looked up is known; the rest of the module need not run."""


@torch.no_grad()
def train_used_rows(module: nn.Module, batches: Iterable[Any]) -> None:
    """Put `UsedRows` in the place of large trained embeddings of which batches use half at most."""
    names = _find(module)
    tables: dict[str, Any] = {name: module.get_submodule(name) for name in names}
    used = {
        each: torch.zeros(len(each.weight), dtype=torch.bool, device=each.weight.device)
        for each in tables.values()
    }
    waited_for: set[nn.Module] = set()

    def look(table: nn.Module, given: tuple[Tensor, ...]) -> None:
        used[table][given[0]] = True
        waited_for.discard(table)
        if not waited_for:
            raise _LookedUp

    hooks = [each.register_forward_pre_hook(look) for each in used]
    try:
        for batch in batches if tables else ():
            waited_for.update(used)
            try:
                module(batch)
            except _LookedUp:
                continue
            return  # some are not looked up by calling them
    finally:
        for hook in hooks:
            hook.remove()
    for name, table in tables.items():
        if used[table].sum() <= _MOST_SHARE * len(used[table]):
            module.set_submodule(name, UsedRows(table, used[table]))


def _find(module: nn.Module) -> list[str]:
    """Return the names of large embeddings that are trained, and whose weights are theirs alone."""
    counts = Counter(id(each) for _, each in module.named_parameters(remove_duplicate=False))
    return [
        name
        for name, each in module.named_modules()
        if type(each) is nn.Embedding
        and each.weight.requires_grad
        and each.weight.numel() >= _LEAST_VALUES
        and counts[id(each.weight)] == 1
        and not (each.max_norm or each.scale_grad_by_freq or each.sparse)
    ]
