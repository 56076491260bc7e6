"""Ways of training MiniLM on labelled texts: skembed, sentence-transformers' trainer, a plain loop.

Each trains all weights and a linear classifier on the vectors, with AdamW, and says how long its
epochs took and what the loss was in each.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

BATCH_SIZE, RATE, HEAD_RATE = 32, 2e-5, 1e-3


class Task(NamedTuple):
    """What is learned, and how."""

    folder: Path
    texts: list[str]
    labels: np.ndarray
    head: tuple[np.ndarray, np.ndarray] | None  # weight and bias to start from
    dtype: str
    n_epochs: int
    device: str = "cpu"


class Done(NamedTuple):
    """Seconds of the epochs, and of all with imports and the model's loading; the losses."""

    seconds: float
    seconds_in_all: float
    losses: list[float]
    head: tuple[np.ndarray, np.ndarray] | None = None


Train = Callable[[Task], Done]


class Classifier(nn.Module):
    """A linear classifier on vectors."""

    def __init__(self, task: Task, width: int) -> None:
        super().__init__()
        n_classes = len(np.unique(task.labels))
        self.linear = nn.Linear(width, n_classes)
        if task.head is not None:
            with torch.no_grad():
                for parameter, values in zip(self.linear.parameters(), task.head, strict=True):
                    parameter.copy_(torch.from_numpy(values))


def train_skembed(task: Task) -> Done:
    """Train with `TextEmbedder.fit`."""
    started = time.perf_counter()
    from skembed import FineTune, TextEmbedder
    from skembed.training import _loop

    heads: list[Any] = []
    run = _loop.Loop.run

    def look(loop: Any) -> None:
        heads.extend(p.detach().cpu().numpy().copy() for p in loop.objective.head.parameters())
        run(loop)

    strategy = FineTune(
        n_epochs=task.n_epochs,
        batch_size=BATCH_SIZE,
        learning_rate=RATE,
        weight_decay=0.0,
        warmup=0.0,
        validation_fraction=None,
        dtype=task.dtype,
    )
    _loop.Loop.run = look
    try:
        embedder = TextEmbedder(
            str(task.folder), training=strategy, cache=None, device=task.device, max_length=256
        ).fit(task.texts, task.labels)
        in_all = time.perf_counter() - started
    finally:
        _loop.Loop.run = run
    history = embedder.history_
    return Done(sum(history["seconds"][1:]), in_all, history["loss"][1:], (heads[0], heads[1]))


def train_sentence_transformers(task: Task) -> Done:
    """Train with `SentenceTransformerTrainer`."""
    started = time.perf_counter()
    from datasets import Dataset, disable_progress_bars
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )

    disable_progress_bars()

    class Loss(nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model, self.classifier = model, Classifier(task, 384)

        def forward(self, features: Any, labels: torch.Tensor) -> torch.Tensor:
            vectors = self.model(features[0])["sentence_embedding"]
            return F.cross_entropy(self.classifier.linear(vectors), labels)

    model = SentenceTransformer(str(task.folder), device=task.device)
    model.max_seq_length = 256
    loss = Loss(model).to(task.device)
    groups = [
        {"params": list(model.parameters()), "lr": RATE},
        {"params": list(loss.classifier.parameters()), "lr": HEAD_RATE},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder,
            num_train_epochs=task.n_epochs,
            per_device_train_batch_size=BATCH_SIZE,
            bf16=task.dtype == "bfloat16",
            use_cpu=task.device == "cpu",
            logging_strategy="epoch",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = SentenceTransformerTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_dict({"text": task.texts, "label": task.labels.tolist()}),
            loss=loss,
            optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)),
        )
        begun = time.perf_counter()
        with contextlib.redirect_stdout(None):
            trainer.train()
        ended = time.perf_counter()
    losses = [float(line["loss"]) for line in trainer.state.log_history if "loss" in line]
    return Done(ended - begun, ended - started, losses)


def train_plainly(task: Task) -> Done:
    """Train with a loop over transformers' model, batches padded to their longest text."""
    started = time.perf_counter()
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(task.folder)
    model = AutoModel.from_pretrained(task.folder, add_pooling_layer=False).to(task.device).train()
    classifier = Classifier(task, model.config.hidden_size).to(task.device)
    groups = [
        {"params": list(model.parameters()), "lr": RATE},
        {"params": list(classifier.parameters()), "lr": HEAD_RATE},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
    parameters = [p for group in groups for p in group["params"]]
    labels = torch.from_numpy(np.unique(task.labels, return_inverse=True)[1]).to(task.device)
    rng, losses = np.random.default_rng(0), []
    begun = time.perf_counter()
    for _ in range(task.n_epochs):
        order, found = rng.permutation(len(task.texts)), []
        for start in range(0, len(order), BATCH_SIZE):
            rows = order[start : start + BATCH_SIZE]
            texts = [task.texts[i] for i in rows]
            options = {"padding": True, "truncation": True, "max_length": 256}
            inputs = tokenizer(texts, return_tensors="pt", **options).to(task.device)
            optimizer.zero_grad()
            is_rounded = task.dtype == "bfloat16"
            with torch.autocast(task.device, torch.bfloat16, enabled=is_rounded):
                states = model(**inputs).last_hidden_state
                mask = inputs["attention_mask"][..., None]
                vectors = F.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
                loss = F.cross_entropy(classifier.linear(vectors), labels[torch.from_numpy(rows)])
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            found.append(loss.item())
        losses.append(float(np.mean(found)))
    ended = time.perf_counter()
    return Done(ended - begun, ended - started, losses)


WAYS: dict[str, Train] = {
    "sentence-transformers": train_sentence_transformers,
    "plain loop": train_plainly,
    "skembed": train_skembed,
}
