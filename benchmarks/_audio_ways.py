"""The ways of embedding sound files that are compared: all run one wav2vec 2.0 on the same files.

It is wav2vec 2.0 base with random weights, always the same, of which the folder that `write_model`
writes has transformers' names and a state dict torchaudio's; speed does not depend on weights. The
vector of a clip is the mean of its last hidden states.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _processes import Made

__all__ = ["ALONE", "LEAST_COSINE", "REFERENCE", "WAYS", "write_model"]

REFERENCE = "transformers, batches of 8"
ALONE = "transformers, one by one"
LEAST_COSINE = {"float32": 0.99999, "bfloat16": 0.999}
_RATE = 16_000
_BATCH = 8
_FOLDER = "SKEMBED_BENCHMARK_MODEL"


def write_model(folder: Path) -> None:
    """Write the checkpoint that every way loads, and name it to the processes."""
    import torch
    from torchaudio import models
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor
    from transformers.utils.logging import disable_progress_bar

    from skembed.audio._backbone import AudioSettings
    from skembed.audio._backbones import find_backbone

    torch.manual_seed(0)
    params = bundle()._params
    module = models.wav2vec2_model(**params).eval()
    torch.save(module.state_dict(), folder / "torchaudio.pth")
    assert params["encoder_embed_dim"] == Wav2Vec2Config().hidden_size
    disable_progress_bar()
    settings = AudioSettings("WAV2VEC2_BASE", weights=folder / "torchaudio.pth")
    find_backbone(settings).load().core.model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    os.environ[_FOLDER] = str(folder)


def bundle() -> Any:
    """Return torchaudio's bundle of the model."""
    from torchaudio import pipelines

    return pipelines.WAV2VEC2_BASE


def folder() -> Path:
    """Return the folder with the checkpoint."""
    return Path(os.environ[_FOLDER])


def read(path: str) -> np.ndarray:
    """Return the samples of a file, which is at the model's rate."""
    import soundfile

    samples, rate = soundfile.read(path, dtype="float32")
    assert rate == _RATE
    return samples


def skembed_auto() -> Made:
    """Make skembed as installed, without its store."""
    return make_skembed("auto")


def skembed_float32() -> Made:
    """Make skembed in float32, without its store."""
    return make_skembed("float32")


def make_skembed(dtype: str) -> Made:
    """Make skembed without its store."""
    from skembed import AudioEmbedder

    embedder = AudioEmbedder(folder(), cache=None, dtype=dtype).fit([])
    return Made(embedder.transform, embedder.dtype_, embedder)


def transformers_batches() -> Made:
    """Make the loop that most people write: pad 8 clips, run in float32, average real frames."""
    return make_transformers("float32", _BATCH)


def transformers_bfloat16() -> Made:
    """Make the same loop in bfloat16."""
    return make_transformers("bfloat16", _BATCH)


def transformers_alone() -> Made:
    """Make the loop without padding: one clip at a time."""
    return make_transformers("float32", 1)


def make_transformers(dtype: str, n_at_once: int) -> Made:
    """Make a loop over transformers' model and feature extractor."""
    import torch
    from transformers import AutoFeatureExtractor, AutoModel

    extractor = AutoFeatureExtractor.from_pretrained(folder())
    model = AutoModel.from_pretrained(folder(), dtype=getattr(torch, dtype)).eval()

    @torch.inference_mode()
    def embed(paths: list[str]) -> np.ndarray:
        vectors = [np.empty((0, model.config.hidden_size), dtype=np.float32)]
        for start in range(0, len(paths), n_at_once):
            clips = [read(path) for path in paths[start : start + n_at_once]]
            batch = extractor(clips, sampling_rate=_RATE, padding=True, return_tensors="pt")
            states = model(batch["input_values"].to(model.dtype)).last_hidden_state.float()
            lengths = model._get_feat_extract_output_lengths(torch.tensor([*map(len, clips)]))
            found = [each[:n].mean(0) for each, n in zip(states, lengths.tolist(), strict=True)]
            vectors.append(torch.stack(found).numpy())
        return np.concatenate(vectors)

    return Made(embed, dtype)


def torchaudio_alone() -> Made:
    """Make torchaudio's bundle, one clip at a time, as its documentation does."""
    import torch
    from torchaudio import models

    model = models.wav2vec2_model(**bundle()._params).eval()
    model.load_state_dict(torch.load(folder() / "torchaudio.pth", weights_only=True))

    @torch.inference_mode()
    def embed(paths: list[str]) -> np.ndarray:
        found = []
        for path in paths:
            layers, _ = model.extract_features(torch.from_numpy(read(path))[None])
            found.append(layers[-1][0].mean(0))
        return torch.stack(found).numpy()

    return Made(embed, "float32")


def openvino_float32() -> Made:
    """Make OpenVINO in float32."""
    return make_openvino("f32")


def openvino_bfloat16() -> Made:
    """Make OpenVINO in bfloat16."""
    return make_openvino("bf16")


def make_openvino(precision: str) -> Made:
    """Make OpenVINO on the converted model: clips of any length, one by one."""
    import openvino
    import torch
    from transformers import AutoModel

    warnings.simplefilter("ignore")  # the tracer's; parity is checked
    model = AutoModel.from_pretrained(folder(), attn_implementation="eager").eval()

    class States(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, samples: torch.Tensor) -> torch.Tensor:
            return self.model(samples, return_dict=False)[0]

    example = torch.zeros(1, 2 * _RATE)
    converted = openvino.convert_model(States(), example_input=example, input=[1, -1])
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    compiled = openvino.Core().compile_model(converted, "CPU", options)

    def embed(paths: list[str]) -> np.ndarray:
        return np.stack([compiled(read(path)[None])[0][0].mean(0) for path in paths])

    return Made(embed, "bfloat16" if precision == "bf16" else "float32")


WAYS: dict[str, Callable[[], Made]] = {
    ALONE: transformers_alone,
    REFERENCE: transformers_batches,
    "transformers bfloat16": transformers_bfloat16,
    "torchaudio, one by one": torchaudio_alone,
    "OpenVINO float32": openvino_float32,
    "OpenVINO bfloat16": openvino_bfloat16,
    "skembed float32": skembed_float32,
    "skembed": skembed_auto,
}
