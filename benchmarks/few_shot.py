"""Does contrastive training on few labels reach SetFit? MiniLM on reviews of food.

Both get the same rows, so many of each class, and train all weights with their defaults; SetFit's
classifier is a logistic regression, and so is the one on skembed's vectors. Both read the first 64
tokens of a review and are tried on 1,000 others. A seed decides the draw of the rows and the
training. The seconds are those of training and of fitting the classifier, with the model loaded
before; each run begins in a process of its own, and is written when it is done.

    python benchmarks/few_shot.py --shots 8 16 --seeds 5 --out benchmarks/results/few_shot.json
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
sys.path.append(str(Path(__file__).parents[1] / "examples"))

import numpy as np
from _common import call_apart, describe_machine, make_parser, minilm_folder

Rows = tuple[list[str], np.ndarray]
N_TOKENS = 64  # a quarter of the model's limit, so that SetFit's many steps end within minutes


def draw(X: np.ndarray, y: np.ndarray, n_each: int, seed: int) -> Rows:
    """Return so many rows of each class."""
    rng = np.random.default_rng(seed)
    rows = np.concatenate(
        [rng.choice(np.flatnonzero(y == each), n_each, replace=False) for each in np.unique(y)]
    )
    return X[rows].tolist(), y[rows]


def frozen(rows: Rows, seed: int) -> tuple[Any, float]:
    """Return a classifier on the published model's vectors, and the seconds it took."""
    return _pipeline(None, rows)


def with_skembed(rows: Rows, seed: int) -> tuple[Any, float]:
    """Train with skembed."""
    from skembed import Contrastive

    return _pipeline(Contrastive("labels", random_state=seed), rows)


def _pipeline(training: Any, rows: Rows) -> tuple[Any, float]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    from skembed import TextEmbedder

    embedder = TextEmbedder(max_length=N_TOKENS, training=training, on_truncate="ignore")
    TextEmbedder().warm_up()
    pipe = make_pipeline(embedder, LogisticRegression())
    started = time.perf_counter()
    pipe.fit(*rows)
    return pipe, time.perf_counter() - started


def with_setfit(rows: Rows, seed: int) -> tuple[Any, float]:
    """Train with SetFit's trainer."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model = SetFitModel.from_pretrained(str(minilm_folder()))
    model.model_body.max_seq_length = N_TOKENS
    data = Dataset.from_dict({"text": rows[0], "label": rows[1].tolist()})
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            seed=seed,
            save_strategy="no",
            report_to="none",
            show_progress_bar=False,
        )
        started = time.perf_counter()
        Trainer(model=model, args=arguments, train_dataset=data).train()
        return model, time.perf_counter() - started


WAYS = {"frozen": frozen, "skembed": with_skembed, "setfit": with_setfit}


def run(way: str, n_each: int, seed: int) -> dict[str, float]:
    """Train once, and return how good the classifier is."""
    from _food_reviews import food_reviews
    from sklearn.metrics import accuracy_score, roc_auc_score

    (X, y), (X_test, y_test) = food_reviews("train"), food_reviews("test")
    codes, test_codes = (y == "great").astype(int), (y_test == "great").astype(int)
    classifier, seconds = WAYS[way](draw(X, codes, n_each, seed), seed)
    shares = np.asarray(classifier.predict_proba(X_test.tolist()))[:, 1]
    return {
        "accuracy": float(accuracy_score(test_codes, shares > 0.5)),
        "roc_auc": float(roc_auc_score(test_codes, shares)),
        "seconds": seconds,
    }


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--shots", type=int, nargs="+", default=[8, 16, 64])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--minutes", type=float, help="begin no run after so many")
    args = parser.parse_args()
    results: dict[str, Any] = {"runs": {}}
    if args.out is not None and args.out.exists():
        results = json.loads(args.out.read_text(encoding="utf-8"))
    runs = results["runs"]
    end = time.monotonic() + 60 * (args.minutes or 1e9)
    for n_each in args.shots:
        for seed in range(args.seeds):
            for way in args.ways:
                key = f"{n_each}/{way}/{seed}"
                if key in runs or time.monotonic() > end:
                    continue
                runs[key] = call_apart(run, way, n_each, seed)
                print(key, {k: round(v, 3) for k, v in runs[key].items()}, flush=True)
                if args.out is not None:
                    results["machine"] = describe_machine()
                    results["setfit"] = version("setfit")
                    args.out.parent.mkdir(parents=True, exist_ok=True)
                    args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        for way in WAYS:
            found = [runs[k] for s in range(args.seeds) if (k := f"{n_each}/{way}/{s}") in runs]
            for name in found[0] if found else ():
                values = [each[name] for each in found]
                mean, spread = np.mean(values), np.std(values)
                print(f"{n_each:>3} {way:<8} {name:<9} {mean:.3f} ± {spread:.3f} ({len(values)})")


if __name__ == "__main__":
    main()
