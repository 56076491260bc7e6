"""Which part of a checkpoint of transformers reads pictures, and what of its output is a vector.

Knows configurations and model classes, not settings of the user.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from skembed.exceptions import UnsupportedModelError
from skembed.modules import States

__all__ = ["CLASS_TOKEN", "VisionStates", "check_kind", "count_prefix", "find_tower"]

_CLASS_TOKENS = ("cls_token", "class_embedding", "class_token")
_OTHER_TOKENS = ("distillation_token", "register_tokens")

# Models of pictures and texts: the part that reads pictures, and what of its output lies in the
# space shared with texts.
_TOWERS = {
    "clip": ("CLIPVisionModelWithProjection", "image_embeds"),
    "metaclip_2": ("MetaClip2VisionModelWithProjection", "image_embeds"),
    "siglip": ("SiglipVisionModel", "pooler_output"),
    "siglip2": ("Siglip2VisionModel", "pooler_output"),
}
_PROJECTED = {
    "clip_vision_model": "CLIPVisionModelWithProjection",
    "metaclip_2_vision_model": "MetaClip2VisionModelWithProjection",
}

CLASS_TOKEN = (
    "vit",
    "deit",
    "dinov2",
    "dinov2_with_registers",
    "dinov3_vit",
    "dinov3_convnext",
    "vit_mae",
    "vit_msn",
)
"""Trained so that the class token's last state stands for the picture. What transformers calls
their pooler is that token again or, in ViT and DeiT, a layer that many checkpoints lack."""


def find_tower(config: Any) -> tuple[Any, Any, str | None]:
    """Return what loads the part that reads pictures, its configuration, and its vector's name.

    The name is of a field of the output; None where the kind of model does not tell.
    """
    import transformers
    from transformers import AutoModel

    kind = config.model_type
    if kind in _TOWERS:
        name, vector = _TOWERS[kind]
        part = copy.deepcopy(config.vision_config)
        if vector == "image_embeds":
            # The whole model's projection has this width, whatever the part's settings say.
            part.projection_dim = config.projection_dim
        return getattr(transformers, name), part, vector
    named = getattr(config, "architectures", None) or ()
    if _PROJECTED.get(kind) in named:
        return getattr(transformers, _PROJECTED[kind]), config, "image_embeds"
    if kind == "vit_mae":
        config = copy.deepcopy(config)
        config.mask_ratio = 0.0  # it hides patches at random to learn from
    return AutoModel, config, None


def check_kind(module: nn.Module, name: str) -> bool:
    """Refuse a model that does not read single pictures; return whether it reads texts as well."""
    parameters = inspect.signature(module.forward).parameters
    if hasattr(module, "get_image_features") and hasattr(module, "get_text_features"):
        parameters = inspect.signature(module.get_image_features).parameters  # type: ignore[arg-type]
        is_dual = True
    else:
        is_dual = False
        kind = type(module).__name__
        first = getattr(module, "main_input_name", None)
        reads = {"input_ids": "text", "input_values": "sound", "input_features": "sound"}
        if "pixel_values" not in parameters or first in ("input_values", "input_features"):
            what = reads.get(str(first), str(first))
            advice = "TextEmbedder embeds it" if what == "text" else "choose a vision model"
            raise UnsupportedModelError(
                f"{name} reads {what}, not pictures (it is a {kind}): {advice}."
            )
        if first == "input_ids" and next(iter(parameters)) != "pixel_values":
            raise UnsupportedModelError(
                f"{name} is a language model that looks at pictures ({kind}); it has no vector for "
                "a picture alone. Choose a vision model, or one such as CLIP."
            )
    needed = [
        each.name
        for each in parameters.values()
        if each.default is each.empty
        and each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
        and each.name != "pixel_values"
    ]
    if needed:
        raise UnsupportedModelError(
            f"{name} reads {', '.join(needed)} beside pixels, which skembed does not pass on. "
            "Choose a model of pictures of one size (for SigLIP 2: not one of the NaFlex ones)."
        )
    return is_dual


class VisionStates(States):
    """Runs a vision model, or one of pictures and texts: "image_features" is projected."""

    def run(self, values: Tensor, *, all_states: bool = False) -> Any:
        """Return the model's whole output."""
        module: Any = self.module
        arguments: dict[str, Any] = {"output_hidden_states": True} if all_states else {}
        if hasattr(module, "get_image_features"):
            return module.get_image_features(pixel_values=values, **arguments)
        if module.config.model_type == "vit_mae":
            # The "noise" by which it shuffles patches, that leaves them as they are.
            size = module.config.patch_size
            n_patches = (values.shape[2] // size) * (values.shape[3] // size)
            arguments["noise"] = torch.arange(n_patches, device=values.device).expand(
                len(values), -1
            )
        return module(pixel_values=values, **arguments)

    def take(self, found: Any, output: str) -> Tensor:
        """Return what the model's output has by this name."""
        if output == "image_features":
            # A tensor in the first releases of transformers 5, later one of an output's fields.
            features: Tensor = found if isinstance(found, Tensor) else found.pooler_output
            return features.flatten(1)
        value: Tensor = getattr(found, output)
        return value.flatten(1) if output == "pooler_output" else value


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
