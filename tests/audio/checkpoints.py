"""Tiny random checkpoints of models of sound, each with its own feature extractor."""

import json
from pathlib import Path

import numpy as np
import torch
import transformers as tf

from skembed import AudioEmbedder

# Weights large enough that neighbours and positions matter to every state.
TOWER = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "initializer_range": 0.3,
}
_WAVES = {
    **TOWER,
    "conv_dim": (16, 16, 24),
    "conv_kernel": (10, 8, 4),
    "conv_stride": (5, 8, 8),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 12,
}
_STABLE = {
    **_WAVES,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "conv_bias": True,
}
_TEXT = {
    **TOWER,
    "vocab_size": 99,
    "max_position_embeddings": 16,
}
_HTSAT = {
    "hidden_size": 32,
    "patch_embeds_hidden_size": 16,
    "depths": [1, 2],
    "num_attention_heads": [2, 4],
    "num_hidden_layers": 2,
    "initializer_factor": 10.0,
    "projection_dim": 24,
}
_FUSED = {**_HTSAT, "enable_fusion": True}
_WHISPER = {
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_layers": 1,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 48,
    "vocab_size": 60,
    "init_std": 0.3,
    **{f"{which}_token_id": 1 for which in ("pad", "bos", "eos", "decoder_start")},
    "begin_suppress_tokens": None,
}

_RAW = {"do_normalize": False}
_STANDARDIZED = {"do_normalize": True}
_EXTRACTOR = tf.Wav2Vec2FeatureExtractor

# family -> (model, configuration, its settings, feature extractor, its settings)
FAMILIES = {
    "wav2vec2": (tf.Wav2Vec2Model, tf.Wav2Vec2Config, _WAVES, _EXTRACTOR, _RAW),
    "wav2vec2-stable": (tf.Wav2Vec2Model, tf.Wav2Vec2Config, _STABLE, _EXTRACTOR, _STANDARDIZED),
    "wav2vec2-ctc": (tf.Wav2Vec2ForCTC, tf.Wav2Vec2Config, _WAVES, _EXTRACTOR, _STANDARDIZED),
    "hubert": (tf.HubertModel, tf.HubertConfig, _WAVES, _EXTRACTOR, _STANDARDIZED),
    "wavlm": (tf.WavLMModel, tf.WavLMConfig, _WAVES, _EXTRACTOR, _RAW),
    "data2vec-audio": (
        tf.Data2VecAudioModel,
        tf.Data2VecAudioConfig,
        {**_WAVES, "num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 7},
        _EXTRACTOR,
        _STANDARDIZED,
    ),
    "unispeech-sat": (tf.UniSpeechSatModel, tf.UniSpeechSatConfig, _WAVES, _EXTRACTOR, _RAW),
    "sew": (tf.SEWModel, tf.SEWConfig, {**_WAVES, "squeeze_factor": 2}, _EXTRACTOR, _STANDARDIZED),
    "wav2vec2-conformer": (
        tf.Wav2Vec2ConformerModel,
        tf.Wav2Vec2ConformerConfig,
        {**_WAVES, "position_embeddings_type": "rotary", "conv_depthwise_kernel_size": 5},
        _EXTRACTOR,
        _STANDARDIZED,
    ),
    "whisper": (tf.WhisperModel, tf.WhisperConfig, _WHISPER, tf.WhisperFeatureExtractor, {}),
    "whisper-generation": (
        tf.WhisperForConditionalGeneration,
        tf.WhisperConfig,
        _WHISPER,
        tf.WhisperFeatureExtractor,
        {},
    ),
    "clap": (
        tf.ClapModel,
        tf.ClapConfig,
        {"text_config": _TEXT, "audio_config": _HTSAT, "projection_dim": 24},
        tf.ClapFeatureExtractor,
        {"truncation": "rand_trunc", "padding": "repeatpad"},
    ),
    "clap-fused": (
        tf.ClapModel,
        tf.ClapConfig,
        {"text_config": _TEXT, "audio_config": _FUSED, "projection_dim": 24},
        tf.ClapFeatureExtractor,
        {"truncation": "fusion", "padding": "repeatpad"},
    ),
    "clap-audio": (
        tf.ClapAudioModelWithProjection,
        tf.ClapAudioConfig,
        _HTSAT,
        tf.ClapFeatureExtractor,
        {"truncation": "rand_trunc", "padding": "repeatpad"},
    ),
    "ast": (
        tf.ASTModel,
        tf.ASTConfig,
        {**TOWER, "max_length": 256},
        tf.ASTFeatureExtractor,
        {"max_length": 256},
    ),
    "ast-classes": (
        tf.ASTForAudioClassification,
        tf.ASTConfig,
        {**TOWER, "num_labels": 5, "max_length": 128},
        tf.ASTFeatureExtractor,
        {"max_length": 128},
    ),
}


def write_checkpoint(folder: Path, family: str, seed: int = 0, **changes: object) -> Path:
    """Save a random checkpoint of a family and its feature extractor; return the folder."""
    model_class, config_class, settings, extractor_class, options = FAMILIES[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config_class(**{**settings, **changes}))
        stir(model)
    model.save_pretrained(folder)
    extractor_class(**options).save_pretrained(folder)
    return folder


@torch.no_grad()
def stir(model: torch.nn.Module) -> None:
    """Move every weight away from where it does nothing, and make sounds matter.

    Clips of one level differ in the states of random speech models by little more than rounding,
    unless convolutions and attention are given larger weights.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Conv1d | torch.nn.Conv2d) and not is_parametrized(module):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean += 0.1 * torch.randn_like(module.running_mean)
            module.running_var *= 1 + torch.rand_like(module.running_var)
    for name, parameter in model.named_parameters():
        # Of weight norm, the length of what stays as it is.
        if "original0" in name or name.endswith("weight_g"):
            parameter *= 1 + torch.rand_like(parameter)
        elif parameter.ndim == 1 or "token" in name or parameter.min() == parameter.max():
            parameter += 0.1 * torch.randn_like(parameter)


def is_parametrized(module: torch.nn.Module) -> bool:
    """Return whether the weight is made of others, as weight norm does."""
    return torch.nn.utils.parametrize.is_parametrized(module)


def clips(*seconds: float, rate: int = 16_000) -> list[np.ndarray]:
    """Return clips that sound different: tones that rise or fall, with noise that swells."""
    made = []
    for i, length in enumerate(seconds or (0.31, 0.5, 0.31, 0.113)):
        rng = np.random.default_rng(i)
        n = round(length * rate)
        t = np.arange(n) / rate
        tone = np.sin(2 * np.pi * (150 * (i + 1) + 300 * (-1) ** i * t) * t)
        noise = rng.standard_normal(n) * (0.02 + 0.2 * (i % 3) * np.linspace(0, 1, n) ** 2)
        made.append(np.clip(0.3 * tone + noise, -0.9, 0.9).astype(np.float32))
    return made


def rate_of(folder):
    return json.loads((folder / "preprocessor_config.json").read_text())["sampling_rate"]


def sounds(folder):
    """Return clips of several lengths that the model takes whole, at its rate."""
    rate = rate_of(folder)
    return clips(3, 1.3, 3, 0.4, rate=rate) if rate > 16_000 else clips(0.71, 1.1, 0.71, 0.403)


def embed(folder, rows, **options):
    options = {"dtype": "float32", "cache": None, "sampling_rate": rate_of(folder), **options}
    return AudioEmbedder(folder, **options).fit_transform(rows)
