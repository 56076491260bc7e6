"""How long little takes: one row and ten, the first vector of a fresh process, a clone's fit.

1. One row and 10 rows, short (about 16 tokens) and documents (about 50, log-normal): every way in a
   process of its own, in turn, nothing cached; parity first, as in `text_throughput.py`. The median
   of the calls of a round; ratios within a round.
2. Cold start: fresh processes in turn, from `import torch` done to the first vector. One kind of
   process does just that. The other imports first, and times, the very modules of scikit-learn,
   transformers and sentence-transformers that such a run loads; what is left is the library's own:
   its modules, reading the model, the first pass. Of transformers, the share of torch._dynamo and
   torch.distributed.tensor is shown, which it imports by itself. Files are in the system's cache.
3. `clone(e).fit(texts)` and `clone(e).fit_transform(texts)` for texts that are embedded already,
   beside the first time.

    python benchmarks/latency.py --out benchmarks/results/latency.json
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
from _common import call_apart, least_cosine, make_parser, minilm_folder, summarize, write_results
from _data import count_tokens, cut_texts, document_lengths, short_lengths
from _floor import is_bfloat16_faster
from _processes import Way, check_parity, start_ways
from _ways import FIRST_ROWS, LEAST_COSINE, REFERENCE, WAYS

NAMES = (
    *(REFERENCE, "sentence-transformers bfloat16", "OpenVINO bfloat16"),
    *("skembed", "skembed float32"),
)
EXPECTED = ("skembed", "skembed float32")
N_ROWS = (1, 10)

COLD_WAYS = (REFERENCE, "skembed")
LATE_TORCH = ("torch._dynamo", "torch.distributed.tensor")
LATE_STAGE = "torch, as transformers asks"
LIBRARIES = {
    "scikit-learn": "sklearn",
    "transformers": "transformers",
    "sentence-transformers": "sentence_transformers",
}


# Small inputs -----------------------------------------------------------------------------------


def measure_small(n_calls: int, n_rounds: int) -> dict[str, Any]:
    """Time calls of one row and of ten; return what was found, by kind of texts and rows."""
    folder, n_texts = minilm_folder(), n_calls * max(N_ROWS)
    kinds = {
        "short rows": cut_texts(short_lengths(n_texts), folder),
        "documents": cut_texts(document_lengths(n_texts), folder),
    }
    started = start_ways(
        {name: WAYS[name] for name in NAMES},
        FIRST_ROWS,
        has_bfloat16=call_apart(is_bfloat16_faster),
    )
    found: dict[str, Any] = {}
    for kind, texts in kinds.items():
        ways, cosines = check_parity(started, texts, LEAST_COSINE)
        n_tokens = float(np.mean(count_tokens(texts, folder)))
        found[kind] = {"mean_tokens": n_tokens, "least_cosine": cosines}
        for n_rows in N_ROWS:
            calls = [texts[i * n_rows : (i + 1) * n_rows] for i in range(n_calls)]
            found[kind][str(n_rows)] = time_ways(ways, calls, n_rounds)
            show_small(f"{kind} of {n_tokens:.1f} tokens, {n_rows} at once", found[kind], n_rows)
    for way in started:
        way.stop()
    return found


def time_ways(ways: list[Way], calls: list[list[str]], n_rounds: int) -> dict[str, Any]:
    """Time the same calls with each way in turn."""
    medians: dict[str, list[float]] = {way.name: [] for way in ways}
    for _ in range(n_rounds):
        for way in ways:
            way.seconds_of_each(calls[:3])  # wakes the process up
            medians[way.name].append(1e3 * statistics.median(way.seconds_of_each(calls)))
    return {
        name: {
            "milliseconds": values,
            "median_milliseconds": statistics.median(values),
            "times_reference": summarize(
                [a / b for a, b in zip(medians[REFERENCE], values, strict=True)]
            ),
        }
        for name, values in medians.items()
    }


def show_small(title: str, found: dict[str, Any], n_rows: int) -> None:
    """Print the table of one kind of texts and number of rows."""
    print(f"\n{title}\n{'':<31} {'ms':>8}  {'times reference':<18}  least cosine")
    for name, line in found[str(n_rows)].items():
        r = line["times_reference"]
        times = f"{r['median']:.2f} ({r['min']:.2f}-{r['max']:.2f})"
        print(
            f"{name:<31} {line['median_milliseconds']:8.2f}  {times:<18}  "
            f"{found['least_cosine'][name]:.6f}"
        )


# Cold start -------------------------------------------------------------------------------------


def measure_cold(n_processes: int) -> dict[str, Any]:
    """Start fresh processes in turn; return the seconds of their stages."""
    stages, brought = {}, {}
    vectors = {}
    for way in COLD_WAYS:  # these also fill the caches, of files and of what was probed
        run_cold(way)
        run = run_cold(way)
        stages[way], brought[way] = plan_stages(run["modules"])
        vectors[way] = (run["vector"], run["dtype"])
    for way, (vector, dtype) in vectors.items():
        cosine = least_cosine(np.array([vector]), np.array([vectors[REFERENCE][0]]))
        if cosine < LEAST_COSINE[dtype]:
            sys.exit(f"{way}: the first vector differs (cosine {cosine:.6f}), nothing is timed")
    whole: dict[str, list[float]] = {way: [] for way in COLD_WAYS}
    split: dict[str, list[dict[str, float]]] = {way: [] for way in COLD_WAYS}
    for _ in range(n_processes):
        for way in COLD_WAYS:
            whole[way].append(run_cold(way)["seconds"]["the rest"])
            split[way].append(run_cold(way, stages[way])["seconds"])
    return {
        way: {
            "seconds_beyond_torch": summarize(whole[way]),
            "stages": {
                name: statistics.median(run[name] for run in split[way]) for name in split[way][0]
            },
            "stages_beyond_torch": statistics.median(
                sum(run.values()) - run["torch"] for run in split[way]
            ),
            "torch_modules_that_transformers_imports": brought[way],
            "runs": {"whole": whole[way], "split": split[way]},
        }
        for way in COLD_WAYS
    }


def plan_stages(modules: list[str]) -> tuple[list[tuple[str, list[str]]], list[str]]:
    """Return the imports to time for a run that loaded these modules, in order.

    And which of torch's late modules come with those of transformers alone.
    """
    stages = {
        name: [module for module in modules if module.partition(".")[0] == package]
        for name, package in LIBRARIES.items()
    }
    alone = [(name, stages[name]) for name in ("scikit-learn", "transformers")]
    loaded = run_cold("imports", alone)["modules"] if stages["transformers"] else []
    brought = [module for module in LATE_TORCH if module in loaded]
    planned = [alone[0], (LATE_STAGE, brought), *list(stages.items())[1:]]
    return [(name, wanted) for name, wanted in planned if wanted], brought


def run_cold(way: str, stages: list[tuple[str, list[str]]] | None = None) -> dict[str, Any]:
    """Run one fresh process."""
    script = Path(__file__).with_name("_cold.py")
    command = [sys.executable, "-W", "ignore", str(script), way, str(minilm_folder())]
    command.append(json.dumps(stages or []))
    quiet = {**os.environ, "TQDM_DISABLE": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=quiet)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def show_cold(found: dict[str, Any]) -> None:
    """Print where the seconds before the first vector go."""
    print("\ncold start, seconds from torch imported to the first vector")
    for way, line in found.items():
        s = line["seconds_beyond_torch"]
        print(f"{way}: {s['median']:.2f} ({s['min']:.2f}-{s['max']:.2f}); taken apart:")
        for name, seconds in line["stages"].items():
            note = "  (before the clock)" if name == "torch" else ""
            label = "the rest: its own" if name == "the rest" else f"import {name}"
            print(f"  {label:<36} {seconds:6.2f}{note}")
        print(f"  {'sum of the stages after torch':<36} {line['stages_beyond_torch']:6.2f}")


# The fit of a clone -----------------------------------------------------------------------------


def measure_clones(texts: list[str], n_repeats: int = 20) -> dict[str, Any]:
    """Fit clones of an embedder to texts that it has embedded; return milliseconds."""
    from sklearn.base import clone

    from skembed import TextEmbedder

    embedder = TextEmbedder(minilm_folder(), cache="run")
    embedder.fit_transform(["a text to load the weights with"])
    started = time.perf_counter()
    vectors = embedder.fit_transform(texts)
    found: dict[str, Any] = {"first_fit_transform": 1e3 * (time.perf_counter() - started)}
    if embedder.report_.n_encoded != len(texts):
        sys.exit(f"the first fit encoded {embedder.report_.n_encoded} of {len(texts)} texts")
    fits, transforms = [], []
    for _ in range(n_repeats):
        started = time.perf_counter()
        clone(embedder).fit(texts)
        fits.append(1e3 * (time.perf_counter() - started))
        copy = clone(embedder)
        started = time.perf_counter()
        again = copy.fit_transform(texts)
        transforms.append(1e3 * (time.perf_counter() - started))
        if copy.report_.n_encoded or not np.array_equal(again, vectors):
            sys.exit("a clone encodes again, or gives other vectors")
    found["clone_fit"] = statistics.median(fits)
    found["clone_fit_transform"] = statistics.median(transforms)
    return found


def measure_refits(n_rows: int, n_rounds: int) -> dict[str, Any]:
    """Measure the fit of clones in fresh processes."""
    texts = cut_texts(short_lengths(n_rows), minilm_folder())
    runs = [call_apart(measure_clones, texts) for _ in range(n_rounds)]
    found = {name: summarize([run[name] for run in runs]) for name in runs[0]}
    print(f"\n{n_rows:,} short rows already embedded, ms")
    for name, each in found.items():
        title = name.replace("_", " ", 1).replace("clone fit", "clone, fit")
        print(f"{title:<22} {each['median']:9.2f} ({each['min']:.2f}-{each['max']:.2f})")
    return {"rows": n_rows, "milliseconds": found}


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--calls", type=int, default=50, help="calls of each kind and round")
    parser.add_argument("--processes", type=int, default=5, help="fresh processes for cold starts")
    parser.add_argument("--rows", type=int, default=1000, help="rows of the clone's fit")
    args = parser.parse_args()
    n_rounds = args.rounds or 5
    small = measure_small(args.calls, n_rounds)
    cold = measure_cold(args.processes)
    show_cold(cold)
    refits = measure_refits(args.rows, n_rounds)
    results = {"rounds": n_rounds, "calls": args.calls, "small": small}
    write_results(args.out, {**results, "cold_start": cold, "clones": refits})
    if any(name not in small[kind][str(n)] for kind in small for n in N_ROWS for name in EXPECTED):
        sys.exit("skembed's vectors differ from sentence-transformers'")


if __name__ == "__main__":
    main()
