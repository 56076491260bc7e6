"""Rows per second on short and on mixed texts: skembed beside sentence-transformers and OpenVINO.

Every way of embedding lives in a process of its own with the same MiniLM, and all of them embed the
same distinct texts in turn (A B C A B C ...), with nothing cached. Before anything is timed the
vectors are compared with those of sentence-transformers in float32; a way whose vectors differ gets
no time. Ratios are taken within a round. The operations per second are set beside the best that a
matrix product of the model's own shape reaches on this machine, in the same number format.

    python benchmarks/text_throughput.py --rows 4000 --out benchmarks/results/text_throughput.json
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from multiprocessing import get_context
from typing import Any

import numpy as np
from _common import (
    count_flops,
    least_cosine,
    make_parser,
    measure_matrix_peak,
    minilm_folder,
    peak_rss_bytes,
    summarize,
    write_results,
)
from _data import cut_texts, document_lengths, short_lengths

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

REFERENCE = "sentence-transformers"
LEAST_COSINE = {"float32": 0.99999, "bfloat16": 0.9995}
LEAST_BFLOAT16_GAIN = 1.3

Embed = Callable[[list[str]], np.ndarray]


# The ways of embedding; each runs in a process of its own ---------------------------------------


def skembed_auto() -> tuple[Embed, str]:
    """Make skembed as installed, without its store."""
    from skembed import TextEmbedder

    embedder = TextEmbedder(minilm_folder(), cache=None).fit(["a text"])
    return embedder.transform, embedder.dtype_


def skembed_float32() -> tuple[Embed, str]:
    """Make skembed in float32, without its store."""
    from skembed import TextEmbedder

    embedder = TextEmbedder(minilm_folder(), cache=None, dtype="float32")
    return embedder.transform, "float32"


def sentence_transformers_float32() -> tuple[Embed, str]:
    """Make sentence-transformers as installed: float32, batches of 32."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(minilm_folder()), device="cpu")
    return lambda texts: model.encode(texts, show_progress_bar=False), "float32"


def sentence_transformers_bfloat16() -> tuple[Embed, str]:
    """Make sentence-transformers with its weights in bfloat16."""
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(
        str(minilm_folder()), device="cpu", model_kwargs={"dtype": torch.bfloat16}
    )
    return lambda texts: model.encode(texts, show_progress_bar=False), "bfloat16"


def openvino_bfloat16() -> tuple[Embed, str]:
    """Make OpenVINO in bfloat16: batches of 32 sorted by length, mean pooling in NumPy."""
    import openvino
    from transformers import AutoModel, AutoTokenizer

    warnings.simplefilter("ignore")  # the tracer's, on transformers' masks; parity is checked
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    model = AutoModel.from_pretrained(minilm_folder()).eval()
    example = dict(tokenizer(["a text", "another, longer"], padding=True, return_tensors="pt"))
    converted = openvino.convert_model(model, example_input=example)
    run = openvino.Core().compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})

    def embed(texts: list[str]) -> np.ndarray:
        tokens = tokenizer(texts, truncation=True, max_length=256)["input_ids"]
        order = sorted(range(len(texts)), key=lambda row: -len(tokens[row]))
        vectors = np.empty((len(texts), 384), dtype=np.float32)
        for start in range(0, len(order), 32):
            rows = order[start : start + 32]
            batch = tokenizer.pad({"input_ids": [tokens[row] for row in rows]}, return_tensors="np")
            batch["token_type_ids"] = np.zeros_like(batch["input_ids"])
            states = run({name: batch[name] for name in example})[0]
            mask = batch["attention_mask"][..., None]
            vectors[rows] = (states * mask).sum(1) / mask.sum(1)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return embed, "bfloat16"


WAYS: dict[str, Callable[[], tuple[Embed, str]]] = {
    REFERENCE: sentence_transformers_float32,
    "sentence-transformers bfloat16": sentence_transformers_bfloat16,
    "OpenVINO bfloat16": openvino_bfloat16,
    "skembed float32": skembed_float32,
    "skembed": skembed_auto,
}


# One process for each ---------------------------------------------------------------------------


def serve(name: str, pipe: Any) -> None:
    """Embed what comes through the pipe and send back vectors and seconds, until None comes."""
    try:
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        embed, dtype = WAYS[name]()
        embed(["a text to load the weights with", "and another one"])
        pipe.send((dtype, None))
    except Exception as error:  # a peer that cannot run is left out, and said to be
        pipe.send((None, f"{type(error).__name__}: {error}"))
        return
    while (request := pipe.recv()) is not None:
        texts, wants_vectors = request
        started = time.perf_counter()
        vectors = embed(texts)
        seconds = time.perf_counter() - started
        pipe.send((vectors if wants_vectors else None, seconds, peak_rss_bytes()))


class Way:
    """A way of embedding, in its process."""

    def __init__(self, name: str) -> None:
        self.name = name
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(name, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.dtype, self.trouble = self.pipe.recv()
        self.peak_rss = 0

    def embed(self, texts: list[str], *, wants_vectors: bool = False) -> tuple[Any, float]:
        """Return the vectors, if they are wanted, and the seconds it took to make them."""
        self.pipe.send((texts, wants_vectors))
        vectors, seconds, self.peak_rss = self.pipe.recv()
        return vectors, seconds

    def stop(self) -> None:
        """End the process."""
        if self.process.is_alive():
            self.pipe.send(None)
        self.process.join()


def measure_peak_apart() -> dict[str, float]:
    """Measure the matrix product in a process of its own, so that this one stays without torch."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(measure_matrix_peak)


def start_ways(peaks: dict[str, float]) -> list[Way]:
    """Start every way that this machine can run, and say why the others are left out."""
    has_bfloat16 = peaks["bfloat16"] > LEAST_BFLOAT16_GAIN * peaks["float32"]
    ways = []
    for name in WAYS:
        if name.endswith("bfloat16") and not has_bfloat16:
            print(f"{name}: left out, this processor is not faster in bfloat16")
            continue
        way = Way(name)
        if way.trouble:
            print(f"{name}: left out, {way.trouble}")
            continue
        ways.append(way)
    return ways


# Measuring --------------------------------------------------------------------------------------


def check_parity(ways: list[Way], texts: list[str]) -> tuple[list[Way], dict[str, float]]:
    """Return the ways whose vectors agree with the reference's, and the least cosine of each."""
    reference, _ = ways[0].embed(texts, wants_vectors=True)
    cosines = {}
    for way in ways:
        vectors, _ = way.embed(texts, wants_vectors=True)
        cosines[way.name] = least_cosine(vectors, reference)
    equal = [way for way in ways if cosines[way.name] >= LEAST_COSINE[way.dtype]]
    for way in ways:
        if way not in equal:
            print(f"{way.name}: NOT TIMED, least cosine {cosines[way.name]:.6f}")
    return equal, cosines


def measure(
    ways: list[Way], texts: list[str], n_tokens: list[int], n_rounds: int, peaks: dict[str, float]
) -> dict[str, Any]:
    """Time the ways in turn; return what was found for each."""
    ways, cosines = check_parity(ways, texts)
    seconds: dict[str, list[float]] = {way.name: [] for way in ways}
    for _ in range(n_rounds):
        for way in ways:
            seconds[way.name].append(way.embed(texts)[1])
    latencies = {w.name: [w.embed([text])[1] for text in texts[:20]] for w in ways}
    config = json.loads((minilm_folder() / "config.json").read_text(encoding="utf-8"))
    gflop = count_flops(n_tokens, config) / 1e9
    found: dict[str, Any] = {"least_cosine": cosines}
    for way in ways:
        typical = statistics.median(seconds[way.name])
        ratios = [a / b for a, b in zip(seconds[REFERENCE], seconds[way.name], strict=True)]
        found[way.name] = {
            "dtype": way.dtype,
            "seconds": seconds[way.name],
            "rows_per_second": len(texts) / typical,
            "tokens_per_second": sum(n_tokens) / typical,
            "times_reference": summarize(ratios),
            "gflops": gflop / typical,
            "share_of_peak": gflop / typical / peaks[way.dtype],
            "one_row_milliseconds": 1e3 * statistics.median(latencies[way.name]),
            "peak_rss_mib": way.peak_rss / 2**20,
        }
    return found


def show(title: str, found: dict[str, Any]) -> None:
    """Print the table of one kind of texts."""
    print(f"\n{title}")
    print(
        f"{'':<31} {'rows/s':>7} {'tokens/s':>9}  {'times reference':<18} {'GFLOP/s':>8} "
        f"{'of peak':>7} {'1 row ms':>9} {'MiB':>6}  least cosine"
    )
    for name, line in found.items():
        if name == "least_cosine":
            continue
        r = line["times_reference"]
        times = f"{r['median']:.2f} ({r['min']:.2f}-{r['max']:.2f})"
        print(
            f"{name:<31} {line['rows_per_second']:7.0f} {line['tokens_per_second']:9.0f}  "
            f"{times:<18} {line['gflops']:8.0f} {line['share_of_peak']:7.0%} "
            f"{line['one_row_milliseconds']:9.1f} {line['peak_rss_mib']:6.0f}  "
            f"{found['least_cosine'][name]:.6f}"
        )


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=4000, help="short rows; documents: a quarter")
    args = parser.parse_args()
    n_rounds = args.rounds or 5
    kinds = {
        "short rows": cut_texts(short_lengths(args.rows), minilm_folder()),
        "documents": cut_texts(document_lengths(max(1, args.rows // 4)), minilm_folder()),
    }
    peaks = measure_peak_apart()
    print("peak, GFLOP/s:", ", ".join(f"{name} {peak:.0f}" for name, peak in peaks.items()))
    ways = start_ways(peaks)
    results: dict[str, Any] = {"rounds": n_rounds, "peak_gflops": peaks}
    for kind, texts in kinds.items():
        n_tokens = count_tokens(texts)
        title = f"{len(texts):,} {kind}, {np.mean(n_tokens):.1f} tokens each, {n_rounds} rounds"
        results[kind] = {"rows": len(texts), "mean_tokens": float(np.mean(n_tokens))}
        results[kind].update(measure(ways, texts, n_tokens, n_rounds, peaks))
        show(title, {k: v for k, v in results[kind].items() if k not in ("rows", "mean_tokens")})
    for way in ways:
        way.stop()
    write_results(args.out, results)
    if any(name not in results[kind] for kind in kinds for name in ("skembed", "skembed float32")):
        sys.exit("skembed's vectors differ from sentence-transformers'")


def count_tokens(texts: list[str]) -> list[int]:
    """Return the tokens of each text, special ones included."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return [len(encoding.ids) for encoding in tokenizer.encode_batch(texts)]


if __name__ == "__main__":
    main()
