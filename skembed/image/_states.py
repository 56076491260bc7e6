"""What a vision model of transformers is run for: a vector, the last states, or those of a layer.

Knows modules and their outputs, not files.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from skembed.exceptions import InvalidParameterError, UnsupportedModelError
from skembed.image._layers import Reached, check_layer, stop_after

__all__ = ["VisionStates", "count_prefix", "find_unused", "make_states", "take"]

_CLASS_TOKENS = ("cls_token", "class_embedding", "class_token")
_OTHER_TOKENS = ("distillation_token", "register_tokens")


class VisionStates(nn.Module):
    """Runs a model for one of the things it gives.

    Parameters
    ----------
    module : PreTrainedModel
        A vision model, or one of pictures and texts.
    output : str or int
        "image_features" (projected beside texts), a name in the model's output, or the number of a
        hidden state.
    stop_at : str or None
        The submodule whose output that is: the forward pass ends there.
    """

    def __init__(self, module: nn.Module, output: str | int, stop_at: str | None = None) -> None:
        super().__init__()
        self.module = module
        self.output = output
        self.stop_at = stop_at
        if stop_at is not None:
            stop_after(module.get_submodule(stop_at), _first_tensor)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return vectors (n, d), tokens (n, tokens, d) or a map (n, d, height, width)."""
        all_states = isinstance(self.output, int) and self.stop_at is None
        try:
            found = self.run(pixels, all_states=all_states)
        except Reached as reached:
            features: Tensor = reached.features
            return features
        if self.stop_at is not None:
            raise UnsupportedModelError(
                f"layer {self.stop_at!r} is not run when pictures are embedded. Choose another."
            )
        return take(found, self.output)

    def run(self, pixels: Tensor, *, all_states: bool = False) -> Any:
        """Return the model's whole output."""
        module: Any = self.module
        arguments: dict[str, Any] = {"output_hidden_states": True} if all_states else {}
        if hasattr(module, "get_image_features"):
            return module.get_image_features(pixel_values=pixels, **arguments)
        if module.config.model_type == "vit_mae":
            arguments["noise"] = _in_order(module, pixels)
        return module(pixel_values=pixels, **arguments)


def take(found: Any, output: str | int) -> Tensor:
    """Return a part of a model's output, named as in `VisionStates`."""
    if isinstance(output, int):
        states: Tensor = found.hidden_states[output]
        return states
    if output == "image_features":
        # A tensor in the first releases of transformers 5, later one of an output's fields.
        features: Tensor = found if isinstance(found, Tensor) else found.pooler_output
        return features.flatten(1)
    value: Tensor = getattr(found, output)
    return value.flatten(1) if output == "pooler_output" else value


def _first_tensor(output: Any) -> Tensor | None:
    """Return a submodule's states: its output, or the first of several."""
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, dict) else output
    if isinstance(output, (tuple, list, dict)):
        return next((value for value in values if isinstance(value, Tensor)), None)
    return None


def _in_order(module: Any, pixels: Tensor) -> Tensor:
    """Return the "noise" by which ViTMAE shuffles patches that leaves them as they are."""
    size = module.config.patch_size
    n_patches = (pixels.shape[2] // size) * (pixels.shape[3] // size)
    return torch.arange(n_patches, device=pixels.device).expand(len(pixels), -1)


def make_states(
    module: nn.Module, output: str | int, layer: str | int | None, pixels: Tensor, name: str
) -> VisionStates:
    """Return what runs a model for the user's layer, or for an output if there is none.

    Parameters
    ----------
    module : PreTrainedModel
        The model.
    output : str or int
        As in `VisionStates`; what counts if `layer` is None.
    layer : str, int or None
        A submodule, or the number of a hidden state.
    pixels : Tensor of shape (1, 3, height, width)
        Run to find the submodule that makes a hidden state, so that the pass can end there.
    name : str
        The model, for messages.

    Raises
    ------
    InvalidParameterError
        If there is no such layer.
    """
    if layer is None:
        return VisionStates(module, output)
    if isinstance(layer, str):
        check_layer(module, layer, hint=" Or give the number of a hidden state.")
        return VisionStates(module, "last_hidden_state", layer)
    seen: list[tuple[str, Tensor | None]] = []
    hooks = [
        each.register_forward_hook(lambda m, i, out, k=k: seen.append((k, _first_tensor(out))))
        for k, each in module.named_modules()
        if k
    ]
    try:
        found = VisionStates(module, 0).run(pixels, all_states=True)
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
    return VisionStates(module, layer, _maker(seen, states[layer]))


def _maker(seen: list[tuple[str, Tensor | None]], states: Tensor) -> str | None:
    """Return the first submodule to end whose output are these states, None if there is none."""
    for name, output in seen:
        if output is None or output.shape != states.shape:
            continue
        if output is states or (states.device.type != "meta" and torch.equal(output, states)):
            return name
    return None


def count_prefix(module: nn.Module) -> tuple[int, bool]:
    """Return how many tokens precede the patches, and whether the first stands for the picture.

    Class, distillation and register tokens are parameters of the model, of shape (1, tokens, d),
    or (d,) for one token.
    """
    config: Any = module.config
    if config.model_type == "dinov3_convnext":
        return 1, True  # the mean of its map, put before it
    n_prefix, has_class = 0, False
    for name, parameter in module.named_parameters():
        last = name.rsplit(".", 1)[-1]
        if last in _CLASS_TOKENS + _OTHER_TOKENS:
            n_prefix += parameter.shape[-2] if parameter.ndim > 1 else 1
            has_class = has_class or last in _CLASS_TOKENS
    return n_prefix, has_class


def find_unused(states: VisionStates, pixels: Tensor) -> frozenset[str]:
    """Return the weights, by name, on which the output does not depend.

    Parameters
    ----------
    states : VisionStates
        Also of a model on the meta device, which has no values.
    pixels : Tensor of shape (n, 3, height, width)
        What to run.
    """
    named = dict(states.module.named_parameters())
    with torch.enable_grad():
        for parameter in named.values():
            parameter.requires_grad_(True)
        out = states(pixels)
        if not out.requires_grad:  # the pixels themselves
            return frozenset(named)
        gradients = torch.autograd.grad(out.sum(), list(named.values()), allow_unused=True)
    unused = {name for name, found in zip(named, gradients, strict=True) if found is None}
    owners = {name.rpartition(".")[0] for name in unused}
    owners -= {name.rpartition(".")[0] for name in named if name not in unused}
    # Running statistics have no gradient of their own; they are run with their module's weights.
    buffers = {name for name, _ in states.module.named_buffers()}
    return frozenset(unused | {name for name in buffers if name.rpartition(".")[0] in owners})
