"""The ways of embedding that are compared, each in a process of its own.

A way is made in its process, told what to do through a pipe, and answers with vectors or seconds.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np
from _common import least_cosine, minilm_folder, peak_rss_bytes
from _profile import profile_forward

__all__ = ["LEAST_COSINE", "REFERENCE", "WAYS", "Way", "check_parity", "start_ways"]

REFERENCE = "sentence-transformers"
LEAST_COSINE = {"float32": 0.99999, "bfloat16": 0.9995, "int8": 0.98}

Embed = Callable[[list[str]], np.ndarray]


class Made(NamedTuple):
    """A way that is ready: what embeds, in which number format, and skembed's embedder."""

    embed: Embed
    dtype: str
    embedder: Any = None


# The ways ---------------------------------------------------------------------------------------


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


# One process for each ---------------------------------------------------------------------------


def serve(name: str, pipe: Any) -> None:
    """Do what comes through the pipe and send back the answer, until None comes."""
    try:
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        made = WAYS[name]()
        made.embed(["a text to load the weights with", "and another one"])
        pipe.send((made.dtype, made.embedder is not None, None))
    except Exception as error:  # a peer that cannot run is left out, and said to be
        reason = (str(error).splitlines() or [""])[0]
        pipe.send((None, False, f"{type(error).__name__}: {reason}"))
        return
    while (request := pipe.recv()) is not None:
        wanted, argument = request
        if wanted == "vectors":
            pipe.send(np.asarray(made.embed(argument)))
        elif wanted == "seconds":
            pipe.send([time_call(made.embed, texts) for texts in argument])
        elif wanted == "profile":
            pipe.send(profile_forward(made.embedder, argument))
        else:
            pipe.send(peak_rss_bytes())


def time_call(embed: Embed, texts: list[str]) -> float:
    """Embed texts and return the seconds."""
    started = time.perf_counter()
    embed(texts)
    return time.perf_counter() - started


class Way:
    """A way of embedding, in its process."""

    def __init__(self, name: str) -> None:
        self.name = name
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(name, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.dtype, self.is_skembed, self.trouble = self.pipe.recv()

    def vectors(self, texts: list[str]) -> np.ndarray:
        """Return the vectors of texts."""
        return self._ask("vectors", texts)

    def seconds(self, texts: list[str]) -> float:
        """Return how long it takes to embed texts in one call."""
        return self.seconds_of_each([texts])[0]

    def seconds_of_each(self, calls: list[list[str]]) -> list[float]:
        """Return how long each of some calls takes, one after the other."""
        return self._ask("seconds", calls)

    def profile(self, texts: list[str]) -> dict[str, Any]:
        """Return where the forward pass spends its time; skembed's own ways only."""
        return self._ask("profile", texts)

    def peak_rss(self) -> int:
        """Return the most memory that the process has had resident, in bytes."""
        return self._ask("peak_rss", None)

    def stop(self) -> None:
        """End the process."""
        if self.process.is_alive():
            self.pipe.send(None)
        self.process.join()

    def _ask(self, wanted: str, argument: Any) -> Any:
        self.pipe.send((wanted, argument))
        return self.pipe.recv()


def start_ways(names: Iterable[str], *, has_bfloat16: bool) -> list[Way]:
    """Start the ways that this machine can run, and say why the others are left out."""
    ways = []
    for name in names:
        if name.endswith("bfloat16") and not has_bfloat16:
            print(f"{name}: left out, this processor is not faster in bfloat16")
            continue
        way = Way(name)
        if way.trouble:
            print(f"{name}: left out, {way.trouble}")
            way.stop()
            continue
        ways.append(way)
    return ways


def check_parity(ways: list[Way], texts: list[str]) -> tuple[list[Way], dict[str, float]]:
    """Return the ways whose vectors agree with the reference's, and the least cosine of each."""
    reference = ways[0].vectors(texts)
    cosines = {way.name: least_cosine(way.vectors(texts), reference) for way in ways}
    equal = [way for way in ways if cosines[way.name] >= LEAST_COSINE[way.dtype]]
    for way in ways:
        if way not in equal:
            print(f"{way.name}: NOT TIMED, least cosine {cosines[way.name]:.6f}")
    return equal, cosines
