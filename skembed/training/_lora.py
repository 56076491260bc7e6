"""LoRA through peft: small trained matrices beside the linear layers of a frozen module.

Knows modules and peft, not what they embed. References: arXiv:2106.09685.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from skembed._optional import import_optional
from skembed.exceptions import InvalidParameterError

__all__ = ["add_lora", "lora_arrays", "lora_scale"]


def lora_scale(rank: int, alpha: float) -> float:
    """Return the factor of the product of the matrices."""
    return alpha / rank


def add_lora(
    module: nn.Module,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    targets: str | Sequence[str],
) -> None:
    """Put trained matrices beside layers of a module, in place."""
    peft: Any = import_optional("peft", extra="training", purpose="method='lora'")
    names = [
        name
        for name, each in module.named_modules()
        if isinstance(each, nn.Linear) and (targets == "auto" or name.endswith(tuple(targets)))
    ]
    if not names:
        raise InvalidParameterError(f"lora_targets={targets!r}: the model has no such layers.")
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=names)
    peft.inject_adapter_in_model(config, module)


def lora_arrays(module: nn.Module) -> dict[str, NDArray[np.float32]]:
    """Return the trained matrices, by their layer's name."""
    found = {}
    for name, parameter in module.named_parameters():
        for kind in ("lora_A", "lora_B"):
            marker = f".{kind}.default.weight"
            if name.endswith(marker):
                array = parameter.detach().cpu().numpy().copy()
                found[f"{name.removesuffix(marker)}.{kind}"] = array
    return found
