"""Which family of models a `model` parameter means, and its one backbone."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from skembed._backbone import Backbone
from skembed.exceptions import InvalidParameterError, SkembedWarning, warn_user
from skembed.modules import JOINT_MODELS
from skembed.text._backbone import TextSettings
from skembed.text._elmo import find_elmo
from skembed.text._families import family_of
from skembed.text._folder import completed, read_folder
from skembed.text._gguf import find_gguf_backbone
from skembed.text._joint import JointBackbone
from skembed.text._models import MODELS
from skembed.text._modules import find_module
from skembed.text._towers import TOWERS, TowerBackbone, refuse_other_towers
from skembed.text._transformers import TransformerBackbone
from skembed.text.hosted._backbone import find_hosted
from skembed.text.static._folder import find_static, find_static_folder
from skembed.text.static._kinds import is_static_folder
from skembed.weights import (
    FolderSource,
    check_weights,
    kept_recent,
    load_config,
    refuse_code_from_elsewhere,
    resolve_model,
)

__all__ = ["find_backbone"]

_FINDERS: dict[str, Callable[[TextSettings], Backbone]] = {
    "elmo": find_elmo,
    "gguf": find_gguf_backbone,
    "hosted": find_hosted,
    "static": find_static,
}
"""By `family_of` a model; the others are transformers."""

_FAMILIES: dict[str, type[TransformerBackbone]] = {
    **dict.fromkeys(TOWERS, TowerBackbone),
    **{kind + end: JointBackbone for kind in JOINT_MODELS for end in ("", "_text")},
}
"""By the `model_type` of a configuration; the others are transformers over tokens."""


def find_backbone(settings: TextSettings) -> Backbone:
    """Return the backbone for these settings; the same one while its content is the same."""
    if isinstance(settings.model, nn.Module):
        return find_module(settings.model, settings)
    if settings.tokenizer is not None:
        raise InvalidParameterError(
            "tokenizer: only a torch.nn.Module needs one; a folder or a model on the hub has its "
            "tokenizer among its files."
        )
    find = _FINDERS.get(family_of(settings.model))
    if find is not None:
        return find(settings)
    source = resolve_model(settings.model, revision=settings.revision, known=MODELS)
    if is_static_folder(source.folder):
        return find_static_folder(source, settings)
    key = (
        *("text backbone", source.digest, str(source.folder), source.name),
        *(settings.pooling, settings.prompt, settings.attention, settings.max_length),
        settings.trust_remote_code,
    )

    def make() -> TransformerBackbone:
        found: TransformerBackbone = source.read(lambda: _read_folder(source, settings))
        return found

    return kept_recent(key, make)


def _read_folder(source: FolderSource, settings: TextSettings) -> TransformerBackbone:
    """Return the backbone of a folder as transformers or sentence-transformers writes it."""
    folder = completed(read_folder(source.folder), MODELS.get(source.name))
    check_weights(folder.transformer)
    if settings.trust_remote_code:
        refuse_code_from_elsewhere(folder.transformer)
    config = load_config(folder.transformer, trust_remote_code=settings.trust_remote_code)
    refuse_other_towers(config, source.name)
    family = _FAMILIES.get(config.model_type, TransformerBackbone)
    judges = [name for name in config.architectures or () if "SequenceClassification" in name]
    if judges and folder.pooling is None and settings.pooling == "auto":
        warn_user(
            f"{source.name} was trained to classify or compare texts ({judges[0]}), perhaps as a "
            "cross-encoder; its last layer is left out and the states before it are pooled, which "
            "it was not trained for. Use an embedding model, or set pooling to confirm.",
            SkembedWarning,
            once=f"judge {source.name}",
        )
    return family(source, folder, config, settings)
