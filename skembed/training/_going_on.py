"""Going on from what was learned before: whether that is possible, and how.

Knows states, targets and modules, not rows or models.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from skembed.exceptions import InvalidInputError, InvalidParameterError
from skembed.training._fine_tune import FineTune
from skembed.training._lora import lora_matrices, lora_scale
from skembed.training._state import TrainedState
from skembed.training._strategy import Strategy
from skembed.training._targets import Targets
from skembed.training._trained import copy_array

__all__ = ["check_method", "check_step", "labels_of_step", "load_trained", "with_history"]


def check_method(before: TrainedState, strategy: Strategy, name: str) -> None:
    """Refuse to go on with weights of another kind than were trained."""
    if before.method != strategy.method:
        raise InvalidParameterError(
            f"{name}: cannot go on with method={strategy.method!r} from what was learned with "
            f"method={before.method!r}. Set warm_start=False to begin anew."
        )
    scale = lora_scale(strategy.lora_rank, strategy.lora_alpha)
    ranks = {a.shape[0] for key, a in before.arrays.items() if key.endswith(".lora_A")}
    if strategy.method == "lora" and (ranks != {strategy.lora_rank} or scale != before.lora_scale):
        raise InvalidParameterError(
            f"{name}: cannot go on with lora_rank={strategy.lora_rank} and "
            f"lora_alpha={strategy.lora_alpha} from matrices of rank {sorted(ranks)} with a factor "
            f"of {before.lora_scale}. Set warm_start=False to begin anew."
        )


def labels_of_step(
    strategy: FineTune, classes: Any, before: TrainedState | None, name: str
) -> dict[str, Any]:
    """Return the loss and the classes by which the targets of a step are checked."""
    loss = strategy.loss
    if before is not None and before.kind == "numbers" and loss == "auto":
        loss = "squared_error"  # of a few numbers it is not seen that they are no classes
    if before is None or before.classes is None:
        return {"loss": loss, "classes": classes}
    if classes is not None and not np.array_equal(np.unique(classes), before.classes):
        raise InvalidInputError(
            f"classes: {name} was trained on the classes {before.classes.tolist()}, got "
            f"{np.unique(classes).tolist()}. Name the same, or fit again."
        )
    return {"loss": loss, "classes": before.classes}


def check_step(before: TrainedState, targets: Targets, name: str) -> None:
    """Refuse targets of another kind than were learned from."""
    n_outputs = len(before.head["bias"]) if "bias" in before.head else targets.n_outputs
    if before.kind in ("", targets.kind) and n_outputs == targets.n_outputs:
        return
    raise InvalidInputError(
        f"y: {name} was trained on {before.kind} with {n_outputs} output(s), got {targets.kind} "
        f"with {targets.n_outputs}. Give targets of the same kind, or fit again."
    )


@torch.no_grad()
def load_trained(module: nn.Module, before: TrainedState) -> None:
    """Give the weights that are trained the values that were learned before."""
    own: dict[str, Any] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    if before.method == "lora":
        own = {**lora_matrices(module)}
    for name, array in before.arrays.items():
        if name not in own and before.method == "lora":
            raise InvalidParameterError(
                f"cannot go on from what was learned: {name.rpartition('.')[0]} had matrices "
                "beside it, and has none with the present freeze and lora_targets. Let them adapt "
                "as many layers as before, or set warm_start=False to begin anew."
            )
        if name not in own:
            raise InvalidParameterError(
                f"The model has no weights {name!r} to go on with: it is built otherwise than the "
                "one that was trained. Set the parameters back, or fit without warm_start."
            )
        copy_array(array, own[name], name, before)


def with_history(before: TrainedState, history: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return what was recorded before and in one step, whose first entry is before it."""
    return {key: [*before.history.get(key, ()), *history[key][1:]] for key in history}
