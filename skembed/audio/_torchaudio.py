"""The speech models that torchaudio has by name, and files with their weights.

Knows torchaudio's bundles; must not know rows nor keys.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from skembed.audio._backbone import (
    Backbone,
    BackboneSettings,
    Part,
    check_layer_number,
    least_samples,
    standardize,
)
from skembed.audio._network import load_speech
from skembed.audio._pooling import pooled_width
from skembed.audio._torchaudio_speech import as_transformers
from skembed.exceptions import InvalidParameterError, UnsupportedModelError
from skembed.modules import build_random, plain_names
from skembed.store import digest_of
from skembed.weights import file_sha256, find_checkpoint, load_state, releases_of

__all__ = ["TorchaudioBackbone", "bundle_names", "find_file"]

_FORMAT = 1
"""Raised when a change to skembed changes vectors, so that stored ones are not served."""

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


class TorchaudioBackbone(Backbone):
    """A wav2vec 2.0, HuBERT or WavLM of torchaudio's bundles.

    Parameters
    ----------
    name : str
        Of a bundle ("WAV2VEC2_BASE").
    settings : BackboneSettings
        `weights` is "auto" (the bundle's own), a file with a state dict, or None: random weights,
        always the same. `layer` is the number of a hidden state: 0 enters the first layer, -1
        leaves the last.

    Raises
    ------
    InvalidParameterError
        If the settings ask for what the model does not have.
    ModelNotFoundError
        If the weights are not to be had.
    """

    def __init__(self, name: str, settings: BackboneSettings) -> None:
        from torchaudio import pipelines

        self.name = name
        bundle: Any = getattr(pipelines, name)
        self.rate = int(bundle.sample_rate)
        self._params: dict[str, Any] = dict(bundle._params)
        self._kind: str = bundle._model_type
        self._is_standardized = bool(bundle._normalize_waveform)
        if settings.revision is not None:
            raise InvalidParameterError(
                f"revision={settings.revision!r}: only models of the hub have revisions."
            )
        n_layers = int(self._params["encoder_num_layers"])
        self._layer = check_layer_number(settings.layer, n_layers, name)
        self._pooling = "mean" if settings.pooling == "auto" else settings.pooling
        self.width = pooled_width(int(self._params["encoder_embed_dim"]), self._pooling)
        convolutions = self._params["extractor_conv_layer_config"]
        self.least = least_samples([(kernel, stride) for _, kernel, stride in convolutions])
        # Of one bundle it is a whole address already.
        self._file = find_file(settings.weights, name, urljoin(_URL, bundle._path))
        self._sha256 = None if self._file is None else file_sha256(self._file)
        libraries = ["torchaudio", "transformers"] + ["torch"] * (self._file is None)
        self.digest = digest_of(
            {
                "kind": "torchaudio bundle",
                "format": _FORMAT,
                "libraries": releases_of(*libraries),
                "name": name,
                "architecture": repr(sorted(self._params.items())),
                "weights": self._sha256 or "random",
                "layer": self._layer,
                "pooling": self._pooling,
            }
        )

    def __repr__(self) -> str:
        return f"TorchaudioBackbone({self.name!r}, width={self.width})"

    def prepare(self, samples: NDArray[np.float32]) -> Part:
        """Return the samples, standardised if the bundle wants that."""
        if self._is_standardized:
            samples = standardize(samples, _EPS)
        return Part(torch.from_numpy(samples))

    def load(self, dtype: torch.dtype, device: torch.device) -> nn.Module:
        """Load the network."""
        if self._file is None:
            state = build_random(self._build).state_dict()
            module = as_transformers(self._params, self._kind, state)
        else:
            module = self._read(self._file)
        return load_speech(
            module, layer=self._layer, pooling=self._pooling, dtype=dtype, device=device
        )

    def n_bytes(self) -> int:
        """Return the size of the weights in bytes."""
        if self._file is not None:
            return self._file.stat().st_size
        # Of a layer: attention 4 d^2, two products between d and the inner width.
        d, inner = self._params["encoder_embed_dim"], self._params["encoder_ff_interm_features"]
        return int(4 * self._params["encoder_num_layers"] * (4 * d * d + 2 * d * inner))

    def refuse_other_files(self) -> None:
        """Refuse weights that are not those of the digest, under which vectors are stored."""
        if self._file is not None and file_sha256(self._file) != self._sha256:
            raise UnsupportedModelError(
                f"{self._file} changed while the model was in use. Call again when it is written."
            )

    def _read(self, path: Path) -> Any:
        # The file is mapped to memory: a copy stays as it is when the file is written anew.
        state = {
            name: tensor.to(torch.float32, copy=True)
            for name, tensor in plain_names(load_state(path)).items()
        }
        try:
            return as_transformers(self._params, self._kind, state)
        except UnsupportedModelError as error:
            raise UnsupportedModelError(
                f"{path} does not hold the weights of {self.name}. {error}"
            ) from error

    def _build(self) -> nn.Module:
        from torchaudio import models

        build = models.wavlm_model if self._kind == "WavLM" else models.wav2vec2_model
        params = dict(self._params, aux_num_out=None)
        module: nn.Module = build(**params)
        return module


def find_file(weights: Any, name: str, url: str | None) -> Path | None:
    """Return the file with a model's weights, None for random ones.

    Raises
    ------
    InvalidParameterError
        If there is no such file.
    ModelNotFoundError
        If "auto" weights are neither there nor can be downloaded.
    """
    if weights is None:
        return None
    if weights == "auto" and url is not None:
        return find_checkpoint(url)
    path = Path(os.path.expanduser(weights))  # noqa: PTH111  (never raises)
    if path.is_file():
        return path
    own = "'auto' is its own weights, " if url is not None else "it has no weights of its own; "
    raise InvalidParameterError(
        f"weights={str(weights)!r} is no file with weights of {name}. {own}None is random weights."
    )
