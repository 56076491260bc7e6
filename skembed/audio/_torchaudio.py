"""The speech models that torchaudio has by name, as transformers modules.

torchaudio's `Wav2Vec2Model`, as its pipelines build it for wav2vec 2.0, HuBERT and WavLM, computes
the same as the transformers models of these names; only the weights have other names. Its features
number i are transformers' hidden state i + 1.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skembed._backbone import OF_THE_HUB, Exported, Source
from skembed._forks import one_at_a_time
from skembed.audio._backbone import (
    AudioBackbone,
    AudioSettings,
    check_layer_number,
    least_samples,
    standardize,
)
from skembed.audio._clips import Part
from skembed.modules import (
    SpeechModel,
    build_empty,
    build_random,
    fill,
    plain_names,
    write_state,
)
from skembed.weights import FileSource, load_state, releases_of

__all__ = ["TorchaudioBackbone", "bundle_names", "bundle_url"]

_URL = "https://download.pytorch.org/torchaudio/models/"

_SETTINGS = {
    "encoder_embed_dim": "hidden_size",
    "encoder_pos_conv_kernel": "num_conv_pos_embeddings",
    "encoder_pos_conv_groups": "num_conv_pos_embedding_groups",
    "encoder_num_layers": "num_hidden_layers",
    "encoder_num_heads": "num_attention_heads",
    "encoder_ff_interm_features": "intermediate_size",
    "encoder_layer_norm_first": "do_stable_layer_norm",
    "encoder_projection_dropout": "feat_proj_dropout",
    "encoder_attention_dropout": "attention_dropout",
    "encoder_ff_interm_dropout": "activation_dropout",
    "encoder_dropout": "hidden_dropout",
    "encoder_layer_drop": "layerdrop",
    "extractor_conv_bias": "conv_bias",
    "encoder_num_buckets": "num_buckets",
    "encoder_max_distance": "max_bucket_distance",
}
"""What decides features, and dropout in training, by torchaudio's name and transformers'."""

_RENAMED = (
    ("encoder.feature_projection.", "feature_projection."),
    ("encoder.transformer.", "encoder."),
    (".conv.weight_g", ".conv.parametrizations.weight.original0"),
    (".conv.weight_v", ".conv.parametrizations.weight.original1"),
    (".attention.attention.out_proj.", ".attention.out_proj."),
)

# torchaudio's own, of `torch.nn.functional.layer_norm`.
_EPS = 1e-5


@functools.cache
def bundle_names() -> tuple[str, ...]:
    """Return the names of torchaudio's speech models."""
    with one_at_a_time():
        from torchaudio import pipelines

    return tuple(
        name for name in pipelines.__all__ if hasattr(getattr(pipelines, name), "_model_type")
    )


def bundle_url(name: str) -> str:
    """Return where the weights of a bundle are."""
    with one_at_a_time():
        from torchaudio import pipelines

    # Of one bundle it is a whole address already.
    return urljoin(_URL, str(getattr(pipelines, name)._path))


class TorchaudioBackbone(AudioBackbone):
    """A wav2vec 2.0, HuBERT or WavLM of torchaudio's bundles; `layer` numbers a hidden state."""

    def __init__(self, source: Source, settings: AudioSettings) -> None:
        from torchaudio import pipelines

        self.name, self.source = str(settings.model), source
        bundle = getattr(pipelines, self.name)
        self.rate = int(bundle.sample_rate)
        self._params: dict[str, Any] = dict(bundle._params)
        self._kind: str = bundle._model_type
        self._is_standardized = bool(bundle._normalize_waveform)
        settings.refuse(revision=OF_THE_HUB)
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
        if isinstance(self.source, FileSource):
            path = self.source.path
            state = plain_names(load_state(path))
        else:
            path, state = Path("random"), build_random(self._build).state_dict()
        with torch.device("meta"):
            module = self._as_transformers()
        fill(module, _renamed(state), path=path, name=self.name)
        return SpeechModel(module, self._layer).eval()

    def _export(self, core: SpeechModel, folder: Path) -> Exported:
        """Write a state dict by torchaudio's names, without what follows the last layer."""
        state, named = core.model.state_dict(), {}
        for name, tensor in build_empty(self._build).state_dict().items():
            parts = [state[each] for each in _renamed({name: tensor})]
            named[name] = parts[0] if len(parts) == 1 else torch.cat(parts)
        write_state(named, folder / "model.safetensors")
        clip = "torch.from_numpy(clip)"
        values = f"torch.nn.functional.layer_norm({clip}, clip.shape)[None]"
        frames = "model(values)[0]"
        if self._layer is not None:  # torchaudio's first is that after the first layer
            frames = f"model.extract_features(values)[0][{self._layer - 1}]"
        code = f"""
import torch
import torchaudio
from safetensors.torch import load_file

settings = {self._options()!r}
model = torchaudio.models.{self._builder}(**settings).eval()
model.load_state_dict(load_file("model.safetensors"))
"""
        values = values if self._is_standardized else f"{clip}[None]"
        if self._layer == 0:
            projected = "model.encoder.feature_projection(model.feature_extractor(values, None)[0])"
            frames = f"model.encoder.transformer._preprocess({projected})"
        code += self._clips_code(frames, prepare=values)
        return Exported("torchaudio", code, f'"{self.name}", weights="model.safetensors"')

    @property
    def _builder(self) -> str:
        return "wavlm_model" if self._kind == "WavLM" else "wav2vec2_model"

    def _options(self) -> dict[str, Any]:
        return {**self._params, "aux_num_out": None}

    def _build(self) -> nn.Module:
        from torchaudio import models

        module: nn.Module = getattr(models, self._builder)(**self._options())
        return module

    def _as_transformers(self) -> Any:
        """Return transformers' module of the same features."""
        import transformers

        params = self._params
        widths, kernels, strides = zip(*params["extractor_conv_layer_config"], strict=True)
        settings = {
            **{own: params[name] for name, own in _SETTINGS.items() if name in params},
            "feat_extract_norm": params["extractor_mode"].removesuffix("_norm"),
            "conv_dim": widths,
            "conv_kernel": kernels,
            "conv_stride": strides,
            # The vector that hides frames in training has no use here.
            "mask_time_prob": 0.0,
            "mask_feature_prob": 0.0,
        }
        if self._kind == "WavLM":
            return transformers.WavLMModel(transformers.WavLMConfig(**settings))
        return transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**settings))


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by transformers' names, without those after the last layer."""
    weights: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith("aux."):
            continue
        for old, new in _RENAMED:
            name = name.replace(old, new)
        start, joint, kind = name.partition(".attention.attention.in_proj_")
        if joint:
            for part, each in zip("qkv", tensor.chunk(3), strict=True):
                weights[f"{start}.attention.{part}_proj.{kind}"] = each
        else:
            weights[name] = tensor
    return weights
