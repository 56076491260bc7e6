"""What of a module is in training, and what training changes in it.

Knows modules, not what they embed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skembed.training._norms import statistics_of, weigh_next_batch

__all__ = ["copied", "hold_statistics", "set_mode", "trained_tensors"]


def set_mode(module: nn.Module) -> None:
    """Put what is trained into training mode; what is frozen stays as it is served."""
    module.train()
    for each in module.modules():
        own = list(each.parameters())
        is_frozen = own and not any(parameter.requires_grad for parameter in own)
        is_frozen = is_frozen or getattr(each, "stays_frozen", False)
        if is_frozen or getattr(each, "keeps_statistics", False):
            each.eval()
    weigh_next_batch(module)


def hold_statistics(module: nn.Module) -> None:
    """Let norms use the statistics that they have, and leave them."""
    for each in module.modules():
        if getattr(each, "running_mean", None) is not None:
            each.eval()


def trained_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return what training changes, by name: parameters with gradients, and statistics."""
    found: dict[str, Tensor] = {n: p for n, p in module.named_parameters() if p.requires_grad}
    return found | statistics_of(module)


@torch.no_grad()
def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of tensors, by name."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
