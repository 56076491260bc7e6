"""Audio models in transformers, from a folder or the hub: which part runs, what it returns."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skembed._backbone import Exported
from skembed._random_state import own_random_state
from skembed.audio._backbone import (
    AudioBackbone,
    AudioSettings,
    check_layer_number,
    least_samples,
)
from skembed.audio._clips import Part
from skembed.audio._processor import Processor
from skembed.exceptions import (
    InvalidParameterError,
    ModelWarning,
    SkembedError,
    UnsupportedModelError,
    warn_user,
)
from skembed.modules import (
    SpeechModel,
    States,
    fill_part,
    find_unused,
    has_weights,
    make_states,
)
from skembed.weights import (
    FolderSource,
    check_weights,
    copy_processor,
    has_processor,
    load_config,
    load_pretrained,
    load_processor,
    refuse_code_from_elsewhere,
    refuse_custom_code,
    releases_of,
    save_pretrained,
)

__all__ = ["TransformersBackbone"]

_PACKED = {"wav2vec2", "hubert", "wavlm", "data2vec-audio", "unispeech", "unispeech-sat"}
"""Models of waveforms that run on clips of any lengths at once."""

_STACKED = {"sew", "sew-d", "wav2vec2-conformer"}
"""Other models of waveforms: clips of equal length run together."""

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

_OF_TEXTS = ("text_model.", "text_projection.")  # weights of CLAP's other part

_STATES = "last_hidden_state"

_N_TOKENS_OF_AST = 2
"""Before the patches: one for the class, one of distillation."""

# Used in training alone; many checkpoints lack it.
_UNUSED = "masked_spec_embed"


class TransformersBackbone(AudioBackbone):
    """An audio model of transformers, in a folder.

    Whisper and AST fill clips up: the frames that are pooled are the clip's own.
    """

    def __init__(self, source: FolderSource, settings: AudioSettings) -> None:
        self.name, self.source = source.name, source
        self._folder, self._settings = source.folder, settings
        self.is_foreign = settings.trust_remote_code
        settings.refuse(weights=f"{self.name!r} has its own. Leave weights='auto'.")
        check_weights(self._folder)
        if self.is_foreign:
            refuse_code_from_elsewhere(self._folder)
        config = load_config(self._folder, trust_remote_code=self.is_foreign)
        self._kind = str(config.model_type)
        _check_kind(config, self.name)
        if isinstance(settings.layer, str):
            raise InvalidParameterError(
                f"layer={settings.layer!r}: expected the number of a hidden state of {self.name}, "
                "or None."
            )
        self._processor = self._load_processor()
        _warn_of_head(config, self.name, self._processor.is_normalizing)
        self.rate, self.limit = self._processor.rate, self._processor.limit
        self._auto, self._config = _find_part(config)
        if self._kind in _PARTS:
            self.bands = -2 if self._kind == "whisper" else -1
        if hasattr(config, "conv_kernel"):
            windows = list(zip(config.conv_kernel, config.conv_stride, strict=True))
            # SEW averages so many frames to one.
            squeezed = int(getattr(config, "squeeze_factor", 1))
            self.least = least_samples([*windows, (squeezed, squeezed)])
        elif self._kind == "audio-spectrogram-transformer":
            self.least = self.rate // 40  # a window of 25 ms
        is_auto = settings.pooling == "auto" and settings.layer is None
        # What is taken of the output.
        self._output = _VECTORS.get(self._kind, _STATES) if is_auto else _STATES
        self.normalizes = self._kind == "clap" and self._output != _STATES  # `get_audio_features`
        self._layer: int | None = None
        if self._kind in _PACKED:
            n_layers = int(self._config.num_hidden_layers)
            self._layer = check_layer_number(settings.layer, n_layers, self.name)
            self._take_pooling(settings.pooling, int(self._config.hidden_size))
        else:
            self._choose_output()
        self._take_digests(
            layer=settings.layer,
            output=self._output,
            trust_remote_code=self.is_foreign,
            libraries=releases_of("transformers", "torchaudio"),
        )

    def _load_processor(self) -> Processor:
        if not has_processor(self._folder, "feature_extractor"):
            raise UnsupportedModelError(
                f"{self._folder} does not say how to prepare the model's clips: it has no "
                "preprocessor_config.json. Save the model's feature extractor there "
                "(`extractor.save_pretrained(folder)`)."
            )
        return load_processor(
            "AutoFeatureExtractor",
            self._folder,
            Processor,
            what="feature extractor",
            trust_remote_code=self.is_foreign,
        )

    def _prepare(self, samples: NDArray[np.float32]) -> Part:
        values = self._processor.prepare(samples)
        if self._kind == "whisper":  # a convolution of stride 2 halves the frames
            return Part(values, max(1, -(-len(samples) // (2 * self._processor.hop))))
        grid = _patch_grid(self._config)
        if grid is None or not self.n_prefix:
            return Part(values)
        # Windows of 25 ms; patches that begin after the last one hold what fills the clip up.
        n_frames = 1 + (len(samples) - self.least) // self._processor.hop
        n_patches = min(grid[1], -(-n_frames // int(self._config.time_stride)))
        return Part(values, n_patches * grid[0])

    def _load_whole(self) -> nn.Module:
        module: nn.Module = load_pretrained(
            self._folder,
            self._config,
            auto=self._auto,
            dtype=torch.float32,
            trust_remote_code=self.is_foreign,
            is_unused=self._is_unused,
            left_out=_OF_TEXTS if self._kind == "clap" else (),
        )
        return module.eval()

    def _export(self, core: Any, folder: Path) -> Exported:
        """Write a folder of transformers: of sounds and texts, the part that was loaded."""
        refuse_custom_code(self.name, self.is_foreign)
        whole: Any = self._load_whole()
        is_packed, is_whisper = self._kind in _PACKED, self._kind == "whisper"
        part = core.model if is_packed else core.module
        fill_part(whole.encoder if is_whisper else whole, part)
        lacking = {
            name
            for name in whole.state_dict()
            if self._is_unused(name) and not has_weights(self._folder, [name])
        }
        save_pretrained(whole, folder, is_left_out=lacking.__contains__)
        copy_processor(self._folder, folder)
        return Exported("transformers", self._code(type(whole).__name__))

    def _code(self, kind: str) -> str:
        layer, is_whisper = self._settings.layer, self._kind == "whisper"
        call = "model.encoder(values" if is_whisper else "model(values"
        if getattr(self._config, "enable_fusion", False):
            call += ", is_longer=torch.zeros(1, 1, dtype=torch.bool)"
        frames = f"{call}).{self._output}"
        if layer is not None:
            frames = f"{call}, output_hidden_states=True).hidden_states[{layer}]"
        if is_whisper:  # a convolution of stride 2 halves the frames
            frames += f"[:, : -(-len(clip) // {2 * self._processor.hop})]"
        name = self._processor.input_name
        made = f"extractor(clip, sampling_rate={self.rate}, return_tensors="
        return f"""
import torch
from transformers import AutoFeatureExtractor, {kind}

extractor = AutoFeatureExtractor.from_pretrained(".")
model = {kind}.from_pretrained(".")
""" + self._clips_code(frames, prepare=f'{made}"pt")["{name}"]')

    def _load_core(self) -> nn.Module:
        module: Any = self._load_whole()
        # Masks drawn from NumPy's random state, which is the user's; views have their own.
        module.config.apply_spec_augment = False
        if self._kind in _PACKED:
            return SpeechModel(module, self._layer).eval()
        with torch.no_grad():
            return self._states(module)

    def _states(self, module: Any) -> _States:
        probe = self._processor.probe[None]
        layer = self._settings.layer
        part = module.encoder if self._kind == "whisper" else module
        return make_states(_States, part, self._output, layer, probe, self.name)

    @torch.inference_mode()
    def _choose_output(self) -> None:
        """Find pooling and width, and how many tokens precede the frames, with random weights."""
        probe = self._processor.probe
        with own_random_state():
            module = self._build()
        try:
            shape = tuple(self._states(module)(probe[None]).shape)
        except SkembedError:
            raise
        except Exception as error:
            reason = str(error).rstrip(".")
            raise UnsupportedModelError(
                f"{self.name}: the parts of this checkpoint disagree. Its feature extractor "
                f"(preprocessor_config.json) turns a clip into {tuple(probe.shape)}, on which its "
                f"model (config.json) fails: {reason}. Save both from the same checkpoint."
            ) from None
        own = None if len(shape) == 2 else "mean"
        self._take_pooling(self._settings.pooling, shape[-1], own)
        grid = _patch_grid(self._config)
        if grid is not None and shape[1] == _N_TOKENS_OF_AST + grid[0] * grid[1]:
            self.n_prefix = _N_TOKENS_OF_AST

    def _build(self) -> nn.Module:
        build = getattr(self._auto, "from_config", None) or self._auto._from_config
        built: nn.Module = build(copy.deepcopy(self._config), dtype=torch.float32)
        return built.eval()

    @functools.cached_property
    def _unused(self) -> frozenset[str]:
        """Names of the weights that are never run."""
        with torch.inference_mode(False), own_random_state():
            module = self._build()
            states = self._states(module)
            return find_unused(module, lambda: states(self._processor.probe[None]))

    def _is_unused(self, name: str) -> bool:
        if name.rpartition(".")[2] == _UNUSED:
            return True
        return self._kind not in _PACKED and name in self._unused


def _check_kind(config: Any, name: str) -> None:
    known = {*_PACKED, *_STACKED, *_PARTS}
    if config.model_type not in known:
        raise UnsupportedModelError(
            f"{name} is a model of type {config.model_type!r}; AudioEmbedder reads "
            f"{', '.join(sorted(known))}. Texts and pictures have their own embedders."
        )
    if getattr(config, "add_adapter", False):
        raise UnsupportedModelError(
            f"{name} has an adapter after its last layer (add_adapter=True), which skembed does "
            "not run. Save the model without it."
        )


def _warn_of_head(config: Any, name: str, is_normalizing: bool) -> None:
    """Warn that what makes speaker embeddings of frames is not run."""
    head = next((each for each in config.architectures or () if each.endswith("ForXVector")), None)
    if head is not None:
        more = ", preprocess=lambda x: (x - x.mean()) / x.std()" if is_normalizing else ""
        warn_user(
            f"{name} is a {head}: AudioEmbedder runs the model below its x-vector head and pools "
            "the frames. For the head's speaker embeddings give the whole model: "
            f"AudioEmbedder(transformers.{head}.from_pretrained(...){more}).",
            ModelWarning,
        )


def _find_part(config: Any) -> tuple[Any, Any]:
    """Return what loads the part that hears, and its configuration."""
    import transformers

    kind = config.model_type
    if kind not in _PARTS:
        return transformers.AutoModel, config
    if kind == "clap":
        config = copy.deepcopy(config.audio_config)
    return getattr(transformers, _PARTS[kind]), config


class _States(States):
    """Runs a model, which takes features or samples, for vectors or frames."""

    def run(self, values: Tensor, *, all_states: bool = False) -> Any:
        """Return the model's whole output."""
        arguments: dict[str, Any] = {"output_hidden_states": True} if all_states else {}
        if getattr(self.module.config, "enable_fusion", False):
            # Windows are never longer than what the model takes whole. Its processor says of one
            # clip at random that it is.
            no = torch.zeros(len(values), 1, dtype=torch.bool, device=values.device)
            arguments["is_longer"] = no
        return self.module(values, **arguments)

    def arrange(self, features: Tensor) -> Tensor:
        """Return maps as frames, and patches in the order of time."""
        if features.ndim == 4:
            return features.flatten(2).transpose(1, 2)
        grid = _patch_grid(self.module.config)
        if grid is None or features.shape[1] != _N_TOKENS_OF_AST + grid[0] * grid[1]:
            return features
        tokens, patches = features.tensor_split([_N_TOKENS_OF_AST], 1)
        return torch.cat([tokens, patches.unflatten(1, grid).transpose(1, 2).flatten(1, 2)], 1)


def _patch_grid(config: Any) -> tuple[int, int] | None:
    """Return into how many patches a spectrogram transformer cuts frequency and time."""
    if config.model_type != "audio-spectrogram-transformer":
        return None
    size = config.patch_size
    return (
        (config.num_mel_bins - size) // config.frequency_stride + 1,
        (config.max_length - size) // config.time_stride + 1,
    )
