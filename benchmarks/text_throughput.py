"""Rows per second on short and on mixed texts: skembed beside its peers.

Every way of embedding lives in a process of its own with the same MiniLM, and all of them embed the
same distinct texts in turn (A B C A B C ...), with nothing cached. Before anything is timed the
vectors are compared with those of sentence-transformers in float32, and the accuracy of a
classifier on them with that on the reference's; a way that differs gets no time. Ratios are taken
within a round. Every time is set beside the floor that this machine's own measured peaks put under
it (`_floor.py` says what is counted), and skembed's forward pass is taken apart by operator.

    python benchmarks/text_throughput.py --rows 4000 --out benchmarks/results/text_throughput.json
"""

from __future__ import annotations

import os
import statistics
import sys
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # torch's profiler, of every start

import numpy as np
from _common import call_apart, make_parser, minilm_folder, read_config, summarize, write_results
from _data import count_tokens, cut_texts, document_lengths, labelled_texts, short_lengths
from _floor import (
    Peaks,
    best_of_kinds,
    best_peaks,
    count_flops,
    find_floor,
    find_floor_of_one_row,
    has_bfloat16_gain,
    measure_bandwidth,
    measure_matrix_peaks,
)
from _processes import Way, check_parity, start_ways
from _ways import FIRST_ROWS, LEAST_COSINE, REFERENCE, WAYS
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

N_LABELLED, N_WORDS = 446, 40
ACCURACY_TOLERANCE = 0.005
EXPECTED = ("skembed", "skembed float32")
GOAL_KIND, GOAL = "64 tokens", 0.5
"""Of the peak on packed weights, for rows of 64 tokens."""


# Parity on a task -------------------------------------------------------------------------------


def check_accuracy(ways: list[Way]) -> tuple[list[Way], dict[str, float]]:
    """Return the ways on whose vectors a classifier does as well, and its accuracy on each."""
    texts, labels = labelled_texts(N_LABELLED, N_WORDS)
    classifier = LogisticRegression(max_iter=1000)
    accuracies = {
        way.name: float(
            cross_val_score(classifier, way.vectors(texts.tolist()), labels, cv=5).mean()
        )
        for way in ways
    }
    print(f"accuracy on {len(texts)} labelled docstrings, 5 folds:")
    equal = []
    for way in ways:
        difference = accuracies[way.name] - accuracies[ways[0].name]
        is_equal = abs(difference) <= ACCURACY_TOLERANCE
        verdict = "" if is_equal else "  NOT TIMED"
        print(f"  {way.name:<31} {accuracies[way.name]:.2%} ({100 * difference:+.2f}){verdict}")
        if is_equal:
            equal.append(way)
    return equal, accuracies


# Measuring --------------------------------------------------------------------------------------


def measure(
    ways: list[Way],
    texts: list[str],
    n_tokens: list[int],
    n_rounds: int,
    peaks: Peaks,
    bandwidth: dict[str, float],
) -> dict[str, Any]:
    """Time the ways in turn; return what was found for each, and the floors."""
    ways, cosines = check_parity(ways, texts, LEAST_COSINE)
    seconds: dict[str, list[float]] = {way.name: [] for way in ways}
    for _ in range(n_rounds):
        for way in ways:
            seconds[way.name].append(way.seconds(texts))
    one_row = {way.name: way.seconds_of_each([[text] for text in texts[:20]]) for way in ways}
    floors = find_floors({way.dtype for way in ways}, n_tokens, peaks, bandwidth)
    gflop = sum(count_flops(n_tokens, read_config()).values()) / 1e9
    best = best_peaks(peaks)
    found: dict[str, Any] = {}
    for way in ways:
        typical = statistics.median(seconds[way.name])
        ratios = [a / b for a, b in zip(seconds[REFERENCE], seconds[way.name], strict=True)]
        floor, row_floor = floors[way.dtype], floors[way.dtype]["one_row"]
        one_row_ms = 1e3 * statistics.median(one_row[way.name])
        packed = best_of_kinds(peaks[way.dtype]).get("packed")
        found[way.name] = {
            "dtype": way.dtype,
            "seconds": seconds[way.name],
            "rows_per_second": len(texts) / typical,
            "tokens_per_second": sum(n_tokens) / typical,
            "times_reference": summarize(ratios),
            "gflops": gflop / typical,
            "share_of_peak": gflop / typical / best[way.dtype],
            "share_of_packed_peak": gflop / typical / packed if packed else None,
            "share_of_floor": sum(n_tokens) / typical / floor["tokens_per_second"],
            "one_row_milliseconds": one_row_ms,
            "one_row_share_of_floor": max(row_floor["milliseconds"].values()) / one_row_ms,
            "peak_rss_mib": way.peak_rss() / 2**20,
        }
    return {"least_cosine": cosines, "floors": floors, "ways": found}


def find_floors(
    dtypes: set[str], n_tokens: list[int], peaks: Peaks, bandwidth: dict[str, float]
) -> dict[str, Any]:
    """Return the floor in each number format, for all rows and for one."""
    given = (best_peaks(peaks), bandwidth)
    one_row = float(np.median(n_tokens[:20]))
    return {
        dtype: {
            **find_floor(n_tokens, read_config(), dtype, *given),
            "one_row": find_floor_of_one_row(one_row, read_config(), dtype, *given),
        }
        for dtype in sorted(dtypes)
    }


# Showing ----------------------------------------------------------------------------------------


def show_peaks(peaks: Peaks, bandwidth: dict[str, float]) -> None:
    """Print what the machine reaches."""
    print("peaks, GFLOP/s:")
    for dtype, found in peaks.items():
        kinds = ", ".join(f"{kind} {peak:.0f}" for kind, peak in best_of_kinds(found).items())
        print(f"  {dtype:<9} {best_peaks(peaks)[dtype]:6.0f}  ({kinds})")
    kinds = ", ".join(f"{kind} {speed:.1f}" for kind, speed in bandwidth.items())
    print(f"  memory    {max(bandwidth.values()):6.1f} GB/s  ({kinds})")


def show(title: str, found: dict[str, Any]) -> None:
    """Print the tables of one kind of texts."""
    print(f"\n{title}")
    print(
        f"{'':<31} {'rows/s':>7} {'tokens/s':>9}  {'times reference':<18} {'GFLOP/s':>8} "
        f"{'of peak':>7} {'of floor':>8} {'1 row ms':>9} {'of floor':>8} {'MiB':>6}  least cosine"
    )
    for name, line in found["ways"].items():
        r = line["times_reference"]
        times = f"{r['median']:.2f} ({r['min']:.2f}-{r['max']:.2f})"
        print(
            f"{name:<31} {line['rows_per_second']:7.0f} {line['tokens_per_second']:9.0f}  "
            f"{times:<18} {line['gflops']:8.0f} {line['share_of_peak']:7.0%} "
            f"{line['share_of_floor']:8.0%} {line['one_row_milliseconds']:9.1f} "
            f"{line['one_row_share_of_floor']:8.0%} {line['peak_rss_mib']:6.0f}  "
            f"{found['least_cosine'][name]:.6f}"
        )
    for dtype, floor in found["floors"].items():
        show_floor(dtype, floor)


def show_floor(dtype: str, floor: dict[str, Any]) -> None:
    """Print the floor in one number format, and how it comes about."""
    times, flops = floor["microseconds_per_token"], floor["flops_per_token"]
    n_bytes, row = floor["bytes_per_token"], floor["one_row"]
    print(
        f"floor, {dtype}: {floor['tokens_per_second']:,.0f} tokens/s, bound by "
        f"{floor['bound_by']}. A token: {times['compute']:.1f} us by compute "
        f"({flops['linear'] / 1e6:.1f} + {flops['attention'] / 1e6:.1f} MFLOP: linear layers, "
        f"attention), {times['bytes']:.1f} us by bytes ({n_bytes['weights'] / 1e3:.1f} + "
        f"{n_bytes['activations'] / 1e3:.1f} kB: weights, activations)\n"
        f"  one row of {row['tokens']:.0f} tokens: {row['milliseconds']['compute']:.2f} ms by "
        f"compute, {row['milliseconds']['bytes']:.2f} ms by bytes"
    )


def show_profiles(kind: str, profiles: dict[str, Any]) -> None:
    """Print where forward passes on one kind of texts spend their time."""
    for name, found in profiles.items():
        shares = ", ".join(f"{kind} {share:.0%}" for kind, share in found["shares"].items())
        largest = ", ".join(f"{op} {share:.1%}" for op, share in found["largest_others"].items())
        print(
            f"{name}, {kind}, a batch of {found['tokens']:,} tokens in {found['rows']} rows, "
            f"{found['milliseconds']:.1f} ms: {shares}\n  other operators: {largest}"
        )


def show_goal(found: dict[str, Any]) -> None:
    """Print how near skembed is to the goal that is set for rows of 64 tokens."""
    for name, line in found["ways"].items():
        if name.startswith("skembed") and line["share_of_packed_peak"] is not None:
            print(
                f"goal, {GOAL:.0%} of the peak on packed weights: {name} "
                f"{line['share_of_packed_peak']:.0%}"
            )


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--rows", type=int, default=4000, help="short rows; of documents and of 64 tokens a quarter"
    )
    args = parser.parse_args()
    n_rounds, n_long, folder = args.rounds or 5, max(1, args.rows // 4), minilm_folder()
    kinds = {
        "short rows": cut_texts(short_lengths(args.rows), folder),
        "documents": cut_texts(document_lengths(n_long), folder),
        GOAL_KIND: cut_texts(np.full(n_long, 64), folder, is_exact=True),
    }
    peaks, bandwidth = call_apart(measure_matrix_peaks), call_apart(measure_bandwidth)
    show_peaks(peaks, bandwidth)
    best = best_peaks(peaks)
    ways = start_ways(WAYS, FIRST_ROWS, has_bfloat16=has_bfloat16_gain(best))
    results: dict[str, Any] = {
        "rounds": n_rounds,
        "peak_gflops": best,
        "peak_gflops_by_kind_and_shape": peaks,
        "memory_gb_per_second": bandwidth,
    }
    equal, results["accuracy"] = check_accuracy(ways)
    for kind, texts in kinds.items():
        n_tokens = count_tokens(texts, folder)
        found = measure(equal, texts, n_tokens, n_rounds, peaks, bandwidth)
        title = (
            f"{len(texts):,} rows, {kind}: {np.mean(n_tokens):.1f} tokens each, {n_rounds} rounds"
        )
        show(title, found)
        results[kind] = {
            "rows": len(texts),
            "mean_tokens": float(np.mean(n_tokens)),
            **{name: part for name, part in found.items() if name != "ways"},
            **found["ways"],
        }
        if kind == GOAL_KIND:
            show_goal(found)
    print("\nwhere the time of a forward pass goes:")
    for kind, texts in kinds.items():  # last: the profiler takes memory
        profiles = {way.name: way.profile(texts) for way in equal if way.is_skembed}
        results[kind]["profiles"] = profiles
        show_profiles(kind, profiles)
    for way in ways:
        way.stop()
    write_results(args.out, results)
    if any(name not in results[kind] for kind in kinds for name in EXPECTED):
        sys.exit("skembed's vectors, or the accuracy on them, are not sentence-transformers'")


if __name__ == "__main__":
    main()
