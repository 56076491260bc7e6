"""Hidden states of transformers models: which submodule makes them, which weights they need.

Knows modules and their outputs, not what goes into them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skembed.exceptions import InvalidParameterError
from skembed.weights import check_weights, load_state

__all__ = ["drop_unused", "find_layer", "find_unused", "first_tensor", "has_weights"]


def first_tensor(output: Any) -> Tensor | None:
    """Return a submodule's states: its output, or the first of several."""
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, dict) else output
    if isinstance(output, (tuple, list, dict)):
        return next((value for value in values if isinstance(value, Tensor)), None)
    return None


def find_layer(module: nn.Module, run: Callable[[], Any], layer: int, name: str) -> str | None:
    """Return the submodule that makes a hidden state, None if there is no single one.

    `run` runs a model of transformers with all hidden states; InvalidParameterError if there is no
    state of this number.
    """
    seen: list[tuple[str, Tensor | None]] = []
    hooks = [
        each.register_forward_hook(lambda m, i, out, k=k: seen.append((k, first_tensor(out))))
        for k, each in module.named_modules()
        if k
    ]
    try:
        found = run()
    finally:
        for hook in hooks:
            hook.remove()
    states: tuple[Tensor, ...] = getattr(found, "hidden_states", None) or ()
    n_states = len(states)
    if not -n_states <= layer < n_states:
        has = f"has hidden states {-n_states} to {n_states - 1}" if n_states else "gives none"
        raise InvalidParameterError(
            f"layer={layer}, but {name} {has}. Choose one of these, or a submodule by its name."
        )
    return _maker(seen, states[layer])


def _maker(seen: list[tuple[str, Tensor | None]], states: Tensor) -> str | None:
    """Return the first submodule to end whose output are these states, None if there is none."""
    for name, output in seen:
        if output is None or output.shape != states.shape:
            continue
        if output is states or (states.device.type != "meta" and torch.equal(output, states)):
            return name
    return None


def find_unused(module: nn.Module, run: Callable[[], Tensor]) -> frozenset[str]:
    """Return the weights of a module, by name, on which the output of `run` does not depend.

    Also of one on the meta device, which has no values. Its parameters will require gradients.
    """
    named = dict(module.named_parameters())
    with torch.enable_grad():
        for parameter in named.values():
            parameter.requires_grad_(True)
        out = run()
        if not out.requires_grad:  # the input itself
            return frozenset(named)
        gradients = torch.autograd.grad(out.sum(), list(named.values()), allow_unused=True)
    unused = {name for name, found in zip(named, gradients, strict=True) if found is None}
    owners = {name.rpartition(".")[0] for name in unused}
    owners -= {name.rpartition(".")[0] for name in named if name not in unused}
    # Running statistics have no gradient of their own; they are run with their module's weights.
    buffers = {name for name, _ in module.named_buffers()}
    return frozenset(unused | {name for name in buffers if name.rpartition(".")[0] in owners})


def drop_unused(module: nn.Module, unused: Collection[str]) -> None:
    """Free the parts of a model (the one that reads texts, say) of which no weight is run."""
    for name, part in list(module.named_children()):
        weights = [f"{name}.{each}" for each, _ in part.named_parameters()]
        if weights and all(each in unused for each in weights):
            setattr(module, name, None)


def has_weights(folder: Path, names: Collection[str]) -> bool:
    """Return whether a checkpoint has weights of all these names, at whatever prefix."""
    if not names:
        return True
    stored = _stored_names(folder)
    return all(any(f".{key}".endswith(f".{name}") for key in stored) for name in names)


def _stored_names(folder: Path) -> set[str]:
    names: set[str] = set()
    for path in check_weights(folder):
        if path.suffix != ".safetensors":
            names |= set(load_state(path))
            continue
        with path.open("rb") as file:
            header = file.read(int.from_bytes(file.read(8), "little"))
        names |= set(json.loads(header))
    return names
