"""Rows per second on a CUDA GPU: skembed beside sentence-transformers in bfloat16 with SDPA.

Distinct texts of exactly 16, 64, 256 and 512 tokens, both libraries in bfloat16 on MiniLM with
``max_length=512``, which its positions allow. sentence-transformers runs with the best of four
batch sizes for each length, skembed as it plans by itself. Before anything is timed the vectors are
compared with sentence-transformers in float32. The ways take turns; tokenizing is part of the time.
Operations a second are set beside the best matrix products in bfloat16 of this GPU: large ones, and
those of the model's own shapes. Ends with a word where there is no CUDA GPU.

    python benchmarks/cuda_throughput.py --out benchmarks/results/cuda_throughput.json
    python benchmarks/cuda_throughput.py --device cpu --rows 64 --rounds 1     # a dry run
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
import torch
from _common import least_cosine, make_parser, minilm_folder, read_config, summarize, write_results
from _data import count_tokens, draw_texts
from _floor import SHAPES, count_flops

LENGTHS = (16, 64, 256, 512)
MAX_LENGTH = 512
BATCH_SIZES = (32, 128, 512, 1024)
LEAST_COSINE = 0.9995
N_PARITY = 256
PEER, OURS = "sentence-transformers", "skembed"

Embed = Callable[[list[str]], np.ndarray]


# What the device reaches ------------------------------------------------------------------------


def measure_peaks(device: str) -> dict[str, float]:
    """Return the best TFLOP/s of matrix products in bfloat16: large, and of the model's shapes."""
    on_gpu = torch.device(device).type == "cuda"
    large = (4096, 8192, 16384) if on_gpu else (512,)
    n_tokens = (4096, 16384, 65536, 262144) if on_gpu else (1024,)
    squares = [time_product(device, size, size, size) for size in large]
    layers = [time_product(device, n, *shape) for n in n_tokens for shape in SHAPES]
    return {"large products": max(squares), "shapes of the model": max(layers)}


def time_product(
    device: str, n_rows: int, n_in: int, n_out: int, n_repeats: int = 10, n_calls: int = 10
) -> float:
    """Return the best TFLOP/s of one linear layer without bias."""
    rows = torch.randn(n_rows, n_in, dtype=torch.bfloat16, device=device)
    weight = torch.randn(n_out, n_in, dtype=torch.bfloat16, device=device)
    least = float("inf")
    with torch.inference_mode():
        for _ in range(n_repeats):
            synchronize(device)
            started = time.perf_counter()
            for _ in range(n_calls):  # queued, so that their starts do not count
                torch.nn.functional.linear(rows, weight)
            synchronize(device)
            least = min(least, (time.perf_counter() - started) / n_calls)
    return 2e-12 * n_rows * n_in * n_out / least


def synchronize(device: str) -> None:
    """Wait for what the device has been given to do."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


# The ways ---------------------------------------------------------------------------------------


def make_skembed(device: str) -> Embed:
    """Make skembed in bfloat16, without its store."""
    from skembed import TextEmbedder

    embedder = TextEmbedder(
        minilm_folder(), device=device, dtype="bfloat16", max_length=MAX_LENGTH, cache=None
    )
    return embedder.transform


def make_sentence_transformers(device: str, dtype: torch.dtype) -> Any:
    """Make sentence-transformers with torch's fused attention."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(
        str(minilm_folder()),
        device=device,
        model_kwargs={"dtype": dtype, "attn_implementation": "sdpa"},
    )
    model.max_seq_length = MAX_LENGTH
    return model


def with_batches(model: Any, batch_size: int) -> Embed:
    """Return what embeds with a sentence-transformers model, so many rows at once."""
    return lambda texts: model.encode(texts, batch_size=batch_size, show_progress_bar=False)


# Measuring --------------------------------------------------------------------------------------


def check_parity(texts: list[str], reference: Embed, ways: dict[str, Embed]) -> dict[str, float]:
    """Return the least cosine of each way to the reference; end if one is too low."""
    expected = reference(texts)
    cosines = {name: least_cosine(embed(texts), expected) for name, embed in ways.items()}
    if min(cosines.values()) < LEAST_COSINE:
        sys.exit(f"vectors differ, nothing is timed: {cosines}")
    return cosines


def tune_batch_size(model: Any, texts: list[str], device: str) -> dict[str, float]:
    """Return the seconds with each batch size; those of more than all rows are one."""
    sizes = dict.fromkeys(min(n, len(texts)) for n in BATCH_SIZES)
    return {str(n): time_call(with_batches(model, n), texts, device) for n in sizes}


def time_call(embed: Embed, texts: list[str], device: str) -> float:
    """Embed texts and return the seconds."""
    synchronize(device)
    started = time.perf_counter()
    embed(texts)
    synchronize(device)
    return time.perf_counter() - started


def measure_length(
    n_rows: int, n_tokens: int, n_rounds: int, device: str, models: dict[str, Any]
) -> dict[str, Any]:
    """Compare and time the ways on rows of one length."""
    texts = draw_texts(n_rows, n_tokens, minilm_folder())
    assert set(count_tokens(texts, minilm_folder())) == {n_tokens}
    time_call(with_batches(models[PEER], BATCH_SIZES[0]), texts[:N_PARITY], device)
    tuning = tune_batch_size(models[PEER], texts, device)
    best = min(tuning, key=tuning.__getitem__)
    ways = {PEER: with_batches(models[PEER], int(best)), OURS: models[OURS]}
    cosines = check_parity(texts[:N_PARITY], with_batches(models["reference"], 32), ways)
    for embed in ways.values():
        time_call(embed, texts, device)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    memory = dict.fromkeys(ways, 0.0)
    for _ in range(n_rounds):
        for name, embed in ways.items():
            forget_peak_memory(device)
            seconds[name].append(time_call(embed, texts, device))
            memory[name] = max(memory[name], peak_memory_mib(device))
    return {
        "rows": n_rows,
        "batch_size": {PEER: int(best), "tried": tuning},
        "least_cosine": cosines,
        "seconds": seconds,
        "device_peak_mib": memory,
    }


def forget_peak_memory(device: str) -> None:
    """Begin the peak of the device's memory anew."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mib(device: str) -> float:
    """Return the most memory of the device that tensors have had, the models' weights included."""
    if torch.device(device).type != "cuda":
        return 0.0
    return torch.cuda.max_memory_allocated(device) / 2**20


def summarize_length(
    found: dict[str, Any], n_tokens: int, peaks: dict[str, float]
) -> dict[str, Any]:
    """Return rates, ratios and shares of the peaks from the seconds of one length."""
    n_rows, seconds = found["rows"], found["seconds"]
    tflop = 1e-12 * sum(count_flops([n_tokens] * n_rows, read_config()).values())
    lines = {}
    for name, times in seconds.items():
        typical = statistics.median(times)
        ratios = [a / b for a, b in zip(seconds[PEER], times, strict=True)]
        lines[name] = {
            "rows_per_second": n_rows / typical,
            "tokens_per_second": n_rows * n_tokens / typical,
            "times_peer": summarize(ratios),
            "tflops": tflop / typical,
            "share_of_peak": {kind: tflop / typical / peak for kind, peak in peaks.items()},
        }
    return {**found, "ways": lines}


def show(n_tokens: int, found: dict[str, Any]) -> None:
    """Print the table of one length."""
    print(
        f"\n{found['rows']:,} rows of {n_tokens} tokens; {PEER}: {found['batch_size'][PEER]} rows "
        f"at once\n{'':<22} {'rows/s':>8} {'tokens/s':>10}  {'times peer':<18} {'TFLOP/s':>8} "
        f"{'of large':>8} {'of shapes':>9} {'MiB':>7}  least cosine"
    )
    for name, line in found["ways"].items():
        r, share = line["times_peer"], line["share_of_peak"]
        times = f"{r['median']:.2f} ({r['min']:.2f}-{r['max']:.2f})"
        print(
            f"{name:<22} {line['rows_per_second']:8.0f} {line['tokens_per_second']:10.0f}  "
            f"{times:<18} {line['tflops']:8.2f} {share['large products']:8.1%} "
            f"{share['shapes of the model']:9.1%} {found['device_peak_mib'][name]:7.0f}  "
            f"{found['least_cosine'][name]:.6f}"
        )


def describe_device(device: str) -> dict[str, Any]:
    """Return what the device is."""
    if torch.device(device).type != "cuda":
        return {"name": device}
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "capability": [properties.major, properties.minor],
        "memory_mib": properties.total_memory / 2**20,
        "cuda": torch.version.cuda,
    }


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--device", default="cuda", help="cpu for a dry run")
    parser.add_argument("--rows", type=int, default=16_384, help="rows of each length")
    parser.add_argument("--tokens", type=int, nargs="+", default=LENGTHS, help="tokens of a row")
    args = parser.parse_args()
    device, n_rounds = args.device, args.rounds or 5
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        print("no CUDA GPU here: nothing to measure")
        return
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    about, peaks = describe_device(device), measure_peaks(device)
    kinds = ", ".join(f"{kind} {peak:.1f}" for kind, peak in peaks.items())
    print(f"{about['name']}; peaks in bfloat16, TFLOP/s: {kinds}")
    models = {
        "reference": make_sentence_transformers(device, torch.float32),
        PEER: make_sentence_transformers(device, torch.bfloat16),
        OURS: make_skembed(device),
    }
    results: dict[str, Any] = {
        "device": about,
        "rounds": n_rounds,
        "max_length": MAX_LENGTH,
        "peak_tflops": peaks,
        "tokens_a_row": {},
    }
    for n_tokens in args.tokens:
        found = measure_length(args.rows, n_tokens, n_rounds, device, models)
        results["tokens_a_row"][n_tokens] = summarize_length(found, n_tokens, peaks)
        show(n_tokens, results["tokens_a_row"][n_tokens])
    write_results(args.out, results)


if __name__ == "__main__":
    main()
