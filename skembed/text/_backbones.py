"""From settings to the backbone of a text model."""

from __future__ import annotations

from skembed.text._backbone import TextSettings
from skembed.text._folder import read_folder
from skembed.text._towers import TOWERS, TowerBackbone
from skembed.text._transformers import TransformerBackbone
from skembed.weights import (
    FolderSource,
    check_weights,
    kept_recent,
    load_config,
    refuse_code_from_elsewhere,
    resolve_model,
)

__all__ = ["find_backbone"]


def find_backbone(settings: TextSettings) -> TransformerBackbone:
    """Return the backbone for these settings; the same one as long as the model's files are."""
    source = resolve_model(settings.model, revision=settings.revision)
    key = (
        *("text backbone", source.digest, str(source.folder), source.name),
        *(settings.pooling, settings.prompt, settings.max_length, settings.trust_remote_code),
    )
    return kept_recent(key, lambda: _make_backbone(source, settings))


def _make_backbone(source: FolderSource, settings: TextSettings) -> TransformerBackbone:
    folder = read_folder(source.folder)
    check_weights(folder.transformer)
    if settings.trust_remote_code:
        refuse_code_from_elsewhere(folder.transformer)
    config = load_config(folder.transformer, trust_remote_code=settings.trust_remote_code)
    family = TowerBackbone if config.model_type in TOWERS else TransformerBackbone
    return family(source, folder, config, settings)
