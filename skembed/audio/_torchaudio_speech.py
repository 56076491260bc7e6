"""Speech models of torchaudio as transformers' modules, so that one fast road serves both.

torchaudio's `Wav2Vec2Model`, as its pipelines build it for wav2vec 2.0, HuBERT and WavLM, computes
what transformers' models of these names do; only the weights are named otherwise. Its features
number i are transformers' hidden state i + 1. Pipelines with `_normalize_waveform` normalise each
waveform to mean 0 and variance 1 first (`layer_norm` over all of it): that is the caller's to do.

Knows names and shapes of weights, not where they come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from skembed.exceptions import UnsupportedModelError

__all__ = ["as_transformers"]

_EXTRACTORS = {"group_norm": "group", "layer_norm": "layer"}

_SETTINGS = {
    "encoder_embed_dim": "hidden_size",
    "encoder_pos_conv_kernel": "num_conv_pos_embeddings",
    "encoder_pos_conv_groups": "num_conv_pos_embedding_groups",
    "encoder_num_layers": "num_hidden_layers",
    "encoder_num_heads": "num_attention_heads",
    "encoder_ff_interm_features": "intermediate_size",
    "encoder_layer_norm_first": "do_stable_layer_norm",
    "extractor_conv_bias": "conv_bias",
    "encoder_num_buckets": "num_buckets",
    "encoder_max_distance": "max_bucket_distance",
}
"""What decides features, by torchaudio's name and transformers'."""

_IDLE = {
    "encoder_projection_dropout",
    "encoder_attention_dropout",
    "encoder_ff_interm_dropout",
    "encoder_dropout",
    "encoder_layer_drop",
    "aux_num_out",
}
"""What matters in training alone, or after the last layer."""

_RENAMED = (
    ("encoder.feature_projection.", "feature_projection."),
    ("encoder.transformer.", "encoder."),
    (".conv.weight_g", ".conv.parametrizations.weight.original0"),
    (".conv.weight_v", ".conv.parametrizations.weight.original1"),
    (".attention.attention.out_proj.", ".attention.out_proj."),
)


def as_transformers(params: Mapping[str, Any], model_type: str, state: Mapping[str, Tensor]) -> Any:
    """Return torchaudio's model as transformers' module of the same features.

    Parameters
    ----------
    params : mapping
        A bundle's `_params`: the arguments of `torchaudio.models.wav2vec2_model` or `wavlm_model`.
    model_type : {"Wav2Vec2", "WavLM"}
        A bundle's `_model_type`.
    state : mapping of str to Tensor
        The model's `state_dict()`. Not changed; the module shares its tensors. What follows the
        last layer (`aux.*`) is not needed.

    Returns
    -------
    model : transformers.Wav2Vec2Model or transformers.WavLMModel
        In evaluation mode, on the CPU, in the format of the state.

    Raises
    ------
    UnsupportedModelError
        If the model is of another type, or parameters or tensors are missing, unknown or of other
        shapes.
    """
    import transformers

    kinds = {
        "Wav2Vec2": (transformers.Wav2Vec2Config, transformers.Wav2Vec2Model),
        "WavLM": (transformers.WavLMConfig, transformers.WavLMModel),
    }
    if model_type not in kinds:
        raise UnsupportedModelError(
            f"torchaudio's model type {model_type!r} is not known here; {' and '.join(kinds)} are."
        )
    make_config, architecture = kinds[model_type]
    with torch.device("meta"):
        model = architecture(make_config(**_settings(params, model_type)))
    weights = _renamed(state)
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    found = {name: tensor.shape for name, tensor in weights.items()}
    faults = [f"no tensor {name}" for name in sorted(wanted.keys() - found.keys())]
    faults += [f"an unknown tensor {name}" for name in sorted(found.keys() - wanted.keys())]
    faults += [
        f"{name} of shape {tuple(found[name])} instead of {tuple(wanted[name])}"
        for name in sorted(found.keys() & wanted.keys())
        if found[name] != wanted[name]
    ]
    if faults:
        raise UnsupportedModelError(
            f"The weights are not those of torchaudio's {model_type}: {'; '.join(faults[:5])}"
            + (f"; and {len(faults) - 5} more." if len(faults) > 5 else ".")
        )
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)


def _settings(params: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    """Return transformers' settings of a model."""
    own = {"extractor_mode", "extractor_conv_layer_config"}
    needed = (own | _SETTINGS.keys()) - (
        set() if model_type == "WavLM" else {"encoder_num_buckets", "encoder_max_distance"}
    )
    missing = sorted(needed - params.keys())
    unknown = sorted(params.keys() - needed - _IDLE)
    if missing or unknown or params["extractor_mode"] not in _EXTRACTORS:
        raise UnsupportedModelError(
            f"These are not the parameters of torchaudio's {model_type}: missing {missing}, "
            f"unknown {unknown}, extractor_mode={params.get('extractor_mode')!r}."
        )
    layers = params["extractor_conv_layer_config"]
    if not layers:  # torchaudio's own default
        layers = [(512, 10, 5), *[(512, 3, 2)] * 4, *[(512, 2, 2)] * 2]
    widths, kernels, strides = zip(*layers, strict=True)
    return {
        **{_SETTINGS[name]: params[name] for name in needed - own},
        "feat_extract_norm": _EXTRACTORS[params["extractor_mode"]],
        "conv_dim": widths,
        "conv_kernel": kernels,
        "conv_stride": strides,
        # The vector that hides frames in training has no use here.
        "mask_time_prob": 0.0,
        "mask_feature_prob": 0.0,
    }


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors by transformers' names."""
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
