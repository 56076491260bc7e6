"""Which family of models a `model` parameter means."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

from torch import nn

from skembed.audio._backbone import Backbone, BackboneSettings
from skembed.audio._baseline import BASELINES, BaselineBackbone
from skembed.audio._deepspeech import DeepSpeechBackbone
from skembed.audio._models import AUDIO_MODELS
from skembed.audio._modules import ModuleBackbone
from skembed.audio._preprocess import Preprocess
from skembed.audio._processor import has_processor
from skembed.audio._torchaudio import TorchaudioBackbone, bundle_names
from skembed.audio._transformers import TransformersBackbone
from skembed.exceptions import InvalidParameterError
from skembed.weights import resolve_model

__all__ = ["DEFAULT_RATE", "find_backbone"]

DEFAULT_RATE = 16_000
"""Of modules of the user's, in Hz: that of nearly all models of speech."""


def find_backbone(
    model: Any, preprocess: Preprocess | None, settings: BackboneSettings
) -> Backbone:
    """Return the backbone for a model of any kind.

    Parameters
    ----------
    model : Module, path or str
        A module; a folder; "logmel", "mfcc" or "deepspeech"; the name of a bundle of torchaudio
        ("WAV2VEC2_BASE"); or the id of a model on the hub ("facebook/wav2vec2-base").
    preprocess : Preprocess or None
        What prepares clips for a module.
    settings : BackboneSettings
        What the user asked of it.

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
        rate = settings.model_sampling_rate or DEFAULT_RATE
        return ModuleBackbone(model, preprocess, settings, rate)
    name = os.fspath(model)
    if preprocess is not None:
        raise InvalidParameterError(
            f"preprocess is for a torch.nn.Module of your own; model={name!r} prepares clips as it "
            "was trained. Leave preprocess=None."
        )
    found = _find(name, settings, is_path=isinstance(model, os.PathLike))
    rate = settings.model_sampling_rate or found.rate
    if rate != found.rate:
        raise InvalidParameterError(
            f"model_sampling_rate={rate}, but {name!r} takes {found.rate:,} Hz. Leave it at None: "
            "clips are resampled to that."
        )
    return found


def _find(name: str, settings: BackboneSettings, *, is_path: bool) -> Backbone:
    if not is_path:
        if not name.strip():
            raise InvalidParameterError(f"model={name!r}: expected the name of a model.")
        if name in BASELINES:
            return BaselineBackbone(name, settings)
        if name == "deepspeech":
            return DeepSpeechBackbone(settings)
        if name in bundle_names():
            return TorchaudioBackbone(name, settings)
        if not (_is_place(name) or Path(name).is_dir()):
            _refuse_name(name)
    return TransformersBackbone(
        resolve_model(
            name if not is_path else Path(name),
            revision=settings.revision,
            is_whole=has_processor,
        ),
        settings,
    )


def _is_place(name: str) -> bool:
    return "/" in name or os.sep in name or name in (".", "..", "~")


def _refuse_name(name: str) -> None:
    known = {each.lower(): each for each in sorted({*AUDIO_MODELS, *bundle_names()})}
    found = difflib.get_close_matches(name.lower(), known, n=5, cutoff=0.5)
    close = [known[each] for each in found]
    bundles = "" if close else f"; torchaudio's bundles are {', '.join(bundle_names())}"
    hint = f"Close to it: {', '.join(map(repr, close))}. " if close else ""
    raise InvalidParameterError(
        f"model={name!r} is no folder, and torchaudio has no speech model of this name. {hint}"
        "Models of the hub have an owner ('facebook/wav2vec2-base')"
        f"{bundles}."
    )
