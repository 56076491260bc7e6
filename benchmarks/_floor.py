"""The floor under a time: what this machine reaches at best, and what MiniLM asks of it.

Peaks are measured, not looked up: matrix products of the model's own shapes, on weights as torch
takes them ("plain") and laid out once for oneDNN ("packed"), and reading and copying tensors much
larger than the caches.

What is counted:

- Operations: two for every weight of a linear layer and token, and the two products of attention,
  which grow with the square of a row's length. Layer norm, softmax, GELU, embeddings, pooling and
  the tokenizer count nothing.
- Bytes: the weights of the linear layers, read once for every batch of 4,096 tokens, and what goes
  into and comes out of each linear layer (query, key and value as one layer), as if it went through
  main memory. What lies between the linear layers counts nothing, nor do the embeddings. Caches can
  keep some of what is counted: by bytes the floor is a measure, by operations it is a bound.
- For one row: its operations, and the weights read once.

Numbers are of 4 bytes in float32 and 2 in bfloat16. In int8, weights and what goes into a linear
layer have 1 byte, what comes out 2, and attention runs at the better of the other two peaks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

__all__ = [
    "best_peaks",
    "count_flops",
    "find_floor",
    "find_floor_of_one_row",
    "is_bfloat16_faster",
    "measure_bandwidth",
    "measure_matrix_peaks",
]

SHAPES = ((384, 384), (384, 1152), (384, 1536), (1536, 384))
"""Features in and out of MiniLM's linear layers; 1,152 is query, key and value in one."""

TOKENS_PER_BATCH = 4096
LEAST_BFLOAT16_GAIN = 1.3

# Bytes of a weight, of a number that goes into a linear layer, and of one that comes out.
_BYTES = {"float32": (4, 4, 4), "bfloat16": (2, 2, 2), "int8": (1, 1, 2)}
_MOST_SECONDS = 1.0
_ABSENT = (AttributeError, NotImplementedError, RuntimeError)

Peaks = dict[str, dict[str, dict[str, float]]]


# What the machine reaches -----------------------------------------------------------------------


def measure_matrix_peaks(
    n_repeats: int = 20,
    n_tokens: Sequence[int] = (512, 1024, 2048, 4096, 8192),
    dtypes: Sequence[str] = ("float32", "bfloat16", "int8"),
) -> Peaks:
    """Return the GFLOP/s of this machine's matrix product, by number format, kind and shape.

    The best of all repeats and numbers of tokens counts. What this torch or this processor does not
    have is left out.
    """
    import torch

    peaks: Peaks = {}
    with torch.inference_mode():
        for dtype in dtypes:
            found = peaks.setdefault(dtype, {})
            for n_rows in n_tokens:
                for n_in, n_out in SHAPES:
                    flops = 2.0 * n_rows * n_in * n_out
                    for kind, run in _products(dtype, n_rows, n_in, n_out).items():
                        gflops = 1e-9 * flops / _least_seconds(run, n_repeats)
                        of_kind = found.setdefault(kind, {})
                        shape = f"{n_in}x{n_out}"
                        of_kind[shape] = max(of_kind.get(shape, 0.0), gflops)
    return {dtype: found for dtype, found in peaks.items() if found}


def best_peaks(peaks: Peaks) -> dict[str, float]:
    """Return the best GFLOP/s of each number format."""
    return {dtype: max(best_of_kinds(found).values()) for dtype, found in peaks.items()}


def best_of_kinds(found: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return the best shape's GFLOP/s on plain and on packed weights."""
    return {kind: max(by_shape.values()) for kind, by_shape in found.items()}


def measure_bandwidth(n_bytes: int = 512 << 20, n_repeats: int = 10) -> dict[str, float]:
    """Return how many GB/s of main memory this machine reads, and copies (reads and writes)."""
    import torch

    source = torch.ones(n_bytes // 4)
    target = torch.zeros_like(source)
    seconds = {
        "copy": _least_seconds(lambda: target.copy_(source), n_repeats, 10.0) / 2,
        "sum": _least_seconds(source.sum, n_repeats, 10.0),
        "dot": _least_seconds(lambda: torch.dot(source, target), n_repeats, 10.0) / 2,
    }
    speeds = {name: 1e-9 * n_bytes / each for name, each in seconds.items()}
    return {"copy": speeds["copy"], "read": max(speeds["sum"], speeds["dot"])}


def is_bfloat16_faster() -> bool:
    """Return whether matrix products in bfloat16 are clearly faster here than in float32."""
    best = best_peaks(measure_matrix_peaks(10, (1024,), ("float32", "bfloat16")))
    return has_bfloat16_gain(best)


def has_bfloat16_gain(best: dict[str, float]) -> bool:
    """Return whether the peak in bfloat16 is clearly above the one in float32."""
    return best.get("bfloat16", 0.0) > LEAST_BFLOAT16_GAIN * best["float32"]


def _products(dtype: str, n_tokens: int, n_in: int, n_out: int) -> dict[str, Callable[[], Any]]:
    """Return the matrix products of one shape that run here, by kind."""
    import torch
    from torch.nn.functional import linear

    made: dict[str, Callable[[], Any]] = {}
    if dtype == "int8":
        candidates = {"packed": _int8_product}
    else:
        rows = torch.randn(n_tokens, n_in).to(getattr(torch, dtype))
        weight = torch.randn(n_out, n_in).to(getattr(torch, dtype))
        made["plain"] = lambda: linear(rows, weight)
        candidates = {"packed": lambda *_: _packed_product(rows, weight)}
    for kind, make in candidates.items():
        try:
            run = make(n_tokens, n_in, n_out)
            run()
        except _ABSENT:
            continue
        made[kind] = run
    return made


def _packed_product(rows: Any, weight: Any) -> Callable[[], Any]:
    import torch

    packed = torch.ops.mkldnn._reorder_linear_weight(weight, len(rows))
    return lambda: torch.ops.mkldnn._linear_pointwise(rows, packed, None, "none", [], "")


def _int8_product(n_tokens: int, n_in: int, n_out: int) -> Callable[[], Any]:
    """Return a product of unsigned rows and signed weights.

    Signed rows would take oneDNN's reference implementation, which runs for seconds.
    """
    import torch

    rows = torch.randint(0, 256, (n_tokens, n_in), dtype=torch.uint8)
    weight = torch.randint(-127, 128, (n_out, n_in), dtype=torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(weight, [n_tokens, n_in])
    scales, zeros = torch.full((n_out,), 0.01), torch.zeros(n_out, dtype=torch.int64)
    inputs, output = (rows, 0.01, 128, packed, scales, zeros, None), (1.0, 0, torch.bfloat16)
    return lambda: torch.ops.onednn.qlinear_pointwise(*inputs, *output, "none", [], "")


def _least_seconds(
    run: Callable[[], Any], n_repeats: int, most_seconds: float = _MOST_SECONDS
) -> float:
    """Return the seconds of the fastest of some calls; fewer calls if they take long."""
    least, begun = float("inf"), time.perf_counter()
    for _ in range(n_repeats):
        started = time.perf_counter()
        run()
        ended = time.perf_counter()
        least = min(least, ended - started)
        if ended - begun > most_seconds:
            break
    return least


# What the model asks for ------------------------------------------------------------------------


def count_flops(n_tokens: Sequence[int], config: dict[str, Any]) -> dict[str, float]:
    """Return the operations of a BERT-like model on rows of these lengths, by what asks for them.

    They are as the module says: those of the linear layers and of attention's products.
    """
    lengths = np.asarray(n_tokens, dtype=float)
    n_layers, width = config["num_hidden_layers"], config["hidden_size"]
    return {
        "linear": float(2 * _count_weights(config) * lengths.sum()),
        "attention": float(n_layers * 4 * width * (lengths**2).sum()),
    }


def find_floor(
    n_tokens: Sequence[int],
    config: dict[str, Any],
    dtype: str,
    peak_gflops: dict[str, float],
    bandwidth: dict[str, float],
) -> dict[str, Any]:
    """Return the least time of a token that the peaks allow, on average over rows."""
    total = float(sum(n_tokens))
    flops = {name: n / total for name, n in count_flops(n_tokens, config).items()}
    of_weight, of_input, of_output = _BYTES[dtype]
    inner, width = config["intermediate_size"], config["hidden_size"]
    n_in, n_out = 3 * width + inner, 5 * width + inner  # of the four linear layers of a block
    n_bytes = {
        "weights": of_weight * _count_weights(config) / TOKENS_PER_BATCH,
        "activations": config["num_hidden_layers"] * (of_input * n_in + of_output * n_out),
    }
    found = _bind(flops, dtype, sum(n_bytes.values()), peak_gflops, bandwidth)
    return {
        "flops_per_token": flops,
        "bytes_per_token": n_bytes,
        "microseconds_per_token": {name: 1e6 * each for name, each in found["seconds"].items()},
        "bound_by": found["bound_by"],
        "tokens_per_second": 1 / found["seconds"][found["bound_by"]],
    }


def find_floor_of_one_row(
    n_tokens: float,
    config: dict[str, Any],
    dtype: str,
    peak_gflops: dict[str, float],
    bandwidth: dict[str, float],
) -> dict[str, Any]:
    """Return the least time of a single row that the peaks allow."""
    flops = count_flops([n_tokens], config)  # type: ignore[list-item]
    n_bytes = _BYTES[dtype][0] * _count_weights(config)
    found = _bind(flops, dtype, n_bytes, peak_gflops, bandwidth)
    return {
        "tokens": n_tokens,
        "milliseconds": {name: 1e3 * each for name, each in found["seconds"].items()},
        "bound_by": found["bound_by"],
    }


def _count_weights(config: dict[str, Any]) -> int:
    """Return the weights of a BERT-like model's linear layers."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    return int(config["num_hidden_layers"] * (4 * width * width + 2 * width * inner))


def _bind(
    flops: dict[str, float],
    dtype: str,
    n_bytes: float,
    peak_gflops: dict[str, float],
    bandwidth: dict[str, float],
) -> dict[str, Any]:
    """Return the seconds by compute and by bytes, and which are more."""
    others = [peak for name, peak in peak_gflops.items() if name != "int8"]
    attention_peak = max(others) if dtype == "int8" else peak_gflops[dtype]
    seconds = {
        "compute": 1e-9 * flops["linear"] / peak_gflops[dtype]
        + 1e-9 * flops["attention"] / attention_peak,
        "bytes": 1e-9 * n_bytes / max(bandwidth.values()),
    }
    return {"seconds": seconds, "bound_by": max(seconds, key=seconds.__getitem__)}
