"""Audio models of transformers, from a folder or the hub: which part runs, and what it gives.

Knows checkpoints of transformers; must not know rows nor keys.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

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
)
from skembed.audio._network import load_speech, load_stacked
from skembed.audio._pooling import pooled_width, refuse_pooling
from skembed.audio._processor import Processor, has_processor, load_processor
from skembed.audio._states import N_TOKENS_OF_AST, AudioStates, make_states, patch_grid
from skembed.exceptions import InvalidParameterError, UnsupportedModelError
from skembed.modules import find_unused
from skembed.store import digest_of
from skembed.weights import (
    ModelSource,
    check_weights,
    folder_digest,
    kept_recent,
    load_config,
    load_pretrained,
    refuse_code_from_elsewhere,
    releases_of,
)

__all__ = ["TransformersBackbone"]

_FORMAT = 1
"""Raised when a change to skembed changes vectors, so that stored ones are not served."""

_PACKED = {"wav2vec2", "hubert", "wavlm", "data2vec-audio", "unispeech", "unispeech-sat"}
"""Models of waveforms that `speech_network` runs on clips of any lengths at once."""

_STACKED = {"sew", "sew-d", "wav2vec2-conformer"}
"""Other models of waveforms: clips of equal length run together."""

# Used in training alone; many checkpoints lack it.
_UNUSED = "masked_spec_embed"


class TransformersBackbone(Backbone):
    """An audio model of transformers, in a folder.

    `pooling="auto"` is the vector that the model has for a clip: of CLAP the one in the space that
    it shares with texts, of AST the mean of its class and distillation tokens after the last norm;
    of the others the mean of the last frames. Whisper fills clips up to 30 s: the mean is that of
    the clip's own frames.

    Parameters
    ----------
    source : ModelSource
        Where the model's files are.
    settings : BackboneSettings
        `layer` is the number of a hidden state: 0 enters the first layer, -1 leaves the last. Of
        models that are not of the wav2vec 2.0 kind also the name of a submodule.

    Raises
    ------
    InvalidParameterError
        If the settings ask for what the model does not have.
    UnsafeModelError
        If the model needs code of its own and the user did not allow that.
    UnsupportedModelError
        If it is no model of sound that skembed knows, or its files lack a part.
    """

    def __init__(self, source: ModelSource, settings: BackboneSettings) -> None:
        self.name = source.name
        self.source = source
        self._settings = settings
        self.is_foreign = settings.trust_remote_code
        if settings.weights != "auto":
            raise InvalidParameterError(
                f"weights={settings.weights!r}, but the model {source.name!r} brings its own. "
                "Leave weights='auto', or give the folder of another checkpoint as the model."
            )
        self._files_digest = folder_digest(source.folder)
        check_weights(source.folder)
        if settings.trust_remote_code:
            refuse_code_from_elsewhere(source.folder)
        config = load_config(source.folder, trust_remote_code=settings.trust_remote_code)
        self._kind = str(config.model_type)
        self._refuse_other_kinds()
        self._processor = self._load_processor()
        self.rate, self.limit = self._processor.rate, self._processor.limit
        self._auto, self._config = _find_part(config)
        if hasattr(config, "conv_kernel"):
            windows = list(zip(config.conv_kernel, config.conv_stride, strict=True))
            # SEW averages so many frames to one.
            squeezed = int(getattr(config, "squeeze_factor", 1))
            self.least = least_samples([*windows, (squeezed, squeezed)])
        elif self._kind == "audio-spectrogram-transformer":
            self.least = self.rate // 40  # a window of 25 ms
        self.digest = digest_of(
            {
                "kind": "audio model of transformers",
                "format": _FORMAT,
                "libraries": releases_of("transformers", "torchaudio"),
                "files": self._files_digest,
                "layer": settings.layer,
                "pooling": settings.pooling,
                "trust_remote_code": settings.trust_remote_code,
            }
        )
        self._layer: int | None = None
        self._n_prefix = 0
        if self._kind in _PACKED:
            n_layers = int(self._config.num_hidden_layers)
            self._layer = check_layer_number(settings.layer, n_layers, self.name)
            self._pooling: str | None = _mean_if_auto(settings.pooling)
            self.width = pooled_width(int(self._config.hidden_size), str(self._pooling))
        else:
            key = digest_of({"kind": "audio plan", "backbone": self.digest})
            found: tuple[str | None, int, int] = kept_recent(key, self._make_plan)
            self._pooling, self.width, self._n_prefix = found

    def __repr__(self) -> str:
        return f"TransformersBackbone({self.name!r}, width={self.width})"

    def prepare(self, samples: NDArray[np.float32]) -> Part:
        """Turn samples (n,) into what the model takes."""
        values = self._processor.prepare(samples)
        hop = int(self._processor.frame or 1)
        if self._kind == "whisper":  # a convolution of stride 2 halves the frames
            return Part(values, max(1, -(-len(samples) // (2 * hop))))
        grid = patch_grid(self._config)
        if grid is None or not self._n_prefix:
            return Part(values)
        # Windows of 25 ms; patches that begin after the last one hold what fills the clip up.
        n_frames = 1 + (len(samples) - self.least) // hop
        n_patches = min(grid[1], -(-n_frames // int(self._config.time_stride)))
        return Part(values, n_patches * grid[0])

    def load(self, dtype: torch.dtype, device: torch.device) -> nn.Module:
        """Load the network."""
        module: nn.Module = load_pretrained(
            self.source.folder,
            self._config,
            auto=self._auto,
            dtype=torch.float32,
            trust_remote_code=self._settings.trust_remote_code,
            is_unused=self._is_unused,
        )
        module = module.eval().requires_grad_(False)
        if self._kind in _PACKED:
            return load_speech(
                module, layer=self._layer, pooling=str(self._pooling), dtype=dtype, device=device
            )
        probe = self._processor.probe
        with torch.inference_mode():
            states = self._states(_part(module), probe)
        return load_stacked(
            states,
            probe,
            pooling=self._pooling,
            dtype=dtype,
            device=device,
            n_prefix=self._n_prefix,
        )

    def n_bytes(self) -> int:
        """Return the size of the weight files in bytes."""
        return sum(path.stat().st_size for path in check_weights(self.source.folder))

    def refuse_other_files(self) -> None:
        """Refuse weights that are not those of the digest, under which vectors are stored."""
        if folder_digest(self.source.folder) != self._files_digest:
            raise UnsupportedModelError(
                f"The files in {self.source.folder} changed while the model was in use. Call again "
                "when they are all written."
            )

    def _refuse_other_kinds(self) -> None:
        known = {*_PACKED, *_STACKED, *_PARTS}
        if self._kind not in known:
            raise UnsupportedModelError(
                f"{self.name} is a model of type {self._kind!r}; AudioEmbedder reads "
                f"{', '.join(sorted(known))}. Texts and pictures have embedders of their own."
            )

    def _load_processor(self) -> Processor:
        folder = self.source.folder
        if not has_processor(folder):
            raise UnsupportedModelError(
                f"{folder} does not say how the model's clips are prepared: it has no "
                "preprocessor_config.json. Save the model's feature extractor there "
                "(`extractor.save_pretrained(folder)`)."
            )
        trusted = self._settings.trust_remote_code
        return load_processor(folder, self._files_digest, trust_remote_code=trusted)

    def _states(self, module: nn.Module, probe: torch.Tensor) -> AudioStates:
        return make_states(module, self._output, self._settings.layer, probe[None], self.name)

    @property
    def _output(self) -> str:
        """What of the output is taken where the user names no layer."""
        is_auto = self._settings.pooling == "auto" and self._settings.layer is None
        return _VECTORS.get(self._kind, "last_hidden_state") if is_auto else "last_hidden_state"

    @torch.inference_mode()
    def _make_plan(self) -> tuple[str | None, int, int]:
        """Return how frames are pooled, the width, and how many tokens precede the frames.

        The model is run with random weights.
        """
        probe = self._processor.probe
        with torch.random.fork_rng(devices=[]):
            states = self._states(_part(self._build()), probe)
            shape = tuple(states(torch.stack([probe, probe])).shape)
            is_right = shape[0] == 2 and len(shape) in (2, 3)
            if is_right and len(shape) == 3 and isinstance(self._settings.layer, str):
                is_right = self._has_frames(states, shape)
        if not is_right:
            raise InvalidParameterError(
                f"layer={self._settings.layer!r} of {self.name} gives features of shape {shape} "
                "for two clips; expected (2, features) or (2, frames, features). Choose a layer "
                "around it, or the number of a hidden state."
            )
        if len(shape) == 2:
            if self._settings.layer is not None:
                refuse_pooling(self._settings.pooling, f"layer {self._settings.layer!r}")
            return None, shape[1], 0
        pooling = _mean_if_auto(self._settings.pooling)
        grid = patch_grid(self._config)
        is_of_tokens = grid is not None and shape[1] == N_TOKENS_OF_AST + grid[0] * grid[1]
        n_prefix = N_TOKENS_OF_AST if is_of_tokens else 0
        return pooling, pooled_width(shape[2], pooling), n_prefix

    def _has_frames(self, states: AudioStates, shape: tuple[int, ...]) -> bool:
        """Return whether the middle one of three dimensions is time."""
        if self._kind == "whisper":
            return shape[1] == int(self._config.max_source_positions)
        if self._kind not in _STACKED:
            return True
        longer = states(torch.cat([self._processor.probe] * 2)[None]).shape
        return bool(longer[1] > shape[1] and longer[2] == shape[2])

    def _build(self) -> nn.Module:
        config = copy.deepcopy(self._config)
        try:
            build = getattr(self._auto, "from_config", None) or self._auto._from_config
            built: nn.Module = build(config, dtype=torch.float32)
        except Exception as error:
            raise UnsupportedModelError(
                f"transformers cannot build {self.name}: {type(error).__name__}: {error}"
            ) from error
        return built.eval()

    @functools.cached_property
    def _unused(self) -> frozenset[str]:
        """Names of the weights that are never run."""
        with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
            module = self._build()
            states = self._states(_part(module), self._processor.probe)
            return find_unused(module, lambda: states(self._processor.probe[None]))

    def _is_unused(self, name: str) -> bool:
        if name.rpartition(".")[2] == _UNUSED:
            return True
        return self._kind not in _PACKED and name in self._unused


_PARTS = {
    "whisper": "WhisperModel",
    "clap": "ClapAudioModelWithProjection",
    "clap_audio_model": "ClapAudioModelWithProjection",
    "audio-spectrogram-transformer": "ASTModel",
}
"""What loads the part that hears, where that is not the whole."""

_VECTORS = {
    "clap": "audio_embeds",
    "clap_audio_model": "audio_embeds",
    "audio-spectrogram-transformer": "pooler_output",
}


def _find_part(config: Any) -> tuple[Any, Any]:
    """Return what loads the part that hears, and its configuration."""
    import transformers

    kind = config.model_type
    if kind not in _PARTS:
        return transformers.AutoModel, config
    if kind == "clap":
        config = copy.deepcopy(config.audio_config)
    return getattr(transformers, _PARTS[kind]), config


def _part(module: Any) -> nn.Module:
    """Return the part of a loaded model that runs."""
    if module.config.model_type == "whisper":
        encoder: nn.Module = module.encoder
        return encoder
    whole: nn.Module = module
    return whole


def _mean_if_auto(pooling: str) -> str:
    return "mean" if pooling == "auto" else pooling
