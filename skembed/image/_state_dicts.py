"""State dicts that users name: whose they are, and whether they fit.

Knows names and shapes of tensors, not what models do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from skembed.exceptions import UnsupportedModelError

__all__ = ["plain_names", "refuse_other_state"]


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
