"""Which family of models a `model` parameter means."""

from __future__ import annotations

import os
from pathlib import Path

from torch import nn

from skembed.exceptions import InvalidParameterError, UnsupportedModelError
from skembed.image._backbone import ImageBackbone, ImageSettings
from skembed.image._joint import find_joint
from skembed.image._models import MODELS
from skembed.image._modules import find_module
from skembed.image._preprocess import find_preprocess
from skembed.image._timm import find_timm, is_timm_folder
from skembed.image._torchvision import find_torchvision
from skembed.image._transformers import find_transformers
from skembed.modules import JOINT_MODELS
from skembed.weights import (
    FolderSource,
    has_processor,
    kind_of,
    looks_like_a_file,
    read_modules,
    resolve_model,
)

__all__ = ["find_backbone"]

_CLIP_MODULE = "CLIPModel"
"""What sentence-transformers calls its CLIP; the module that it is in has changed with releases."""


def find_backbone(settings: ImageSettings) -> ImageBackbone:
    """Return the backbone of a model of any kind; the same one while nothing has changed.

    The model is a module; a folder; the name of a torchvision model ("resnet50"); the id of a model
    on the hub ("facebook/dinov2-small"); or "timm:" and the name of one of timm's.
    """
    model = settings.model
    preprocess = None if settings.preprocess is None else find_preprocess(settings.preprocess)
    if isinstance(model, nn.Module):
        return find_module(model, settings, preprocess)
    if isinstance(model, str):
        scheme, colon, rest = model.partition(":")
        if scheme == "timm" and colon:
            return find_timm(rest, settings, preprocess)
        if not _is_place(model):
            return find_torchvision(model, settings, preprocess)
    source = resolve_model(model, revision=settings.revision, is_whole=_is_whole, known=MODELS)
    if is_timm_folder(source.folder):
        return find_timm(source, settings, preprocess)
    if (source.folder / "modules.json").is_file():
        part = _part_of_pictures(source.folder)
        source = FolderSource(source.name, part, source.origin, source.revision)
    if kind_of(source.folder) in JOINT_MODELS:
        return find_joint(source, settings, preprocess)
    return find_transformers(source, settings, preprocess)


def _part_of_pictures(folder: Path) -> Path:
    """Return where a folder of sentence-transformers has its CLIP; itself if it has none."""
    modules = read_modules(folder)
    kinds = [kind.rpartition(".")[2] for kind, _ in modules]
    if kinds[:1] != [_CLIP_MODULE]:
        return folder
    if len(kinds) > 1:
        raise UnsupportedModelError(
            f"{folder} chains the modules {', '.join(kinds)}; for pictures skembed reads only a "
            f"{_CLIP_MODULE}: {modules[0][1]}, with normalize=True if a Normalize follows it."
        )
    return modules[0][1]


def _is_whole(folder: Path) -> bool:
    return has_processor(folder, "image_processor") or is_timm_folder(folder)


def _is_place(name: str) -> bool:
    """Return whether a name is that of a folder or of a model on the hub.

    Names of torchvision are neither, whatever folders lie around.
    """
    if not name.strip():
        raise InvalidParameterError(f"model={name!r}: expected the name of a model.")
    row = MODELS.get(name)
    if row is not None and row.is_torchvision:
        return False
    if "/" in name or os.sep in name or name in (".", "..", "~"):
        return True
    return Path(name).exists() or looks_like_a_file(name)
