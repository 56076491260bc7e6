"""Which family of models a `model` parameter means."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from skembed.exceptions import InvalidParameterError, UnsupportedModelError
from skembed.image._backbone import Backbone, BackboneSettings
from skembed.image._models import IMAGE_MODELS
from skembed.image._modules import ModuleBackbone
from skembed.image._preprocess import Preprocess, probe_pixels
from skembed.image._processor import has_processor
from skembed.image._timm import TimmBackbone, is_timm_folder
from skembed.image._torchvision import TorchvisionBackbone
from skembed.image._transformers import TransformersBackbone
from skembed.weights import read_modules, resolve_model

__all__ = ["find_backbone"]

_CLIP_MODULE = "CLIPModel"
"""What sentence-transformers calls its CLIP; the module that it is in has changed with releases."""


def find_backbone(
    model: Any,
    preprocess: Preprocess | None,
    settings: BackboneSettings,
    *,
    image_size: tuple[int, int] | None = None,
) -> Backbone:
    """Return the backbone for a model of any kind.

    Parameters
    ----------
    model : Module, path or str
        A module; a folder; the name of a torchvision model ("resnet50"); the id of a model on the
        hub ("facebook/dinov2-small"); or "timm:" and the name of one of timm's.
    preprocess : Preprocess or None
        What the user prepares pictures with.
    settings : BackboneSettings
        What the user asked of it.
    image_size : tuple of int or None
        (height, width) of the user's pictures, where that is known.

    Raises
    ------
    InvalidParameterError
        If the name could name none, or settings do not go with it.
    ModelNotFoundError
        If there is no such model.
    UnsupportedModelError
        If it cannot be run.
    """
    if isinstance(model, nn.Module):
        if preprocess is None:
            raise InvalidParameterError(
                f"preprocess=None, but model={type(model).__name__}, a torch.nn.Module, needs to "
                "be told what its input is: set preprocess to a callable from a PIL image in mode "
                "RGB to a float tensor (channels, height, width), such as "
                "torchvision.models.ResNet50_Weights.DEFAULT.transforms()."
            )
        return ModuleBackbone(model, probe_pixels(preprocess, image_size), settings)
    name = os.fspath(model)
    scheme, colon, rest = name.partition(":")
    if scheme == "timm" and colon and not isinstance(model, os.PathLike):
        return TimmBackbone(rest, settings)
    if not (isinstance(model, os.PathLike) or _is_place(name)):
        return TorchvisionBackbone(name, settings)
    source = resolve_model(model, revision=settings.revision, is_whole=_says_how_to_prepare)
    if is_timm_folder(source.folder):
        return TimmBackbone(source, settings)
    if (source.folder / "modules.json").is_file():
        source = replace(source, folder=_part_of_pictures(source.folder))
    return TransformersBackbone(source, settings, has_preprocess=preprocess is not None)


def _part_of_pictures(folder: Path) -> Path:
    """Return where a folder of sentence-transformers has its CLIP; itself if it has none."""
    modules = read_modules(folder)
    kinds = [kind.rpartition(".")[2] for kind, _ in modules]
    if kinds[:1] != [_CLIP_MODULE]:
        return folder
    if len(kinds) > 1:
        raise UnsupportedModelError(
            f"{folder} chains the modules {', '.join(kinds)}; skembed reads a {_CLIP_MODULE} alone "
            f"for pictures. Give the folder of that, {modules[0][1]}, and set normalize=True if "
            "there is a Normalize after it."
        )
    return modules[0][1]


def _says_how_to_prepare(folder: Path) -> bool:
    return has_processor(folder) or is_timm_folder(folder)


def _is_place(name: str) -> bool:
    """Return whether a name is that of a folder or of a model on the hub.

    Names of torchvision are neither, whatever folders lie around.
    """
    if not name.strip():
        raise InvalidParameterError(f"model={name!r}: expected the name of a model.")
    row = IMAGE_MODELS.get(name)
    if row is not None and row.is_torchvision:
        return False
    return "/" in name or os.sep in name or name in (".", "..", "~") or Path(name).is_dir()
