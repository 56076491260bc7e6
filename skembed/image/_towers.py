"""Which part of a checkpoint of transformers reads pictures, and what of its output is a vector.

Knows configurations and model classes, not settings of the user.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

from torch import nn

from skembed.exceptions import UnsupportedModelError

__all__ = ["CLASS_TOKEN", "check_kind", "find_tower"]

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
    """Refuse a model that does not read single pictures; return whether it reads texts as well.

    Raises
    ------
    UnsupportedModelError
        If it is another kind of model.
    """
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
