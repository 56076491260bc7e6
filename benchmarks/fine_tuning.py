"""What is training worth? Accuracy on held-out rows, frozen and trained, with few labels and many.

Docstrings and food reviews (MiniLM), clothes (a ResNet-18 with random weights, EfficientNet-Lite0
with ImageNet's) and voices (a speaker encoder): the vectors of the frozen model and of one trained
with each strategy's defaults, each under the same logistic regression and the same five nearest
neighbours, beside those on TF-IDF, pixels or statistics of log-mel bands. Balanced accuracy, the
mean over the classes. Rows are drawn anew with each of five seeds, 8 and 64 of each class or 1,000
of all; the rows to be tested on are the same. `_labelled.py` says what is capped. Each cell is
written to the file when it is done, and a run goes on where the last one stopped.

    python benchmarks/fine_tuning.py --out benchmarks/results/fine_tuning.json
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
from _common import describe_machine, make_parser
from _labelled import N_ROWS, TASKS, Task, draw, load
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

import skembed
from skembed import FineTune
from skembed.exceptions import SkembedError

SIZES: dict[str, int | None] = {"8": 8, "64": 64, f"{N_ROWS:,} of all": None}
BASELINE, FROZEN = "no model", "frozen"


def strategies(seed: int) -> dict[str, Any]:
    """Return each strategy with its defaults; those of later releases are left out of earlier."""
    found: dict[str, Any] = {
        method: FineTune(method, random_state=seed) for method in ("head", "lora", "full")
    }
    if "Contrastive" in skembed.__all__:
        found["contrastive"] = skembed.Contrastive(random_state=seed)
    return found


def run_cell(task: Task, way: str, n_each: int | None, seed: int) -> dict[str, Any]:
    """Fit one pipeline on rows drawn with a seed; return how it does, and what it took."""
    rows = draw(task, n_each, seed)
    X = [task.X[i] for i in rows] if isinstance(task.X, list) else task.X[rows]
    embedder = task.baseline
    if way != BASELINE:
        embedder = task.embed(None if way == FROZEN else strategies(seed)[way])
    started = time.perf_counter()
    try:
        vectors = embedder.fit_transform(X, task.y[rows])
    except SkembedError as error:  # a model without layers for LoRA, and the like
        return {"error": str(error)}
    seconds = time.perf_counter() - started
    cell: dict[str, Any] = {"n_rows": len(rows), "seconds": seconds}
    vectors_test = embedder.transform(task.X_test)
    for name, classifier in (("linear", task.classify()), ("neighbours", neighbours())):
        predicted = classifier.fit(vectors, task.y[rows]).predict(vectors_test)
        cell[name] = float(balanced_accuracy_score(task.y_test, predicted))
        cell[f"{name}_accuracy"] = float(accuracy_score(task.y_test, predicted))
    if way not in (BASELINE, FROZEN):
        history = embedder.history_
        cell["history"] = {key: history[key] for key in ("loss", "score")}
    return cell


def neighbours() -> KNeighborsClassifier:
    """Return a classifier that takes vectors as they come, and shows what is near what."""
    return KNeighborsClassifier(5, metric="cosine")


def show(cells: dict[str, dict[str, Any]], key: str) -> None:
    """Print mean and standard deviation over the seeds, as a table in Markdown."""
    print(f"\n{key}: balanced accuracy\n")
    ways = [BASELINE, FROZEN, *strategies(0)]
    print("| | rows of each class | " + " | ".join(ways) + " |")
    print("| --- " * (2 + len(ways)) + "|")
    for task in TASKS:
        for size in SIZES:
            columns = [
                [
                    cell[key]
                    for name, cell in cells.items()
                    if name.startswith(f"{task}/{size}/{way}/") and key in cell
                ]
                for way in ways
            ]
            if not any(columns):
                continue
            best = max(np.mean(values) for values in columns if values)
            shown = []
            for values in columns:
                text = f"{np.mean(values):.3f} ± {np.std(values):.3f}" if values else "-"
                text += "" if len(values) in (0, 5) else f" ({len(values)} seeds)"
                is_best = bool(values) and np.mean(values) >= best
                shown.append(f"**{text}**" if is_best else text)
            print(f"| {task} | {size} | " + " | ".join(shown) + " |")


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--ways", nargs="*", help="no model, frozen, head, lora, full, ...")
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--minutes", type=float, help="begin no cell after so many")
    parser.add_argument("--show", action="store_true", help="print the table of the file alone")
    args = parser.parse_args()
    out: Path | None = args.out
    results: dict[str, Any] = {"cells": {}}
    if out is not None and out.exists():
        results = json.loads(out.read_text(encoding="utf-8"))
    cells = results["cells"]
    end = time.monotonic() + 60 * (args.minutes or 1e9)
    loaded: dict[str, Task] = {}
    wanted = [
        (task, size, way, seed)
        for seed in range(args.seeds)
        for task in args.tasks
        for size in args.sizes
        for way in args.ways or [BASELINE, FROZEN, *strategies(0)]
    ]
    for task, size, way, seed in [] if args.show else wanted:
        key = f"{task}/{size}/{way}/{seed}"
        if key in cells or time.monotonic() > end:
            continue
        if task not in loaded:
            loaded[task] = load(task)
        cells[key] = run_cell(loaded[task], way, SIZES[size], seed)
        said = {name: cells[key].get(name) for name in ("linear", "neighbours", "seconds", "error")}
        print(key, said, flush=True)
        if out is not None:
            results["caps"] = {**results.get("caps", {}), task: loaded[task].caps}
            results["machine"] = describe_machine()
            out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for classifier in ("linear", "neighbours"):
        show(cells, classifier)


if __name__ == "__main__":
    main()
