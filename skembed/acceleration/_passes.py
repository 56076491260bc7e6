"""Passes over a model's modules: which layer feeds which activation, and replacement with a proof.

Knows modules and what goes in and out of them, not what they are for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from skembed.weights import is_out_of_memory

__all__ = [
    "are_alike",
    "convert",
    "find_consumers",
    "gelu_kind",
    "has_hooks",
    "replace_modules",
]

_MOST_CHANGE = {torch.float32: 1e-4, torch.bfloat16: 0.06, torch.float16: 0.015}
"""Of a vector, as a share of its length: rounding in as many layers as models have."""

_GELUS = {"GELUActivation": "none", "GELUTanh": "tanh", "PytorchGELUTanh": "tanh"}
"""GELU modules of transformers, and how each approximates."""


def are_alike(vectors: Tensor, expected: Tensor) -> bool:
    """Return whether vectors (..., d) are the same, as near as their format tells."""
    change = (vectors.float() - expected.float()).norm(dim=-1)
    return bool((change <= _MOST_CHANGE[vectors.dtype] * expected.float().norm(dim=-1)).all())


def convert(module: nn.Module, dtype: torch.dtype) -> None:
    """Convert parameters only: buffers (rotary frequencies) stay in float32, as they were made.

    Complex and whole numbers stay too: another format would lose part of them.
    """
    for parameter in module.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def has_hooks(module: nn.Module) -> bool:
    """Return whether something runs with a module's calls, and would be lost with the module."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def gelu_kind(module: nn.Module) -> str | None:
    """Return how a GELU approximates, or None if the module is no GELU."""
    if has_hooks(module):
        return None
    # Subclasses may compute something else.
    if type(module) is nn.GELU:
        return str(module.approximate)
    is_known = type(module).__module__ == "transformers.activations"
    return _GELUS.get(type(module).__name__) if is_known else None


def find_consumers(
    module: nn.Module,
    run: Callable[[], Any],
    *,
    is_producer: Callable[[nn.Module], object],
    is_consumer: Callable[[nn.Module], object],
) -> dict[nn.Module, nn.Module]:
    """Return the consumer of each producer's output, if producers make all that the consumer takes.

    Whether something else takes that output too is not seen here: that is for a proof after it.
    `run` runs the model on a few rows; the other two say which modules to look at.
    """
    # The tensors are kept: ids must not be used again.
    made_by: dict[int, tuple[nn.Module, Tensor]] = {}
    taken_from: dict[nn.Module, list[nn.Module | None]] = {}

    def note_output(producer: nn.Module, _: Any, output: Tensor) -> None:
        made_by[id(output)] = (producer, output)

    def note_input(consumer: nn.Module, inputs: tuple[Any, ...]) -> None:
        made = made_by.get(id(inputs[0])) if inputs else None
        taken_from.setdefault(consumer, []).append(None if made is None else made[0])

    hooks = []
    for child in module.modules():
        if is_producer(child):
            hooks.append(child.register_forward_hook(note_output))
        if is_consumer(child):
            hooks.append(child.register_forward_pre_hook(note_input))
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return {
        producer: consumer
        for consumer, producers in taken_from.items()
        if None not in producers
        for producer in producers
        if producer is not None
    }


def replace_modules(
    module: nn.Module,
    make: Callable[[], Mapping[nn.Module, nn.Module]],
    agrees: Callable[[], bool],
) -> bool:
    """Replace modules of a model, if that proves to change nothing.

    `make` returns what to put in the place of which module, `agrees` whether the model still gives
    what it gave before. The model is changed in place, or left as it was: then False is returned.
    """
    undo: list[tuple[nn.Module, str, nn.Module]] = []
    agreed = False
    try:
        with torch.no_grad():
            new = make()
            for parent in list(module.modules()):
                for name, child in list(parent.named_children()):
                    if child in new:
                        undo.append((parent, name, child))
                        setattr(parent, name, new[child])
        agreed = bool(undo) and agrees()
    except Exception as error:
        # Else: this torch or this processor has no such operators, or the model's own code refuses.
        if is_out_of_memory(error):
            raise
    finally:
        for parent, name, child in () if agreed else undo:
            setattr(parent, name, child)
    return agreed
