"""Batch normalisation while training: whose statistics it takes.

A layer that has statistics keeps them: those of a small batch would be worse, and pieces of a batch
have others than the whole. One that has never seen data takes the batches', and learns its own.
Knows modules, not what they embed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["keep_statistics", "learns_statistics", "statistics_of", "weigh_next_batch"]


def keep_statistics(module: nn.Module, *, keeps_all: bool = False) -> None:
    """Settle which layers keep their statistics; `keeps_all` where their weights are not trained.

    It is settled once, with the weights that training starts from.
    """
    norms: list[Any] = [each for each in module.modules() if isinstance(each, _BatchNorm)]
    for each in norms:
        each.keeps_statistics = keeps_all or _has_statistics(each)
        each.usual_momentum = each.momentum


def learns_statistics(module: nn.Module) -> bool:
    """Return whether a layer takes statistics of whole batches."""
    return any(True for _ in _learning(module))


def statistics_of(module: nn.Module) -> dict[str, Tensor]:
    """Return the statistics that training changes, by name."""
    return {
        f"{name}.{kind}" if name else kind: buffer
        for name, each in _learning(module)
        for kind, buffer in each.named_buffers(recurse=False)
    }


def weigh_next_batch(module: nn.Module) -> None:
    """Let statistics be the mean over the first batches: at first they are of nothing."""
    for _, each in _learning(module):
        if each.usual_momentum is not None and each.num_batches_tracked is not None:
            each.momentum = max(each.usual_momentum, 1 / (int(each.num_batches_tracked) + 1))


def _learning(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, each in module.named_modules():
        if isinstance(each, _BatchNorm) and not getattr(each, "keeps_statistics", False):
            yield name, each


def _has_statistics(norm: _BatchNorm) -> bool:
    """Return whether it was run on data; of none, statistics of the batch are all there is."""
    mean, var = norm.running_mean, norm.running_var
    if mean is None or var is None:
        return False
    return bool((mean != 0).any() or (var != 1).any())
