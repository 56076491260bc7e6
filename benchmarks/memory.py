"""Peak memory of a long `transform` with many duplicates, beyond the output itself.

A thousand distinct short texts are repeated to 10,000, 100,000 and 1,000,000 rows. Each size runs
in a process of its own: after a warm-up on other texts, the most memory resident during
`transform`, less what was resident before it and less the bytes of the output array. What is left
is what a row costs beside its vector. Nothing is
reported if the vector of any repeat is wrong.

    python benchmarks/memory.py --out benchmarks/results/memory.json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
from _common import (
    forget_peak_rss,
    make_parser,
    minilm_folder,
    peak_rss_bytes,
    rss_bytes,
    summarize,
    write_results,
)
from _data import cut_texts, short_lengths

N_DISTINCT = 1000


def measure(n_rows: int) -> dict[str, Any]:
    """Embed `n_rows` rows in this process; return the memory it took."""
    from skembed import TextEmbedder

    texts = cut_texts(short_lengths(2 * N_DISTINCT), minilm_folder())
    warm, distinct = texts[:N_DISTINCT], texts[N_DISTINCT:]
    embedder = TextEmbedder(minilm_folder())
    embedder.transform(warm)
    expected = TextEmbedder(minilm_folder(), cache=None).transform(distinct)
    rows = [distinct[i % N_DISTINCT] for i in range(n_rows)]

    before = rss_bytes()
    forget_peak_rss()
    vectors = embedder.transform(rows)
    beyond = peak_rss_bytes() - before - vectors.nbytes
    if not all(
        np.allclose(vectors[i : i + N_DISTINCT], expected, atol=0.02)
        for i in range(0, n_rows - N_DISTINCT + 1, N_DISTINCT)
    ):
        sys.exit("vectors of repeated rows are wrong: nothing is reported")
    return {
        "rows": n_rows,
        "encoded": embedder.report_.n_encoded,
        "output_mib": vectors.nbytes / 2**20,
        "before_mib": before / 2**20,
        "beyond_output_mib": beyond / 2**20,
        "seconds": embedder.report_.seconds,
    }


def run_apart(n_rows: int) -> dict[str, Any]:
    """Measure one size in a process of its own."""
    command = [sys.executable, __file__, "--size", str(n_rows)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--size", type=int, help="measure this size alone and print its JSON")
    args = parser.parse_args()
    if args.size:
        print(json.dumps(measure(args.size)))
        return
    results: dict[str, Any] = {"distinct": N_DISTINCT, "sizes": []}
    print(f"{'rows':>10} {'encoded':>8} {'output MiB':>11} {'beyond it, MiB':>15}  (least-most)")
    for size in args.sizes:
        runs = [run_apart(size) for _ in range(args.rounds or 3)]
        beyond = summarize([run["beyond_output_mib"] for run in runs])
        results["sizes"].append({**runs[0], "beyond_output_mib": beyond})
        print(
            f"{size:10,} {runs[0]['encoded']:8,} {runs[0]['output_mib']:11.1f} "
            f"{beyond['median']:15.1f}  ({beyond['min']:.1f}-{beyond['max']:.1f})"
        )
    if len(args.sizes) > 1:
        small, large = results["sizes"][0], results["sizes"][-1]
        growth = large["beyond_output_mib"]["median"] - small["beyond_output_mib"]["median"]
        results["bytes_per_row"] = growth * 2**20 / (large["rows"] - small["rows"])
        print(f"a row more costs {results['bytes_per_row']:.0f} bytes beside its vector")
    write_results(args.out, results)


if __name__ == "__main__":
    main()
