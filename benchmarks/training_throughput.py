"""Rows per second of training: skembed beside sentence-transformers' trainer and a plain loop.

All weights of MiniLM and a linear classifier are trained on the same texts, with the same batch
size and precision. Before anything is timed, each way takes one step from the same weights with
dropout off: the losses before and after it must agree to 1e-4. Then the ways train in turn, each in
a fresh process, whose peak memory is read too; ratios are taken within a round. Rows per second are
those of the epochs alone; of skembed tokenizing comes before them, so that the seconds of all of
it, with loading the model and (of skembed) embedding the texts first, stand beside them.

    python benchmarks/training_throughput.py --out benchmarks/results/training_throughput.json
    python benchmarks/training_throughput.py --device cuda --rows 16384       # on a CUDA GPU
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
from _common import (
    call_apart,
    make_parser,
    minilm_folder,
    peak_rss_bytes,
    summarize,
    write_results,
)
from _data import count_tokens, cut_texts, document_lengths, short_lengths

REFERENCE, OURS = "sentence-transformers", "skembed"
TOLERANCE = 1e-4
N_CLASSES, N_PARITY = 4, 32


def run(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Train in this process; return what came of it, and the peak of memory."""
    import torch
    from _trainers import WAYS, Task
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    on_gpu = given["device"] == "cuda"
    done = WAYS[name](Task(**given))
    peak = torch.cuda.max_memory_allocated() if on_gpu else peak_rss_bytes()
    return {**done._asdict(), "peak_mib": peak / 2**20}


def without_dropout(folder: Path) -> Path:
    """Write the packaged MiniLM into a folder, without dropout."""
    shutil.copytree(minilm_folder(), folder, dirs_exist_ok=True)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    path.write_text(json.dumps(config), encoding="utf-8")
    return folder


def check_parity(texts: list[str], labels: np.ndarray, device: str) -> dict[str, list[float]]:
    """Return each way's losses before and after one step from the same weights."""
    with tempfile.TemporaryDirectory() as name:
        folder = without_dropout(Path(name) / "model")
        given = {"folder": folder, "texts": texts[:N_PARITY], "labels": labels[:N_PARITY]}
        given |= {"head": None, "dtype": "float32", "n_epochs": 2, "device": device}
        ours = call_apart(run, OURS, given)
        given["head"] = ours["head"]
        losses = {OURS: ours["losses"]}
        for way in (REFERENCE, "plain loop"):
            losses[way] = call_apart(run, way, given)["losses"]
    print("losses before and after one step of float32, without dropout:")
    for way, found in losses.items():
        change = np.abs(np.subtract(found, losses[REFERENCE])).max()
        print(f"  {way:<22} {found[0]:.6f} {found[1]:.6f}")
        if change > TOLERANCE:
            sys.exit(f"{way} differs from {REFERENCE} by {change:.2g}: nothing is timed")
    return losses


def measure(given: dict[str, Any], n_rounds: int) -> dict[str, Any]:
    """Train in each way in turn; return what was measured of each."""
    rounds: dict[str, list[dict[str, Any]]] = {REFERENCE: [], "plain loop": [], OURS: []}
    for _ in range(n_rounds):
        for way, found in rounds.items():
            found.append(call_apart(run, way, given))
    n_rows = len(given["texts"]) * given["n_epochs"]
    lines = {}
    for way, found in rounds.items():
        pairs = list(zip(rounds[REFERENCE], found, strict=True))
        lines[way] = {
            "rows_per_second": n_rows / statistics.median(d["seconds"] for d in found),
            "times_reference": summarize([a["seconds"] / b["seconds"] for a, b in pairs]),
            "seconds_in_all": summarize([d["seconds_in_all"] for d in found]),
            "times_reference_in_all": summarize(
                [a["seconds_in_all"] / b["seconds_in_all"] for a, b in pairs]
            ),
            "peak_mib": statistics.median(d["peak_mib"] for d in found),
            "seconds": [d["seconds"] for d in found],
        }
    return lines


def show(title: str, lines: dict[str, Any]) -> None:
    """Print the table of one kind of texts in one format."""
    print(f"\n{title}\n{'':<22} {'rows/s':>7}  {'times reference':<18} {'in all':>6} {'MiB':>7}")
    for way, line in lines.items():
        r = line["times_reference"]
        times = f"{r['median']:.2f} ({r['min']:.2f}-{r['max']:.2f})"
        in_all = line["times_reference_in_all"]["median"]
        print(
            f"{way:<22} {line['rows_per_second']:7.1f}  {times:<18} {in_all:6.2f} "
            f"{line['peak_mib']:7.0f}"
        )


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rows", type=int, default=512, help="texts of each kind")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", default=("short rows", "documents"))
    parser.add_argument("--dtypes", nargs="+", default=("float32", "bfloat16"))
    args = parser.parse_args()
    if args.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            print("no CUDA GPU here: nothing to measure")
            return
    folder, n_rounds = minilm_folder(), args.rounds or 5
    lengths = {"short rows": short_lengths, "documents": document_lengths}
    texts = {kind: cut_texts(lengths[kind](args.rows), folder) for kind in args.kinds}
    labels = np.random.default_rng(0).integers(0, N_CLASSES, args.rows)
    results: dict[str, Any] = {"rounds": n_rounds, "device": args.device, "epochs": args.epochs}
    results["parity"] = check_parity(next(iter(texts.values())), labels, args.device)
    for kind, rows in texts.items():
        mean = float(np.mean(count_tokens(rows, folder)))
        results[kind] = {"rows": len(rows), "mean_tokens": mean}
        for dtype in args.dtypes:
            given = {"folder": folder, "texts": rows, "labels": labels, "head": None}
            given |= {"dtype": dtype, "n_epochs": args.epochs, "device": args.device}
            results[kind][dtype] = measure(given, n_rounds)
            title = f"{len(rows):,} rows, {kind}, {mean:.1f} tokens each, {dtype}"
            show(title, results[kind][dtype])
            write_results(args.out, results)


if __name__ == "__main__":
    main()
