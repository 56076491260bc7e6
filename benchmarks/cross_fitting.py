"""What out-of-fold vectors change: the gap between training and test scores, and calibration.

A logistic regression on a fine-tuned MiniLM, for food reviews: fitted on the vectors that the
embedder gives the rows it has learned from, or on out-of-fold vectors (`cross_fit=5`). The embedder
is the same, and so are the vectors of the test rows. Frozen vectors stand beside both.

Fetch the reviews with ``python tests/materials.py``::

    python benchmarks/cross_fitting.py --out benchmarks/results/cross_fitting.json
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import make_parser, minilm_folder, write_results
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss

from skembed import FineTune, TextEmbedder

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from _food_reviews import food_reviews

SETTINGS: dict[str, dict[str, Any]] = {
    "head": {"method": "head", "n_epochs": 30},
    "lora": {"method": "lora", "n_epochs": 5},
    "full": {"method": "full", "n_epochs": 5},
}
N_FOLDS = 5


def calibration_error(is_great: np.ndarray, p: np.ndarray, n_bins: int = 10) -> float:
    """Return the expected calibration error: how far from its share of hits a bin's mean is."""
    bins = np.minimum((p * n_bins).astype(int), n_bins - 1)
    gaps = [
        np.abs(is_great[bins == each].mean() - p[bins == each].mean()) * np.mean(bins == each)
        for each in np.unique(bins)
    ]
    return float(np.sum(gaps))


def judge(vectors: np.ndarray, ratings: Any, test: np.ndarray, of_test: Any) -> dict[str, float]:
    """Fit a logistic regression to vectors, and say how good it is and how sure of itself."""
    classifier = LogisticRegression(max_iter=1000).fit(vectors, ratings)
    p = classifier.predict_proba(test)[:, list(classifier.classes_).index("great")]
    is_great = of_test == "great"
    training = accuracy_score(ratings, classifier.predict(vectors))
    accuracy = accuracy_score(of_test, classifier.predict(test))
    return {
        "training_accuracy": training,
        "test_accuracy": accuracy,
        "gap": training - accuracy,
        "brier": brier_score_loss(is_great, p),
        "log_loss": log_loss(is_great, p),
        "calibration_error": calibration_error(is_great, p),
    }


def measure(name: str, n_rows: int, seed: int, data: Any) -> dict[str, Any]:
    """Return what is measured of one training, with its seconds."""
    (texts, ratings), (new_texts, new_ratings) = data
    chosen = np.random.default_rng(seed).permutation(len(texts))[:n_rows]
    X, y = texts[chosen], ratings[chosen]
    frozen = TextEmbedder(minilm_folder())
    vectors, test = frozen.fit_transform(X), frozen.transform(new_texts)
    training = FineTune(**SETTINGS[name], cross_fit=N_FOLDS, random_state=seed)
    embedder = TextEmbedder(minilm_folder(), training=training)
    started = time.perf_counter()
    out_of_fold = embedder.fit_transform(X, y)
    seconds = time.perf_counter() - started
    trained_test = embedder.transform(new_texts)
    return {
        "frozen": judge(vectors, y, test, new_ratings),
        "as trained": judge(embedder.transform(X), y, trained_test, new_ratings),
        "out of fold": judge(out_of_fold, y, trained_test, new_ratings),
        "seconds": {"once": sum(embedder.history_["seconds"]), "with folds": seconds},
    }


def summarize(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean and standard deviation over seeds of each number."""
    return {
        way: {
            key: {
                "mean": float(np.mean([run[way][key] for run in runs])),
                "std": float(np.std([run[way][key] for run in runs])),
            }
            for key in runs[0][way]
        }
        for way in runs[0]
    }


def main() -> None:
    """Measure all, print a table and write JSON."""
    parser = make_parser(__doc__)
    parser.add_argument("--methods", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--rows", nargs="+", type=int, default=[128, 512])
    parser.add_argument("--test", type=int, default=1000, help="how many test rows are embedded")
    parser.add_argument("--reviews", type=Path, help="folder of Rdata.rdx")
    options = parser.parse_args()
    new_texts, new_ratings = food_reviews("test", options.reviews)
    test = new_texts[: options.test], new_ratings[: options.test]
    data = food_reviews("train", options.reviews), test
    results: dict[str, Any] = {}
    for name in options.methods:
        for n_rows in options.rows:
            runs = [measure(name, n_rows, seed, data) for seed in range(options.rounds or 3)]
            found = results[f"{name}, {n_rows} rows"] = summarize(runs)
            print(f"\n{name}, {n_rows} rows, {len(runs)} seeds")
            for way, values in found.items():
                numbers = "  ".join(
                    f"{k} {v['mean']:.3f}±{v['std']:.3f}" for k, v in values.items()
                )
                print(f"  {way:12} {numbers}", flush=True)
    write_results(
        options.out,
        {"folds": N_FOLDS, "test_rows": len(test[0]), "settings": SETTINGS, "results": results},
    )


if __name__ == "__main__":
    main()
