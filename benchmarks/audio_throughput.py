"""Seconds of sound per second through wav2vec 2.0 base, from disk to vectors: skembed and peers.

Every way lives in a process of its own with the same weights, and all of them embed the same
distinct WAV files (16 kHz, 1 to 6 seconds, in no order) in turn (A B C A B C ...), with nothing
cached but the files by the system. Before anything is timed the vectors are compared with those of
transformers' model on one clip at a time in float32; a way that differs gets no time, but for the
loops that pad: the model normalises over time, so that padding changes its vectors, and how much
is shown. Ratios are taken within a round.

    python benchmarks/audio_throughput.py --out benchmarks/results/audio_throughput.json
"""

from __future__ import annotations

import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
from _audio_ways import ALONE, LEAST_COSINE, REFERENCE, WAYS, write_model
from _common import call_apart, make_parser, summarize, write_results
from _floor import best_peaks, has_bfloat16_gain, measure_matrix_peaks
from _processes import Way, check_parity, start_ways

_RATE = 16_000
_PADDING = (REFERENCE, "transformers bfloat16")


def write_clips(folder: Path, n: int) -> tuple[list[str], float]:
    """Write n distinct WAV files of 1 to 6 seconds; return their paths and seconds in all."""
    import soundfile

    rng = np.random.default_rng(0)
    paths, n_seconds = [], 0.0
    for i in range(n):
        seconds = float(rng.uniform(1, 6))
        t = np.arange(round(_RATE * seconds)) / _RATE
        pitch = 120 + 60 * np.sin(2 * np.pi * rng.uniform(0.2, 2) * t)
        voice = sum(np.sin(2 * np.pi * k * np.cumsum(pitch) / _RATE) / k for k in range(1, 12))
        level = 0.1 * (1 + np.sin(2 * np.pi * rng.uniform(1, 4) * t))
        path = folder / f"{i:05d}.wav"
        soundfile.write(path, level * voice / 2 + 0.01 * rng.normal(size=len(t)), _RATE)
        paths.append(str(path))
        n_seconds += len(t) / _RATE
    return paths, n_seconds


def measure(ways: list[Way], paths: list[str], n_seconds: float, n_rounds: int) -> Any:
    """Time the ways in turn; return what was found for each."""
    exact, cosines = check_parity(
        [way for way in ways if way.name not in _PADDING], paths, LEAST_COSINE
    )
    padding = [way for way in ways if way.name in _PADDING]
    least = {"float32": -1.0, "bfloat16": -1.0}
    cosines.update(check_parity([exact[0], *padding], paths, least)[1])
    ways = [way for way in ways if way in exact or way in padding]
    seconds: dict[str, list[float]] = {way.name: [] for way in ways}
    for _ in range(n_rounds):
        for way in ways:
            seconds[way.name].append(way.seconds(paths))
    one_clip = {way.name: way.seconds_of_each([[path] for path in paths[:10]]) for way in ways}
    found: dict[str, Any] = {}
    for way in ways:
        typical = statistics.median(seconds[way.name])
        ratios = [a / b for a, b in zip(seconds[REFERENCE], seconds[way.name], strict=True)]
        found[way.name] = {
            "dtype": way.dtype,
            "seconds": seconds[way.name],
            "times_real_time": n_seconds / typical,
            "times_reference": summarize(ratios),
            "one_clip_milliseconds": 1e3 * statistics.median(one_clip[way.name]),
            "peak_rss_mib": way.peak_rss() / 2**20,
        }
    return {"least_cosine": cosines, "ways": found}


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    print(
        f"\n{'':<28} {'x real time':>11}  {'times reference':<18} {'1 clip ms':>9} {'MiB':>6}  "
        f"least cosine to {ALONE}"
    )
    for name, line in found["ways"].items():
        r = line["times_reference"]
        times = f"{r['median']:.2f} ({r['min']:.2f}-{r['max']:.2f})"
        print(
            f"{name:<28} {line['times_real_time']:11.1f}  {times:<18} "
            f"{line['one_clip_milliseconds']:9.1f} {line['peak_rss_mib']:6.0f}  "
            f"{found['least_cosine'][name]:.6f}"
        )


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--files", type=int, default=48, help="sound files")
    args = parser.parse_args()
    peaks = best_peaks(call_apart(measure_matrix_peaks))
    print("peaks, GFLOP/s: " + ", ".join(f"{name} {peak:.0f}" for name, peak in peaks.items()))
    rounds = args.rounds or 5
    with tempfile.TemporaryDirectory() as scratch:
        paths, n_seconds = write_clips(Path(scratch), args.files)
        write_model(Path(scratch))
        ways = start_ways(WAYS, paths[:2], has_bfloat16=has_bfloat16_gain(peaks))
        found = measure(ways, paths, n_seconds, rounds)
        for way in ways:
            way.stop()
    show(found)
    settings = {"rounds": rounds, "files": args.files, "seconds_of_sound": n_seconds}
    write_results(args.out, {**settings, "peaks": peaks, **found})


if __name__ == "__main__":
    main()
