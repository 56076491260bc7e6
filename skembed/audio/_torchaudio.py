"""The speech models that torchaudio has by name, and files with their weights.

Knows torchaudio's bundles; must not know rows nor keys.
"""

from __future__ import annotations

import functools
from typing import Any
from urllib.parse import urljoin

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from skembed._backbone import Source
from skembed.audio._backbone import (
    AudioBackbone,
    AudioSettings,
    check_layer_number,
    least_samples,
    refuse_settings,
    standardize,
)
from skembed.audio._clips import Part
from skembed.audio._torchaudio_speech import as_transformers
from skembed.exceptions import UnsupportedModelError
from skembed.modules import SpeechModel, build_random, plain_names
from skembed.weights import FileSource, load_state, releases_of

__all__ = ["TorchaudioBackbone", "bundle_names", "bundle_url"]

_URL = "https://download.pytorch.org/torchaudio/models/"

# torchaudio's own, of `torch.nn.functional.layer_norm`.
_EPS = 1e-5


@functools.cache
def bundle_names() -> tuple[str, ...]:
    """Return the names of torchaudio's speech models."""
    from torchaudio import pipelines

    return tuple(
        name for name in pipelines.__all__ if hasattr(getattr(pipelines, name), "_model_type")
    )


def bundle_url(name: str) -> str:
    """Return where the weights of a bundle are."""
    # Of one bundle it is a whole address already.
    return urljoin(_URL, _bundle(name)._path)


def _bundle(name: str) -> Any:
    from torchaudio import pipelines

    return getattr(pipelines, name)


class TorchaudioBackbone(AudioBackbone):
    """A wav2vec 2.0, HuBERT or WavLM of torchaudio's bundles; `layer` numbers a hidden state."""

    def __init__(self, source: Source, settings: AudioSettings) -> None:
        self.name, self.source = str(settings.model), source
        bundle = _bundle(self.name)
        self.rate = int(bundle.sample_rate)
        self._params: dict[str, Any] = dict(bundle._params)
        self._kind: str = bundle._model_type
        self._is_standardized = bool(bundle._normalize_waveform)
        why = "only models of the hub have revisions"
        refuse_settings(settings, self.name, why=why, revision=None)
        n_layers = int(self._params["encoder_num_layers"])
        self._layer = check_layer_number(settings.layer, n_layers, self.name)
        self._take_pooling(settings.pooling, int(self._params["encoder_embed_dim"]))
        convolutions = self._params["extractor_conv_layer_config"]
        self.least = least_samples([(kernel, stride) for _, kernel, stride in convolutions])
        self._take_digests(
            name=self.name,
            architecture=repr(sorted(self._params.items())),
            layer=self._layer,
            libraries=releases_of("torchaudio", "transformers"),
        )

    def _prepare(self, samples: NDArray[np.float32]) -> Part:
        if self._is_standardized:
            samples = standardize(samples, _EPS)
        return Part(torch.from_numpy(samples))

    def _load_core(self) -> nn.Module:
        if not isinstance(self.source, FileSource):
            return self._made_of(build_random(self._build).state_dict())
        # The file is mapped to memory: a copy stays as it is when the file is written anew.
        state = {
            name: tensor.to(torch.float32, copy=True)
            for name, tensor in plain_names(load_state(self.source.path)).items()
        }
        try:
            return self._made_of(state)
        except UnsupportedModelError as error:
            raise UnsupportedModelError(
                f"{self.source.path} does not hold the weights of {self.name}. {error}"
            ) from error

    def _made_of(self, state: dict[str, Any]) -> SpeechModel:
        return SpeechModel(as_transformers(self._params, self._kind, state), self._layer).eval()

    def _build(self) -> nn.Module:
        from torchaudio import models

        build = models.wavlm_model if self._kind == "WavLM" else models.wav2vec2_model
        params = dict(self._params, aux_num_out=None)
        module: nn.Module = build(**params)
        return module
