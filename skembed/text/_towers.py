"""Models for texts and pictures (CLIP, SigLIP) or texts and sounds (CLAP): the part for texts.

Their text vectors are a projection of one token's state into the space shared with pictures or
sounds; with a named pooling, the states before that projection are pooled.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from skembed._backbone import Ending, Exported
from skembed.exceptions import UnsupportedModelError
from skembed.modules import fill_part
from skembed.store import digest_of
from skembed.text._backbone import TextSettings
from skembed.text._folder import TextFolder
from skembed.text._head import load_layer
from skembed.text._tokens import Padding
from skembed.text._transformers import TransformerBackbone, position_limit
from skembed.weights import FolderSource

__all__ = ["TOWERS", "TowerBackbone", "refuse_other_towers"]


@dataclass(frozen=True)
class _Tower:
    """Of a kind of model: the class of transformers that reads its texts, and what follows it."""

    architecture: str
    head: tuple[str, ...]  # layers by the end of their weights' names, and activations
    has_bias: bool = False  # whether these layers have
    pooling: str = "last_token"
    is_padded: bool = False  # trained on rows with padding, which is not masked
    normalizes: bool = False  # whether unit length is part of `get_text_features`
    part: str = ""  # what the weights' names begin with in a whole model, where not in this class


_CLIP = _Tower("CLIPTextModel", ("text_projection",))
_META_CLIP = _Tower("MetaClip2TextModel", ("text_projection",))
_SIGLIP = _Tower("SiglipTextModel", ("head",), has_bias=True, is_padded=True)
_SIGLIP2 = _Tower("Siglip2TextModel", ("head",), has_bias=True, is_padded=True)
_CLAP = _Tower(
    "ClapTextModelWithProjection",
    ("pooler.dense", "tanh", "text_projection.linear1", "act", "text_projection.linear2"),
    has_bias=True,
    pooling="cls",
    normalizes=True,
)
TOWERS = {
    **dict.fromkeys(("clip", "clip_text_model"), _CLIP),
    **dict.fromkeys(("metaclip_2", "metaclip_2_text_model"), _META_CLIP),
    **dict.fromkeys(("siglip", "siglip_text_model"), _SIGLIP),
    **dict.fromkeys(("siglip2", "siglip2_text_model"), _SIGLIP2),
    **dict.fromkeys(("clap", "clap_text_model"), _CLAP),
    "align": _Tower("AlignTextModel", ("text_projection",), True, "cls", part="text_model."),
    "chinese_clip": _Tower(
        "ChineseCLIPTextModel", ("text_projection",), pooling="cls", part="text_model."
    ),
}
"""By the `model_type` of the whole model's configuration or of the part's alone."""

_OTHERS = ("vision_model.", "visual_projection.", "audio_model.", "audio_projection.")
"""What weights of the other part are called."""


def refuse_other_towers(config: Any, name: str) -> None:
    """Refuse models that compare texts with something else in a way that is not known here."""
    from transformers import MODEL_MAPPING

    architecture = MODEL_MAPPING.get(type(config), None)
    if hasattr(architecture, "get_text_features") and config.model_type not in TOWERS:
        known = sorted(kind for kind in TOWERS if not kind.endswith("_text_model"))
        raise UnsupportedModelError(
            f"{name} compares texts with pictures or sounds, as a model of type "
            f"{config.model_type!r}; TextEmbedder reads the texts of {', '.join(known)}."
        )


class TowerBackbone(TransformerBackbone):
    """The part that reads texts of a model that also reads pictures or sounds."""

    can_be_placed = False

    def __init__(
        self, source: FolderSource, folder: TextFolder, config: Any, settings: TextSettings
    ) -> None:
        self._tower = TOWERS[config.model_type]
        part = copy.deepcopy(getattr(config, "text_config", None) or config)
        # The whole model's projection has this width, whatever the part's settings say.
        width = part.projection_size if self._tower.is_padded else config.projection_dim
        if not self._tower.is_padded:
            part.projection_dim = width
        is_whole = getattr(config, "text_config", None) is not None
        is_projected = self._tower.is_padded or is_whole
        is_projected |= any("WithProjection" in name for name in config.architectures or ())
        is_wanted = settings.pooling == "auto" and is_projected
        self._projection_width = int(width) if is_wanted else None
        super().__init__(source, folder, part, settings)
        self.digest = digest_of({"backbone": self.digest, "projected": self._projection_width})
        if self._projection_width is None:
            return
        self.normalizes |= self._tower.normalizes and is_whole
        if self._tower.pooling == "last_token" and not self._tower.is_padded:
            self._refuse_other_end()

    def _own_pooling(self, folder: TextFolder) -> str:
        return self._tower.pooling if folder.pooling is None else super()._own_pooling(folder)

    def _row_padding(self) -> Padding | None:
        if not self._tower.is_padded:
            return None
        limit = position_limit(self.config) or 64
        length = min(int(self._tokenizer.model_max_length), limit)
        return Padding(length, self._pad_token_id(), self._tokenizer.padding_side == "left")

    def _width_of_states(self) -> int:
        return self._projection_width or super()._width_of_states()

    def _load_transformer(self, dtype: torch.dtype | None, **placed: Any) -> Any:
        import transformers

        tower = self._tower
        whole = self._load_pretrained(
            getattr(transformers, tower.architecture), dtype, left_out=_OTHERS, part=tower.part
        )
        model = getattr(whole, "text_model", whole)
        if tower.is_padded:
            model.head = nn.Identity()
        if hasattr(model, "pooler"):  # it would take the first of all rows that are packed
            model.pooler = None
        # CLAP and ALIGN do not say so, though their attention is looked up by name.
        model._supports_attention_backend = True
        found = model.embeddings
        if hasattr(found, "token_embedding"):
            model.embeddings = _Embeddings(found.token_embedding, found.position_embedding)
        elif "token_type_ids" in found._buffers:
            del (
                found.token_type_ids
            )  # zeros, as many as a row may have tokens: packed ones have more
        return model

    def export(self, module: nn.Module, folder: Path, ending: Ending) -> Exported:
        """Write the part that reads texts, its projection as a Dense module."""
        if self._tower.is_padded:
            raise UnsupportedModelError(
                f"{self.name} reads padding as it reads words; sentence-transformers has no folder "
                "for such a text model, so it cannot be exported."
            )
        from transformers import MODEL_MAPPING

        if type(self.config) not in MODEL_MAPPING:
            raise UnsupportedModelError(
                f"{self.name} reads texts with a {self._tower.architecture}, which "
                "sentence-transformers does not load by itself, so it cannot be exported."
            )
        return super().export(module, folder, ending)

    def _whole(self, model: Any) -> tuple[Any, frozenset[str]]:
        import transformers

        whole = getattr(transformers, self._tower.architecture)._from_config(self.config)
        fill_part(getattr(whole, "text_model", whole), model)
        return whole, frozenset()

    def _load_projection(self) -> list[nn.Module]:
        if self._projection_width is None:
            return []
        activations = {"tanh": nn.Tanh, "act": self._activation}
        layers, width = list[nn.Module](), int(self.config.hidden_size)
        for name in self._tower.head:
            if name in activations:
                layers.append(activations[name]())
                continue
            n_out = width if name.startswith("pooler.") else self._projection_width
            layer = skip_init(nn.Linear, width, n_out, bias=self._tower.has_bias)
            layers.append(load_layer(layer, self._transformer, name))
            width = n_out
        return layers

    def _activation(self) -> nn.Module:
        from transformers.activations import ACT2FN

        found: nn.Module = ACT2FN[self.config.projection_hidden_act]
        return found

    def _refuse_other_end(self) -> None:
        """Refuse a model that takes a text's vector from another token than the last.

        transformers takes it from the first token with the configuration's `eos_token_id`; where
        that is 2, as in OpenAI's checkpoints, from the token with the highest id.
        """
        last = self.tokens.after[-1] if self.tokens.after else None
        expected = getattr(self.config, "eos_token_id", None)
        if expected == 2:
            expected = max(self._tokenizer.get_vocab().values())
        if last != expected:
            raise UnsupportedModelError(
                f"{self.name} takes a text's vector from token {expected} (its eos_token_id, or "
                f"the highest if that is 2), but its tokenizer ends texts with {last}. Fix "
                "eos_token_id in its configuration, or its tokenizer."
            )


class _Embeddings(nn.Module):
    """CLIP's and SigLIP's embeddings, without their check of a sequence's length.

    Packed rows are one sequence, longer than any row; positions are each row's own.
    """

    def __init__(self, tokens: nn.Module, positions: nn.Module) -> None:
        super().__init__()
        self.token_embedding, self.position_embedding = tokens, positions

    def forward(
        self, input_ids: Tensor, position_ids: Tensor | None = None, inputs_embeds: None = None
    ) -> Tensor:
        """Return the states that enter the first layer, shape (rows, tokens, d)."""
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[-1], device=input_ids.device)[None]
        states: Tensor = self.token_embedding(input_ids) + self.position_embedding(position_ids)
        return states
