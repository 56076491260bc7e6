"""Image files per second through ResNet-50, from disk to vectors: skembed beside its peers.

Every way lives in a process of its own with the same weights, and all of them embed the same
distinct JPEG files (500 x 375 and the like, cut from two photographs) in turn (A B C A B C ...),
with nothing cached but the files by the system. Before anything is timed the vectors are compared
with those of torchvision's own loop in float32; a way that differs gets no time. Ratios are taken
within a round.

    python benchmarks/image_throughput.py --out benchmarks/results/image_throughput.json
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
from _common import call_apart, make_parser, summarize, write_results
from _floor import best_peaks, has_bfloat16_gain, measure_matrix_peaks
from _image_ways import LEAST_COSINE, REFERENCE, WAYS, write_weights
from _processes import Way, check_parity, start_ways

GFLOP_PER_IMAGE = 8.18
"""Two operations for each of the 4.09 G multiplications of ResNet-50's layers at 224 x 224."""


def write_photographs(folder: Path, n: int) -> list[str]:
    """Write n distinct JPEG files of some 375 x 500 pixels; return their paths."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    paths = []
    for i in range(n):
        image = photographs[i % len(photographs)]
        share = rng.uniform(0.5, 0.95)
        width, height = int(share * image.width), int(share * image.height)
        left = int(rng.integers(0, image.width - width + 1))
        top = int(rng.integers(0, image.height - height + 1))
        piece = image.crop((left, top, left + width, top + height))
        size = (500, 375) if i % 3 else (375, 500)
        path = folder / f"{i:05d}.jpg"
        piece.resize(size).rotate(float(rng.uniform(-5, 5))).save(path, quality=90)
        paths.append(str(path))
    return paths


def measure(ways: list[Way], paths: list[str], n_rounds: int, peaks: dict[str, float]) -> Any:
    """Time the ways in turn; return what was found for each."""
    ways, cosines = check_parity(ways, paths, LEAST_COSINE)
    seconds: dict[str, list[float]] = {way.name: [] for way in ways}
    for _ in range(n_rounds):
        for way in ways:
            seconds[way.name].append(way.seconds(paths))
    one_file = {way.name: way.seconds_of_each([[path] for path in paths[:20]]) for way in ways}
    found: dict[str, Any] = {}
    for way in ways:
        typical = statistics.median(seconds[way.name])
        ratios = [a / b for a, b in zip(seconds[REFERENCE], seconds[way.name], strict=True)]
        gflops = GFLOP_PER_IMAGE * len(paths) / typical
        found[way.name] = {
            "dtype": way.dtype,
            "seconds": seconds[way.name],
            "files_per_second": len(paths) / typical,
            "times_reference": summarize(ratios),
            "gflops": gflops,
            "share_of_peak": gflops / peaks[way.dtype],
            "one_file_milliseconds": 1e3 * statistics.median(one_file[way.name]),
            "peak_rss_mib": way.peak_rss() / 2**20,
        }
    return {"least_cosine": cosines, "ways": found}


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    print(
        f"\n{'':<22} {'files/s':>8}  {'times reference':<18} {'of peak':>7} {'1 file ms':>9} "
        f"{'MiB':>6}  least cosine"
    )
    for name, line in found["ways"].items():
        r = line["times_reference"]
        times = f"{r['median']:.2f} ({r['min']:.2f}-{r['max']:.2f})"
        print(
            f"{name:<22} {line['files_per_second']:8.1f}  {times:<18} "
            f"{line['share_of_peak']:7.0%} {line['one_file_milliseconds']:9.1f} "
            f"{line['peak_rss_mib']:6.0f}  {found['least_cosine'][name]:.6f}"
        )


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--files", type=int, default=256, help="image files")
    args = parser.parse_args()
    peaks = best_peaks(call_apart(measure_matrix_peaks))
    print("peaks, GFLOP/s: " + ", ".join(f"{name} {peak:.0f}" for name, peak in peaks.items()))
    with tempfile.TemporaryDirectory() as scratch:
        paths = write_photographs(Path(scratch), args.files)
        write_weights(Path(scratch) / "resnet50.pth")
        ways = start_ways(WAYS, paths[:2], has_bfloat16=has_bfloat16_gain(peaks))
        found = measure(ways, paths, args.rounds or 5, peaks)
        for way in ways:
            way.stop()
    show(found)
    rounds = args.rounds or 5
    write_results(args.out, {"rounds": rounds, "files": args.files, "peaks": peaks, **found})


if __name__ == "__main__":
    main()
