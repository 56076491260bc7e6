"""The ways of embedding image files that are compared: all run one ResNet-50 on the same files.

Its weights are random, always the same, with statistics that make its features differ between
pictures as trained ones do; speed does not depend on them. They lie in a state-dict file that
`write_weights` writes.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from _processes import Embed, Made

__all__ = ["LEAST_COSINE", "MODEL", "REFERENCE", "WAYS", "write_weights"]

MODEL = "resnet50"
REFERENCE = "torchvision loop"
LEAST_COSINE = {"float32": 0.99999, "bfloat16": 0.995}
_BATCH = 32
_WEIGHTS = "SKEMBED_BENCHMARK_WEIGHTS"


def write_weights(path: Path) -> None:
    """Write the weights that every way loads, and name the file to the processes."""
    import torch
    from torch import nn
    from torchvision import models

    torch.manual_seed(0)
    module = models.get_model(MODEL, weights=None)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
            layer.weight.data.uniform_(0.3, 0.7)
            layer.bias.data.normal_(0, 0.1)
    torch.save(module.state_dict(), path)
    os.environ[_WEIGHTS] = str(path)


def weights() -> str:
    """Return the file with the weights."""
    return os.environ[_WEIGHTS]


def make_resnet() -> Any:
    """Return the model without its classifier, and what torchvision prepares pictures with."""
    import torch
    from torchvision import models

    module = models.get_model(MODEL, weights=None)
    module.load_state_dict(torch.load(weights(), weights_only=True))
    module.fc = torch.nn.Identity()
    return module.eval(), models.get_model_weights(MODEL).DEFAULT.transforms()


def skembed_auto() -> Made:
    """Make skembed as installed, without its store."""
    return make_skembed("auto")


def skembed_float32() -> Made:
    """Make skembed in float32, without its store."""
    return make_skembed("float32")


def make_skembed(dtype: str) -> Made:
    """Make skembed without its store."""
    from skembed import ImageEmbedder

    embedder = ImageEmbedder(MODEL, weights=weights(), cache=None, dtype=dtype).fit([])
    return Made(embedder.transform, embedder.dtype_, embedder)


def torchvision_loop() -> Made:
    """Make the loop that most people write: open, transform, stack 32, run in float32."""
    import torch

    module, transform = make_resnet()

    @torch.inference_mode()
    def run(batch: Any) -> np.ndarray:
        return module(batch).numpy()

    return Made(in_batches(transform, run), "float32")


def torchvision_bfloat16() -> Made:
    """Make the same loop in bfloat16 with channels last."""
    import torch

    module, transform = make_resnet()
    module = module.to(torch.bfloat16, memory_format=torch.channels_last)

    @torch.inference_mode()
    def run(batch: Any) -> np.ndarray:
        batch = batch.to(torch.bfloat16, memory_format=torch.channels_last)
        return module(batch).float().numpy()

    return Made(in_batches(transform, run), "bfloat16")


def embetter_float32() -> Made:
    """Make embetter's loader and encoder; timm's ResNet-50 takes torchvision's weights."""
    import timm
    import torch
    from embetter.vision import ImageLoader, TimmEncoder

    create = timm.create_model
    # embetter asks for timm's own weights, which need a network.
    timm.create_model = lambda name, pretrained, **kwargs: create(name, pretrained=False, **kwargs)
    encoder = TimmEncoder(MODEL)
    timm.create_model = create
    module, encoder.transform_img = make_resnet()
    encoder.model.load_state_dict(module.state_dict())
    encoder.model.eval()
    loader = ImageLoader()

    @torch.inference_mode()
    def embed(paths: list[str]) -> np.ndarray:
        return encoder.transform(loader.transform(paths))

    return Made(embed, "float32")


def openvino_float32() -> Made:
    """Make OpenVINO in float32."""
    return make_openvino("f32")


def openvino_bfloat16() -> Made:
    """Make OpenVINO in bfloat16."""
    return make_openvino("bf16")


def make_openvino(precision: str) -> Made:
    """Make OpenVINO on the converted model, tuned for throughput, with as many requests at once.

    Files are decoded and transformed on all cores, in turn with the model.
    """
    import openvino
    import torch

    warnings.simplefilter("ignore")  # the tracer's; parity is checked
    module, transform = make_resnet()
    converted = openvino.convert_model(
        module, example_input=torch.zeros(1, 3, 224, 224), input=[-1, 3, 224, 224]
    )
    options = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": precision}
    compiled = openvino.Core().compile_model(converted, "CPU", options)
    n_requests = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")

    def run(batch: Any) -> np.ndarray:
        queue = openvino.AsyncInferQueue(compiled, n_requests)
        out = np.empty((len(batch), 2048), dtype=np.float32)

        def keep(request: Any, start: int) -> None:
            vectors = request.get_output_tensor(0).data
            out[start : start + len(vectors)] = vectors

        queue.set_callback(keep)
        for start in range(0, len(batch), 8):
            queue.start_async(batch[start : start + 8].numpy(), start)
        queue.wait_all()
        return out

    embed = in_batches(transform, run, n_threads=os.cpu_count() or 1)
    return Made(embed, "bfloat16" if precision == "bf16" else "float32")


def in_batches(
    transform: Callable[[Any], Any], run: Callable[[Any], np.ndarray], n_threads: int = 1
) -> Embed:
    """Return what opens and transforms files, and runs 32 of them at once."""
    import torch
    from PIL import Image

    def prepare(path: str) -> Any:
        return transform(Image.open(path).convert("RGB"))

    pool = ThreadPoolExecutor(n_threads) if n_threads > 1 else None
    prepare_all = map if pool is None else pool.map

    def embed(paths: list[str]) -> np.ndarray:
        parts = [np.empty((0, 2048), dtype=np.float32)]
        for start in range(0, len(paths), _BATCH):
            batch = list(prepare_all(prepare, paths[start : start + _BATCH]))
            parts.append(run(torch.stack(batch)))
        return np.concatenate(parts)

    return embed


WAYS: dict[str, Callable[[], Made]] = {
    REFERENCE: torchvision_loop,
    "torchvision bfloat16": torchvision_bfloat16,
    "embetter": embetter_float32,
    "OpenVINO float32": openvino_float32,
    "OpenVINO bfloat16": openvino_bfloat16,
    "skembed float32": skembed_float32,
    "skembed": skembed_auto,
}
