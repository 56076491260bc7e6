"""From settings to the backbone of a text model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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

__all__ = ["TextSettings", "find_backbone"]


@dataclass(frozen=True)
class TextSettings:
    """What the user asked for, as the estimator's parameters say it."""

    model: str | Path
    revision: str | None
    trust_remote_code: bool
    pooling: str
    prompt: str | None
    max_length: int | None
    normalize: bool | str
    n_components: int | None
    in_chunks: bool
    dtype: str


def find_backbone(settings: TextSettings) -> TransformerBackbone:
    """Return the backbone for these settings; the same one as long as the model's files are.

    Raises
    ------
    ModelNotFoundError
        If there is no such model.
    UnsupportedModelError
        If its files cannot be used.
    InvalidParameterError
        If the model cannot do what the settings ask for.
    """
    source = resolve_model(settings.model, revision=settings.revision)
    asked = {
        "pooling": settings.pooling,
        "prompt": settings.prompt,
        "max_length": settings.max_length,
        "trust_remote_code": settings.trust_remote_code,
    }
    place = (source.digest, str(source.folder), source.name)
    key = ("text backbone", *place, *asked.values())
    return kept_recent(key, lambda: _make_backbone(source, **asked))


def _make_backbone(
    source: FolderSource, *, trust_remote_code: bool, **asked: object
) -> TransformerBackbone:
    folder = read_folder(source.folder)
    check_weights(folder.transformer)
    source.weights_folder = folder.transformer
    if trust_remote_code:
        refuse_code_from_elsewhere(folder.transformer)
    config = load_config(folder.transformer, trust_remote_code=trust_remote_code)
    family = TowerBackbone if config.model_type in TOWERS else TransformerBackbone
    return family(source, folder, config, trust_remote_code=trust_remote_code, **asked)
