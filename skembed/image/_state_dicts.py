"""State dicts that users name: whose they are, and whether they fit.

Knows names and shapes of tensors, not what models do.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skembed.exceptions import UnsupportedModelError

__all__ = ["load_into", "plain_names", "refuse_other_state"]


def load_into(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load weights that have been found to fit into a module without values."""
    whole: Any = OrderedDict(module.state_dict())
    for name, value in whole.items():
        if name.endswith("num_batches_tracked") and name not in state:
            whole[name] = torch.zeros_like(value, device="cpu")  # counts training's batches
    whole.update(state)
    # Some architectures ask which release of theirs a state dict is of.
    whole._metadata = getattr(module.state_dict(), "_metadata", None)
    module.load_state_dict(whole, assign=True)


def plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict without the prefix that parallel training gives its names."""
    if state and all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): value for name, value in state.items()}
    return dict(state)


def refuse_other_state(
    path: Path, name: str, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> None:
    """Refuse a state dict that is not one of this architecture."""
    faults = [
        f"{each} is missing"
        for each in expected
        if each not in state and not each.endswith("num_batches_tracked")
    ]
    for each, value in state.items():
        if each not in expected:
            faults.append(f"{each} is unknown")
        elif value.shape != expected[each].shape:
            faults.append(
                f"{each} has shape {tuple(value.shape)} where {tuple(expected[each].shape)} is "
                "expected"
            )
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise UnsupportedModelError(
            f"{path} does not hold the weights of {name}: {'; '.join(sorted(faults)[:5])}{more}."
        )
