"""Grid search over two models and three values of C: how many rows are encoded, in what time.

The same pipeline, an embedder and a logistic regression, in ``GridSearchCV`` with 5 folds: with
skembed (in one process, and in two workers), with embetter's SentenceEncoder, with skrub's
LLMEncoder, and on vectors that were computed beforehand, in one pass for each model. The two models
are the packaged MiniLM and its first three layers. Every way runs in a process of its own, with
skembed's models loaded (and its workers started) before the clock is; the peers load theirs anew in
every fit. The rows are counted where a model encodes them, not where they are asked for. Before
anything is timed the vectors are compared, in float32; no time is shown if the best scores differ.

    python benchmarks/grid_search.py --out benchmarks/results/grid_search.json
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
from _common import make_parser, minilm_folder, write_results
from _data import labelled_texts
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

GRID = {"logisticregression__C": [0.1, 1.0, 10.0]}
N_WORDS = 40
SCORE_TOLERANCE = 0.005
VECTOR_TOLERANCE = 1e-4

Run = tuple[float, int | None, GridSearchCV]


# The ways: each returns the seconds, the rows encoded and the finished search -------------------


def with_skembed(texts: Any, labels: Any, models: list[str], n_jobs: int) -> Run:
    """Search with skembed's TextEmbedder and its own store for the run."""
    from _counting import CountingEmbedder, read_counts
    from joblib import Parallel, delayed

    Parallel(n_jobs=n_jobs)(delayed(load)(models) for _ in range(2 * n_jobs))
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "rows")
        pipeline = make_pipeline(CountingEmbedder(models[0], log=str(log)), classifier())
        search = GridSearchCV(
            pipeline, {"countingembedder__model": models, **GRID}, cv=5, n_jobs=n_jobs
        )
        seconds = time_fit(search, texts, labels)
        return seconds, sum(read_counts(log).values()), search


def with_vectors(texts: Any, labels: Any, models: list[str]) -> Run:
    """Embed once for each model, then search on the vectors."""
    from skembed import TextEmbedder

    load(models)
    started = time.perf_counter()
    vectors = [TextEmbedder(model, cache=None).transform(texts) for model in models]
    pipeline = make_pipeline(FunctionTransformer(take, kw_args={"model": 0}), classifier())
    choices = [{"model": 0}, {"model": 1}]
    search = GridSearchCV(pipeline, {"functiontransformer__kw_args": choices, **GRID}, cv=5)
    search.fit(np.stack(vectors, axis=1), labels)
    return time.perf_counter() - started, len(texts) * len(models), search


def with_embetter(texts: Any, labels: Any, models: list[str]) -> Run:
    """Search with embetter's SentenceEncoder.

    The encoders themselves are the candidates: `set_params(name=...)` would leave the first model
    in place.
    """
    from embetter.text import SentenceEncoder

    encoders = [SentenceEncoder(model, device="cpu") for model in models]
    count = count_sentences()
    search = GridSearchCV(
        make_pipeline(encoders[0], classifier()), {"sentenceencoder": encoders, **GRID}, cv=5
    )
    return time_fit(search, texts, labels), count(), search


def with_skrub(texts: Any, labels: Any, models: list[str]) -> Run:
    """Search with skrub's LLMEncoder (TextEncoder in older releases), without its PCA."""
    import pandas as pd
    import skrub

    make = skrub.LLMEncoder if hasattr(skrub, "LLMEncoder") else skrub.TextEncoder
    column = pd.Series(list(texts), name="text")
    with tempfile.TemporaryDirectory() as folder:
        options = {"n_components": None, "device": "cpu", "cache_folder": folder}
        encoder = make(models[0], **options)
        make(models[0], **options).fit_transform(column[:2])
        count = count_sentences()
        name = f"{make.__name__.lower()}__model_name"
        search = GridSearchCV(make_pipeline(encoder, classifier()), {name: models, **GRID}, cv=5)
        return time_fit(search, column, labels), count(), search


WAYS: dict[str, Callable[[Any, Any, list[str]], Run]] = {
    "vectors computed once": with_vectors,
    "skembed": lambda *args: with_skembed(*args, n_jobs=1),
    "skembed, n_jobs=2": lambda *args: with_skembed(*args, n_jobs=2),
    "embetter": with_embetter,
    "skrub": with_skrub,
}
LONG = ("embetter", "skrub")


def classifier() -> LogisticRegression:
    """Return the classifier of every way."""
    return LogisticRegression(max_iter=1000)


def take(vectors: np.ndarray, model: int) -> np.ndarray:
    """Return the vectors of one model."""
    return vectors[:, model]


def load(models: list[str]) -> None:
    """Load skembed and the models into this process, so that no search pays for it."""
    from skembed import TextEmbedder

    for model in models:
        TextEmbedder(model, cache=None).transform(["a text to load the weights with"])


def time_fit(search: GridSearchCV, X: Any, y: Any) -> float:
    """Fit, and return the seconds."""
    started = time.perf_counter()
    search.fit(X, y)
    return time.perf_counter() - started


def count_sentences() -> Callable[[], int]:
    """Count what sentence-transformers is given from now on; call the result for the count."""
    from sentence_transformers import SentenceTransformer

    encode, counts = SentenceTransformer.encode, []

    def encode_and_count(self: Any, sentences: Any, *args: Any, **kwargs: Any) -> Any:
        counts.append(1 if isinstance(sentences, str) else len(sentences))
        return encode(self, sentences, *args, **kwargs)

    SentenceTransformer.encode = encode_and_count
    return lambda: sum(counts)


# Parity -----------------------------------------------------------------------------------------


def compare_vectors(texts: Any, model: str) -> dict[str, float]:
    """Return the largest difference of each way's unit vectors to sentence-transformers'."""
    import pandas as pd
    import skrub
    from embetter.text import SentenceEncoder
    from sentence_transformers import SentenceTransformer

    from skembed import TextEmbedder

    reference = SentenceTransformer(model, device="cpu").encode(list(texts))
    make = skrub.LLMEncoder if hasattr(skrub, "LLMEncoder") else skrub.TextEncoder
    with tempfile.TemporaryDirectory() as folder:
        encoder = make(model, n_components=None, device="cpu", cache_folder=folder)
        scaled = encoder.fit_transform(pd.Series(list(texts), name="text")).to_numpy()
    vectors = {
        "skembed": TextEmbedder(model, dtype="float32", cache=None).transform(texts),
        "embetter": SentenceEncoder(model, device="cpu").transform(list(texts)),
        # skrub divides by one number for all; the directions are comparable.
        "skrub": scaled / np.linalg.norm(scaled, axis=1, keepdims=True),
    }
    return {name: float(abs(found - reference).max()) for name, found in vectors.items()}


# Running ----------------------------------------------------------------------------------------


def run_apart(way: str, n_rows: int, models: list[str]) -> dict[str, Any]:
    """Run one way, or the comparison of vectors, in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--way", way, "--rows", str(n_rows)]
    done = subprocess.run([*command, "--models", *models], stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def run_here(way: str, n_rows: int, models: list[str]) -> dict[str, Any]:
    """Run one way in this process; return what is reported of it."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    texts, labels = labelled_texts(n_rows, N_WORDS)
    if way == "parity":
        return compare_vectors(texts[:100], models[0])
    seconds, n_encoded, search = WAYS[way](texts, labels, models)
    n_fits = len(search.cv_results_["params"]) * search.n_splits_ + 1
    return {
        "seconds": seconds,
        "rows": len(set(texts)),
        "asked": n_fits * len(texts),
        "encoded": n_encoded,
        "best_score": float(search.best_score_),
    }


def make_half_model(folder: Path) -> str:
    """Write a copy of MiniLM that ends after its third layer; return its path."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(minilm_folder(), folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    weights = load_file(folder / "model.safetensors")
    late = tuple(f"encoder.layer.{i}." for i in (3, 4, 5))
    kept = {name: values for name, values in weights.items() if not name.startswith(late)}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def show(results: dict[str, list[dict[str, Any]]]) -> None:
    """Print the table, with the times of the first way as the measure."""
    base = [run["seconds"] for run in results["vectors computed once"]]
    print(
        f"\n{'':<24} {'asked':>7} {'encoded':>8} {'seconds':>8}  {'(least-most)':<14} "
        f"{'times vectors':>13}  best score"
    )
    for way, runs in results.items():
        seconds = [run["seconds"] for run in runs]
        typical = statistics.median(seconds)
        ratio = statistics.median(a / b for a, b in zip(seconds, base, strict=False))
        spread = f"({min(seconds):.1f}-{max(seconds):.1f})"
        encoded = "/".join(sorted({f"{run['encoded']:,}" for run in runs}))
        print(
            f"{way:<24} {runs[0]['asked']:7,} {encoded:>8} {typical:8.1f}  {spread:<14} "
            f"{ratio:13.2f}  {runs[0]['best_score']:.4f}"
        )


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=446)
    parser.add_argument("--long-rounds", type=int, default=1, help="rounds of embetter and skrub")
    parser.add_argument("--way", help="run this way alone and print its JSON")
    parser.add_argument("--models", nargs=2, help="with --way: the folders of the two models")
    args = parser.parse_args()
    if args.way:
        print(json.dumps(run_here(args.way, args.rows, args.models)))
        return
    n_rounds = args.rounds or 3
    with tempfile.TemporaryDirectory() as folder:
        models = [str(minilm_folder()), make_half_model(Path(folder, "half"))]
        differences = run_apart("parity", args.rows, models)
        print("largest difference to sentence-transformers, float32:", differences)
        if max(differences.values()) > VECTOR_TOLERANCE:
            sys.exit("vectors differ: nothing is timed")
        results: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        for number in range(max(n_rounds, args.long_rounds)):
            for way, runs in results.items():
                if number < (args.long_rounds if way in LONG else n_rounds):
                    runs.append(run_apart(way, args.rows, models))
    results = {way: runs for way, runs in results.items() if runs}
    # skrub scales its vectors, which is another C for the classifier.
    scores = {way: runs[0]["best_score"] for way, runs in results.items() if way != "skrub"}
    if max(scores.values()) - min(scores.values()) > SCORE_TOLERANCE:
        sys.exit(f"best scores differ, no times: {scores}")
    show(results)
    write_results(args.out, {"differences": differences, "ways": results})


if __name__ == "__main__":
    main()
