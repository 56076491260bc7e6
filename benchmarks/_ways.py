"""The ways of embedding texts that are compared."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from _common import minilm_folder
from _processes import Embed, Made

__all__ = ["FIRST_ROWS", "LEAST_COSINE", "REFERENCE", "WAYS"]

REFERENCE = "sentence-transformers"
FIRST_ROWS = ["a text to load the weights with", "and another one"]
LEAST_COSINE = {"float32": 0.99999, "bfloat16": 0.9995, "int8": 0.98}


def skembed_auto() -> Made:
    """Make skembed as installed, without its store."""
    from skembed import TextEmbedder

    embedder = TextEmbedder(minilm_folder(), cache=None).fit(["a text"])
    return Made(embedder.transform, embedder.dtype_, embedder)


def skembed_float32() -> Made:
    """Make skembed in float32, without its store."""
    from skembed import TextEmbedder

    embedder = TextEmbedder(minilm_folder(), cache=None, dtype="float32")
    return Made(embedder.transform, "float32", embedder)


def skembed_int8() -> Made:
    """Make skembed in int8, without its store."""
    from skembed import TextEmbedder

    embedder = TextEmbedder(minilm_folder(), cache=None, dtype="int8").fit(["a text"])
    return Made(embedder.transform, "int8", embedder)


def sentence_transformers_float32() -> Made:
    """Make sentence-transformers as installed: float32, batches of 32."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(minilm_folder()), device="cpu")
    return Made(lambda texts: model.encode(texts, show_progress_bar=False), "float32")


def sentence_transformers_bfloat16() -> Made:
    """Make sentence-transformers with its weights in bfloat16."""
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(
        str(minilm_folder()), device="cpu", model_kwargs={"dtype": torch.bfloat16}
    )
    return Made(lambda texts: model.encode(texts, show_progress_bar=False), "bfloat16")


def openvino_bfloat16() -> Made:
    """Make OpenVINO in bfloat16."""
    import openvino
    from transformers import AutoModel, AutoTokenizer

    warnings.simplefilter("ignore")  # the tracer's, on transformers' masks; parity is checked
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    model = AutoModel.from_pretrained(minilm_folder()).eval()
    example = dict(tokenizer(["a text", "another, longer"], padding=True, return_tensors="pt"))
    converted = openvino.convert_model(model, example_input=example)
    run = openvino.Core().compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})

    def states_of(batch: dict[str, np.ndarray]) -> np.ndarray:
        return run({name: batch[name] for name in example})[0]

    return Made(embed_sorted(tokenizer, states_of), "bfloat16")


def compiled_bfloat16() -> Made:
    """Make transformers in bfloat16 through torch.compile, weights frozen, for any shape."""
    import torch
    import torch._inductor.config
    from transformers import AutoModel, AutoTokenizer

    torch._inductor.config.freezing = True  # lays weights out once, as skembed does
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    model = AutoModel.from_pretrained(
        minilm_folder(), dtype=torch.bfloat16, add_pooling_layer=False
    )
    run = torch.compile(model.eval(), dynamic=True)

    @torch.no_grad()
    def states_of(batch: dict[str, np.ndarray]) -> np.ndarray:
        states = run(**{name: torch.from_numpy(array) for name, array in batch.items()})
        return states.last_hidden_state.float().numpy()

    return Made(embed_sorted(tokenizer, states_of), "bfloat16")


def embed_sorted(tokenizer: Any, states_of: Callable[[dict[str, np.ndarray]], np.ndarray]) -> Embed:
    """Return what embeds batches of 32, sorted by length, with mean pooling in NumPy."""

    def embed(texts: list[str]) -> np.ndarray:
        tokens = tokenizer(texts, truncation=True, max_length=256)["input_ids"]
        order = sorted(range(len(texts)), key=lambda row: -len(tokens[row]))
        vectors = np.empty((len(texts), 384), dtype=np.float32)
        for start in range(0, len(order), 32):
            rows = order[start : start + 32]
            batch = tokenizer.pad({"input_ids": [tokens[row] for row in rows]}, return_tensors="np")
            batch["token_type_ids"] = np.zeros_like(batch["input_ids"])
            states = states_of(dict(batch))
            mask = batch["attention_mask"][..., None]
            vectors[rows] = (states * mask).sum(1) / mask.sum(1)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return embed


WAYS: dict[str, Callable[[], Made]] = {
    REFERENCE: sentence_transformers_float32,
    "sentence-transformers bfloat16": sentence_transformers_bfloat16,
    "OpenVINO bfloat16": openvino_bfloat16,
    "torch.compile bfloat16": compiled_bfloat16,
    "skembed float32": skembed_float32,
    "skembed": skembed_auto,
    "skembed int8": skembed_int8,
}
