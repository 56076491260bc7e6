"""Does fine-tuning reach what sentence-transformers' own trainer reaches? MiniLM on docstrings.

Both train all weights on the same rows, 64 of each module, with the same epochs, batches, AdamW,
learning rate, warm-up and clipping; the one on cross-entropy of a linear head that is fitted first,
the other with its trainer on the same loss and head, and on its own loss for labels, triplets of a
batch. Then a logistic regression on the vectors is tried on the rows held out. Five seeds: the draw
of the rows and the order in which they are seen. `cosine` schedules and dropout are alike; skembed
computes in bfloat16 where that is faster, the peer in float32. Each run is written when it is done.

    python benchmarks/trainer_parity.py --out benchmarks/results/trainer_parity.json
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
from _common import describe_machine, make_parser, minilm_folder
from _labelled import N_TOKENS, Task, draw, load
from scipy.stats import ttest_rel

N_EACH = 64
SETTINGS = {"n_epochs": 3, "batch_size": 32, "learning_rate": 5e-5, "warmup": 0.1}

Vectors = tuple[np.ndarray, np.ndarray]


def frozen(task: Task, rows: np.ndarray, seed: int) -> Vectors:
    """Return the published model's vectors of the rows and of those held out."""
    embedder = task.embed(None)
    return embedder.fit_transform(task.X[rows]), embedder.transform(task.X_test)


def with_skembed(task: Task, rows: np.ndarray, seed: int) -> Vectors:
    """Train with skembed."""
    from skembed import FineTune

    # As the peer does: no rows held out, the last epoch kept.
    training = FineTune("full", **SETTINGS, validation_fraction=None, random_state=seed)
    embedder = task.embed(training)
    return embedder.fit_transform(task.X[rows], task.y[rows]), embedder.transform(task.X_test)


def with_peer(task: Task, rows: np.ndarray, seed: int, *, is_triplets: bool = False) -> Vectors:
    """Train with sentence-transformers' trainer, on cross-entropy or triplets."""
    import torch
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import BatchAllTripletLoss
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model = SentenceTransformer(str(minilm_folder()), device="cpu")
    model.max_seq_length = N_TOKENS
    texts = list(task.X[rows])
    _, codes = np.unique(task.y[rows], return_inverse=True)
    torch.manual_seed(seed)
    loss = BatchAllTripletLoss(model) if is_triplets else CrossEntropy(model, texts, codes)
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder,
            num_train_epochs=SETTINGS["n_epochs"],
            per_device_train_batch_size=int(SETTINGS["batch_size"]),
            learning_rate=SETTINGS["learning_rate"],
            learning_rate_mapping={} if is_triplets else {"head": 1e-3},
            weight_decay=0.01,
            warmup_steps=SETTINGS["warmup"],  # a share, in releases that run on transformers 5
            lr_scheduler_type="cosine",
            max_grad_norm=1.0,
            batch_sampler="group_by_label" if is_triplets else "batch_sampler",
            seed=seed,
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        data = Dataset.from_dict({"sentence": texts, "label": codes.tolist()})
        SentenceTransformerTrainer(model, arguments, train_dataset=data, loss=loss).train()
    return model.encode(texts), model.encode(list(task.X_test))


def CrossEntropy(model: Any, texts: list[str], codes: np.ndarray) -> Any:
    """Return the loss of a linear head on a model's vectors, fitted first as skembed's is."""
    import torch
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=10, max_iter=300).fit(model.encode(texts), codes)

    class Loss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.head = torch.nn.Linear(*fitted.coef_.shape[::-1])
            with torch.no_grad():
                self.head.weight.copy_(torch.from_numpy(fitted.coef_))
                self.head.bias.copy_(torch.from_numpy(fitted.intercept_))

        def forward(self, features: Any, labels: Any) -> Any:
            vectors = self.model(next(iter(features)))["sentence_embedding"]
            return torch.nn.functional.cross_entropy(self.head(vectors), labels.view(-1))

    return Loss()


WAYS: dict[str, Any] = {
    "frozen": frozen,
    "skembed": with_skembed,
    "sentence-transformers, the same loss": with_peer,
    "sentence-transformers, triplets": lambda *args: with_peer(*args, is_triplets=True),
}


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--minutes", type=float, help="begin no run after so many")
    args = parser.parse_args()
    task = load("docstrings")
    results: dict[str, Any] = {"settings": SETTINGS, "runs": {}}
    if args.out is not None and args.out.exists():
        results = json.loads(args.out.read_text(encoding="utf-8"))
    runs = results["runs"]
    end = time.monotonic() + 60 * (args.minutes or 1e9)
    for seed in range(args.seeds):
        for way, train in WAYS.items():
            key = f"{way}/{seed}"
            if key in runs or time.monotonic() > end:
                continue
            rows = draw(task, N_EACH, seed)
            started = time.perf_counter()
            vectors, vectors_test = train(task, rows, seed)
            seconds = time.perf_counter() - started
            fitted = task.classify().fit(vectors, task.y[rows])
            accuracy = float(fitted.score(vectors_test, task.y_test))
            runs[key] = {"accuracy": accuracy, "seconds": seconds}
            print(f"{key:<44} accuracy {accuracy:.3f}  {seconds:.0f} s", flush=True)
            if args.out is not None:
                results["machine"] = describe_machine()
                args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    found = {
        way: [runs[f"{way}/{s}"]["accuracy"] for s in range(args.seeds) if f"{way}/{s}" in runs]
        for way in WAYS
    }
    for way, values in found.items():
        if values:
            print(f"{way:<38} {np.mean(values):.3f} ± {np.std(values):.3f} ({len(values)} seeds)")
    ours, theirs = found["skembed"], found["sentence-transformers, the same loss"]
    n = min(len(ours), len(theirs))
    if n > 1:
        p = ttest_rel(ours[:n], theirs[:n]).pvalue
        gap = np.mean(ours[:n]) - np.mean(theirs[:n])
        print(f"skembed - peer, the same loss: {gap:+.4f} (paired t-test: p = {p:.2f})")


if __name__ == "__main__":
    main()
