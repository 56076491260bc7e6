"""Which weights are trained: all of a model, LoRA's beside them, or a projection of its vectors.

Knows modules and their layers, not what they embed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from skembed.exceptions import InvalidParameterError
from skembed.training._depth import Lowest, freeze_lowest
from skembed.training._lookups import UsedRows
from skembed.training._lora import add_lora, lora_arrays
from skembed.training._modes import trained_tensors
from skembed.training._norms import keep_statistics
from skembed.training._strategy import Strategy

__all__ = ["Finished", "VectorProjection", "arrays_of", "choose_weights"]


class Finished(nn.Module):
    """The vectors that the user sees: a module's, sliced and scaled."""

    def __init__(self, module: nn.Module, n_components: int | None, normalize: bool) -> None:
        super().__init__()
        self.module, self.n_components, self.normalize = module, n_components, normalize

    def forward(self, batch: Any) -> Tensor:
        """Return vectors (n, width), float32; (n, members, width) of members that learn apart."""
        vectors: Tensor = self.module(batch).float()[..., : self.n_components]
        return F.normalize(vectors, dim=-1) if self.normalize else vectors


class VectorProjection(nn.Module):
    """A linear projection of vectors, at first the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.projection = nn.Linear(width, width)
        with torch.no_grad():
            self.projection.weight.copy_(torch.eye(width))
            self.projection.bias.zero_()

    def forward(self, vectors: Tensor) -> Tensor:
        """Return projected vectors (n, width)."""
        projected: Tensor = self.projection(vectors)
        return projected


def choose_weights(
    module: nn.Module, strategy: Strategy, probe: Callable[[], Any], name: str
) -> Lowest | None:
    """Let those weights of a module require gradients that a strategy trains.

    Returns the blocks that stay as they are, if there are any.

    `probe` makes a batch as the module takes it, on which it may be run to find its layers;
    messages call the model `name`.
    """
    if not any(each.requires_grad for each in module.parameters()):
        raise InvalidParameterError(
            f"training__method={strategy.method!r}: {name} has no weights to train. Use "
            "method='head', which trains a projection of its vectors."
        )
    lowest = None
    if strategy.freeze:
        lowest = freeze_lowest(module, strategy.freeze, lambda: module(probe()), name)
    is_lora = strategy.method == "lora"
    keep_statistics(module, keeps_all=is_lora)
    if is_lora:
        module.requires_grad_(False)
        add_lora(
            module,
            probe(),
            rank=strategy.lora_rank,
            alpha=strategy.lora_alpha,
            dropout=strategy.lora_dropout,
            targets=strategy.lora_targets,
        )
    return lowest


def arrays_of(module: nn.Module, method: str) -> dict[str, NDArray[np.float32]]:
    """Return what was trained, as a `TrainedState` holds it."""
    if method == "lora":
        return lora_arrays(module)
    arrays = {
        name: tensor.detach().cpu().numpy().copy()
        for name, tensor in trained_tensors(module).items()
    }
    for name, each in module.named_modules():
        if isinstance(each, UsedRows):
            arrays[f"{name}.weight"] = each.whole().cpu().numpy()
    return arrays
