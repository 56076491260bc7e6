"""What a model's configuration says: how far it reads, which way, and which part reads texts.

Knows configurations of transformers; loads no weights.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from skembed.exceptions import UnsupportedModelError

__all__ = ["TextTower", "find_tower", "is_causal", "position_limit", "refuse_other_end"]

# Learned positions that start after the padding token's: two of them never hold a token.
_OFFSET_POSITIONS = (
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "mpnet",
    "data2vec-text",
)

# Models of pictures and texts, whose vectors of texts are a projection of the last token's state.
# The classes read texts alone, and load from the whole model's weights.
_PROJECTED = {
    "clip": "CLIPTextModelWithProjection",
    "clip_text_model": "CLIPTextModelWithProjection",
    "metaclip_2": "MetaClip2TextModelWithProjection",
    "metaclip_2_text_model": "MetaClip2TextModelWithProjection",
}
_BARE = {"clip_text_model": "CLIPTextModel", "metaclip_2_text_model": "MetaClip2TextModel"}
# Trained on rows that are all filled up with padding, which is not masked.
_FILLED = {
    "siglip": "SiglipTextModel",
    "siglip_text_model": "SiglipTextModel",
    "siglip2": "Siglip2TextModel",
    "siglip2_text_model": "Siglip2TextModel",
}


@dataclass(frozen=True)
class TextTower:
    """The part of a model of pictures and texts that reads texts.

    Parameters
    ----------
    config : configuration
        Of this part.
    architecture : str
        The class of transformers that loads it.
    projection : str or None
        The layer that puts a text's state into the space shared with pictures; None if this
        checkpoint has none.
    width : int
        Number of features after the projection.
    fills_rows : bool
        Whether the model was trained on rows filled up to its limit.
    """

    config: Any
    architecture: str
    projection: str | None
    width: int
    fills_rows: bool


def find_tower(config: Any) -> TextTower | None:
    """Return the part that reads texts, if the model is CLIP, SigLIP or one of their kin."""
    kind = config.model_type
    if kind not in _PROJECTED and kind not in _FILLED:
        return None
    part = copy.deepcopy(getattr(config, "text_config", None) or config)
    if kind in _FILLED:
        return TextTower(part, _FILLED[kind], "head", int(part.projection_size), True)
    architecture = _PROJECTED[kind]
    if part.model_type == kind and architecture not in (config.architectures or ()):
        return TextTower(part, _BARE[kind], None, int(part.hidden_size), False)
    # The whole model's projection has this width, whatever the part's settings say.
    part.projection_dim = config.projection_dim
    return TextTower(part, architecture, "text_projection", int(config.projection_dim), False)


def refuse_other_end(tower: TextTower, last_id: int | None, highest_id: int, name: str) -> None:
    """Refuse a model that takes a text's vector from another token than the last.

    transformers takes it from the first token with the configuration's `eos_token_id`; where that
    is 2, as in OpenAI's checkpoints, from the token with the highest id.

    Raises
    ------
    UnsupportedModelError
        If the token that ends every text is another one.
    """
    expected = getattr(tower.config, "eos_token_id", None)
    expected = highest_id if expected == 2 else expected
    if not tower.fills_rows and last_id != expected:
        raise UnsupportedModelError(
            f"{name} takes a text's vector from token {expected} (its eos_token_id, or the highest "
            f"where that is 2), but its tokenizer ends texts with {last_id}: the vectors would be "
            "of another token. Mend eos_token_id in its configuration, or its tokenizer."
        )


def is_causal(config: Any) -> bool:
    """Return whether a model is a decoder, whose last token has seen the whole text."""
    from transformers.models.auto import modeling_auto

    kind = config.model_type
    return (
        kind in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        and kind not in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    )


def position_limit(config: Any) -> int | None:
    """Return the most tokens for which a row's states depend on that row alone."""
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    # LongRoPE (arXiv:2402.13753) turns every position of a batch otherwise as soon as one row is
    # longer than in the first training. (Dynamic scaling begins at the limit itself.)
    rope = getattr(config, "rope_parameters", None) or {}
    for parameters in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if parameters.get("rope_type") == "longrope":
            limit = min(limit, int(parameters["original_max_position_embeddings"]))
    return limit - 2 if config.model_type in _OFFSET_POSITIONS else limit
