"""Which family of models a `model` parameter means, and its one backbone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn

from skembed._backbone import Source
from skembed.audio._backbone import AudioBackbone, AudioSettings
from skembed.audio._deepspeech import DeepSpeechBackbone
from skembed.audio._joint import JointBackbone
from skembed.audio._models import MODELS
from skembed.audio._modules import find_module
from skembed.audio._spectra import BASELINES, BaselineBackbone
from skembed.audio._torchaudio import TorchaudioBackbone, bundle_names, bundle_url
from skembed.audio._transformers import TransformersBackbone
from skembed.exceptions import InvalidParameterError, did_you_mean
from skembed.modules import JOINT_MODELS
from skembed.weights import (
    FileSource,
    RandomSource,
    find_checkpoint,
    has_processor,
    kept_recent,
    kind_of,
    looks_like_a_file,
    resolve_model,
)

__all__ = ["find_backbone"]


def find_backbone(settings: AudioSettings) -> AudioBackbone:
    """Return the backbone of a model of any kind, the same one while its content is the same."""
    model = settings.model
    if isinstance(model, nn.Module):
        return find_module(model, settings)
    if settings.preprocess is not None:
        raise InvalidParameterError(
            f"preprocess is for your own torch.nn.Module; model={str(model)!r} prepares clips as "
            "in its training. Leave preprocess=None."
        )
    family, source = _find_family(settings)
    key = (
        family,
        source.digest,
        *(str(settings.model), settings.weights, settings.layer, settings.pooling),
        *(settings.revision, settings.trust_remote_code),
    )
    found: AudioBackbone = kept_recent(key, lambda: source.read(lambda: family(source, settings)))
    if settings.model_sampling_rate not in (None, found.rate):
        raise InvalidParameterError(
            f"model_sampling_rate={settings.model_sampling_rate}, but {str(model)!r} takes "
            f"{found.rate:,} Hz. Leave it at None: clips are resampled to that rate."
        )
    return found


def _find_family(settings: AudioSettings) -> tuple[Any, Source]:
    """Return the class of a backbone, and what it is read from."""
    name = str(settings.model)
    if isinstance(settings.model, str):
        if not name.strip():
            raise InvalidParameterError(f"model={name!r}: expected the name of a model.")
        if name in BASELINES:  # like random weights, what torch computes
            return BaselineBackbone, RandomSource(name, lambda: 0)
        if name == "deepspeech":
            return DeepSpeechBackbone, _find_weights(settings.weights, name, None)
        if name in bundle_names():
            return TorchaudioBackbone, _find_weights(settings.weights, name, bundle_url(name))
        if not _is_place(name):
            _refuse_name(name)
    place: Any = settings.model
    found = resolve_model(place, revision=settings.revision, is_whole=_is_whole, known=MODELS)
    return JointBackbone if kind_of(found.folder) in JOINT_MODELS else TransformersBackbone, found


def _find_weights(weights: Any, name: str, url: str | None) -> Source:
    """Return the file with a model's weights, or random ones."""
    if weights is None:
        return RandomSource(name, lambda: 0)
    if weights == "auto" and url is not None:
        return FileSource(name, find_checkpoint(url))
    path = Path(os.path.expanduser(weights))  # noqa: PTH111  (never raises)
    if path.is_file():
        return FileSource(name, path)
    own = f"no weights of {name} are published" if url is None else "'auto' is its own weights"
    raise InvalidParameterError(
        f"weights={str(weights)!r}: expected a file with a state dict for {name}; {own}, None is "
        f"random weights. The working directory is {Path.cwd()}."
    )


def _is_whole(folder: Path) -> bool:
    return has_processor(folder, "feature_extractor")


def _is_place(name: str) -> bool:
    if "/" in name or os.sep in name or name in (".", "..", "~"):
        return True
    return Path(name).exists() or looks_like_a_file(name)


def _refuse_name(name: str) -> None:
    close = did_you_mean(name, {*MODELS, *bundle_names()}, n=3) or " See skembed.list_models."
    raise InvalidParameterError(
        f"model={name!r} is neither a folder nor a torchaudio speech model.{close} Hub models have "
        "an owner ('facebook/wav2vec2-base')."
    )
