"""Which source of text vectors is worth its cost? One of each kind, on the same local tasks.

Counted words, static vectors, encoders, a plain decoder in four ways, a served model. Tasks:

- words: SimLex-999, Spearman's correlation of the cosine with people's judgements;
- documents: Lee's 50 news texts, Pearson's and Spearman's correlation with people's judgements;
- docstrings: which module is it from? Balanced accuracy of a logistic regression on scaled features
  (its penalty is chosen in an inner cross-validation), 5 folds; and k-means on vectors of unit
  length, as many clusters as modules: V-measure and adjusted Rand index, the mean of 5 starts;
- reviews: is a review of food great? The area under the ROC curve, likewise;
- cost: rows a second (1,000 docstrings, nothing stored, the median of 3 rounds after a warm-up),
  width, and the memory that loading and embedding take: the most resident in a process that has
  imported the libraries, less what was before (of a served model the client's).

1,000 docstrings and 1,000 reviews, all texts cut to 64 of MiniLM's tokens before any source sees
them. What has to be fitted (TF-IDF, SIF) is fitted on the rows of training, for words and documents
on Lee's 300 background texts. Folds are the same for all; differences to MiniLM are of pairs, with
an interval of 95% that minds that folds share rows (Nadeau and Bengio 2003). Each cell is written
when it is done, and a run goes on where the last one stopped; a source that this checkout or
machine lacks is left out. No Llama-2 weights can be had without an account: SmolLM2 stands for
plain decoders.

    python benchmarks/text_sources.py --out benchmarks/results/text_sources.json
"""

from __future__ import annotations

import json
import os
import statistics
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
from _common import (
    call_apart,
    describe_machine,
    forget_peak_rss,
    make_parser,
    peak_rss_bytes,
    rss_bytes,
)
from _text_sources import WAYS, background, docstrings, documents, reviews, words
from scipy.stats import pearsonr, spearmanr
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import (
    adjusted_rand_score,
    balanced_accuracy_score,
    roc_auc_score,
    v_measure_score,
)
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize
from tables import N_FOLDS, difference

REFERENCE = "MiniLM (22M)"
N_ROUNDS = 3
N_STARTS = 5

Cell = dict[str, Any]


def of_words(way: str, embedder: Any) -> Cell:
    """Return how well cosines of words agree with people."""
    if not WAYS[way].has_words:
        return {}
    first, second, human = words()
    embedder.fit(background())
    a, b = (normalize(embedder.transform(each)) for each in (first, second))
    return {"spearman": float(spearmanr((a * b).sum(1), human).statistic)}


def of_documents(way: str, embedder: Any) -> Cell:
    """Return how well cosines of news texts agree with people."""
    texts, human = documents()
    vectors = normalize(embedder.fit(background()).transform(texts))
    pairs = np.triu_indices(len(texts), k=1)
    found, wanted = (vectors @ vectors.T)[pairs], human[pairs]
    return {
        "pearson": float(pearsonr(found, wanted).statistic),
        "spearman": float(spearmanr(found, wanted).statistic),
    }


def of_docstrings(way: str, embedder: Any) -> Cell:
    """Return how well modules are told apart, with labels and without."""
    texts, modules = docstrings()
    vectors = normalize(clone(embedder).fit_transform(texts))
    starts = [
        KMeans(len(np.unique(modules)), n_init=3, random_state=seed).fit_predict(vectors)
        for seed in range(N_STARTS)
    ]
    return {
        "folds": classify(embedder, texts, modules),
        "v_measure": [float(v_measure_score(modules, each)) for each in starts],
        "rand": [float(adjusted_rand_score(modules, each)) for each in starts],
    }


def of_reviews(way: str, embedder: Any) -> Cell:
    """Return how well great reviews are told from others."""
    return {"folds": classify(embedder, *reviews())}


def classify(embedder: Any, texts: np.ndarray, y: np.ndarray) -> list[float]:
    """Return the score of a linear model in each fold."""
    splitter = StratifiedKFold(N_FOLDS, shuffle=True, random_state=0)
    scores = []
    for train, test in splitter.split(texts, y):
        fitted = clone(embedder).fit(texts[train])
        model = make_pipeline(
            StandardScaler(),
            LogisticRegressionCV(
                Cs=(1e-3, 1e-2, 1e-1), cv=3, scoring="neg_log_loss", l1_ratios=(0,)
            ),
        )
        model.fit(fitted.transform(texts[train]), y[train])
        vectors = fitted.transform(texts[test])
        if len(model.classes_) == 2:
            scores.append(roc_auc_score(y[test], model.predict_proba(vectors)[:, 1]))
        else:
            scores.append(balanced_accuracy_score(y[test], model.predict(vectors)))
    return [float(each) for each in scores]


def of_cost(way: str, embedder: Any = None) -> Cell:
    """Return speed, width and memory, measured in a process of its own."""
    return call_apart(measure, way)  # type: ignore[no-any-return]


def measure(way: str) -> Cell:
    """Embed docstrings in this process; return what it takes."""
    import torch
    import transformers  # noqa: F401
    from transformers import AutoModel, AutoTokenizer  # noqa: F401

    from skembed import TextEmbedder

    texts = docstrings()[0]
    TextEmbedder(cache=None)  # imports of ours
    with ExitStack() as stack:
        embedder = WAYS[way].make(stack)
        if "cache" in embedder.get_params():
            embedder.set_params(cache=None)
        before = rss_bytes()
        forget_peak_rss()
        embedder.fit(texts)
        vectors = embedder.transform(texts[:50])
        seconds = []
        for _ in range(N_ROUNDS):
            started = time.perf_counter()
            embedder.transform(texts)
            seconds.append(time.perf_counter() - started)
        return {
            "rows_per_s": len(texts) / statistics.median(seconds),
            "seconds": seconds,
            "width": int(vectors.shape[1]),
            "mib": (peak_rss_bytes() - before) / 2**20,
            "dtype": getattr(embedder, "dtype_", None),
            "n_threads": torch.get_num_threads(),
        }


TASKS = {
    "words": of_words,
    "documents": of_documents,
    "docstrings": of_docstrings,
    "reviews": of_reviews,
    "cost": of_cost,
}


def run_way(way: str, tasks: list[str]) -> Any:
    """Yield (task, cell); the embedder is made once."""
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        embedder = WAYS[way].make(stack) if {*tasks} - {"cost"} else None
        for task in tasks:
            started = time.perf_counter()
            cell = TASKS[task](way, embedder)
            yield task, {**cell, "took": time.perf_counter() - started}


def show(cells: dict[str, Cell]) -> None:
    """Print the table in Markdown."""
    print("\n" + table(cells))


def table(cells: dict[str, Cell]) -> str:
    """Return all that was found as a table in Markdown, a row for each source."""
    columns = (
        "source",
        "words",
        "documents: Pearson (Spearman)",
        "docstrings: accuracy",
        "clusters: V-measure (Rand)",
        "reviews: AUC",
        "rows/s",
        "width",
        "MiB",
    )
    lines = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    for way in WAYS:
        found = {task: cells.get(f"{way}/{task}", {}) for task in TASKS}
        if not any(found.values()):
            continue
        lee, modules, cost = found["documents"], found["docstrings"], found["cost"]
        shown = [
            way,
            _number(found["words"].get("spearman")),
            f"{_number(lee.get('pearson'))} ({_number(lee.get('spearman'))})" if lee else "-",
            _compared(cells, way, "docstrings"),
            f"{_mean(modules['v_measure'])} ({_mean(modules['rand'])})" if modules else "-",
            _compared(cells, way, "reviews"),
            f"{cost['rows_per_s']:,.0f}" if cost else "-",
            f"{cost['width']}" if cost else "-",
            f"{cost['mib']:,.0f}" if cost else "-",
        ]
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _mean(values: list[float]) -> str:
    return f"{np.mean(values):.3f}"


def _compared(cells: dict[str, Cell], way: str, task: str) -> str:
    """Return the mean of folds, and the difference to MiniLM's with its interval."""
    scores = cells.get(f"{way}/{task}", {}).get("folds")
    plain = cells.get(f"{REFERENCE}/{task}", {}).get("folds")
    if not scores:
        return "-"
    said = _mean(scores)
    if plain and way != REFERENCE:
        mean, half = difference(scores, plain)
        said += f" ({mean:+.3f} ± {half:.3f})"
    return said


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--only", nargs="*", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--minutes", type=float, help="begin no source after so many")
    parser.add_argument("--show", action="store_true", help="print the table of the file alone")
    args = parser.parse_args()
    out: Path | None = args.out
    results: dict[str, Any] = {"cells": {}}
    if out is not None and out.exists():
        results = json.loads(out.read_text(encoding="utf-8"))
    cells = results["cells"]
    end = time.monotonic() + 60 * (args.minutes or 1e9)
    for way in [] if args.show else args.only:
        wanted = [task for task in args.tasks if f"{way}/{task}" not in cells]
        if not wanted or time.monotonic() > end:
            continue
        try:
            for task, cell in run_way(way, wanted):
                cells[f"{way}/{task}"] = cell
                said = {k: np.round(np.mean(v), 3) for k, v in cell.items() if k != "dtype"}
                print(f"{way}/{task}", {k: float(v) for k, v in said.items()}, flush=True)
                if out is not None:
                    results["machine"] = describe_machine()
                    out.parent.mkdir(parents=True, exist_ok=True)
                    out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        except (ImportError, OSError, ValueError) as error:  # a source that is not here
            print(f"{way}: left out: {type(error).__name__}: {error}", flush=True)
    show(cells)


if __name__ == "__main__":
    main()
