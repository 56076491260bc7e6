"""What a vision model of transformers is run for: a vector, the last states, or those of a layer.

Knows modules and their outputs, not files.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from skembed.exceptions import UnsupportedModelError
from skembed.modules import Reached, check_layer, find_layer, first_tensor, stop_after

__all__ = ["VisionStates", "count_prefix", "make_states", "take"]

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
            stop_after(module.get_submodule(stop_at), first_tensor)

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
    states = VisionStates(module, 0)
    maker = find_layer(module, lambda: states.run(pixels, all_states=True), layer, name)
    return VisionStates(module, layer, maker)


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
