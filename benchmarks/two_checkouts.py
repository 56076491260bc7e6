"""Rows per second of two checkouts of skembed, in turn: whether a change made anything slower.

Each checkout runs in processes of its own, one for each task, on the same rows, with nothing cached
and models loaded. Vectors are compared first; a task whose vectors differ gets no time. Ratios are
taken within a round (A B A B ...).

    python benchmarks/two_checkouts.py OLD_FOLDER NEW_FOLDER --rounds 7
"""

from __future__ import annotations

import os
import pickle
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import least_cosine, make_parser, minilm_folder, write_results

LEAST_COSINE, LEAST_COSINE_IN_INT8 = 0.9998, 0.98
WORDS = (
    "market river green seven quickly paper under stone music again often little window harbour "
    "yellow simple carry bright morning forest"
)
PLACE = Path(__file__).resolve().parent


# The work, in a process of its own ----------------------------------------------------------------


def texts(n_rows: int, n_words: int) -> list[str]:
    """Return distinct texts of so many words."""
    from sklearn.utils import check_random_state

    random = check_random_state(0)
    words = WORDS.split()
    return [f"{i} {' '.join(random.choice(words, n_words))}" for i in range(n_rows)]


def pictures(n_rows: int) -> list[np.ndarray]:
    """Return pictures of 256 x 256 pixels."""
    return list(np.random.default_rng(0).integers(0, 256, (n_rows, 256, 256, 3), "uint8"))


def clips(n_rows: int) -> list[tuple[np.ndarray, int]]:
    """Return clips of 1 to 5 seconds at 16 kHz."""
    random = np.random.default_rng(0)
    return [(0.1 * random.standard_normal(16_000 * (1 + i % 5)), 16_000) for i in range(n_rows)]


def make_task(name: str) -> tuple[Any, list[Any]]:
    """Return an embedder and the rows that it embeds."""
    import skembed

    kind, _, dtype = name.partition(", ")
    options: dict[str, Any] = {"cache": None, "dtype": dtype or "auto"}
    minilm = minilm_folder()
    tasks = {
        "short texts": lambda: (skembed.TextEmbedder(minilm, **options), texts(1500, 8)),
        "documents": lambda: (skembed.TextEmbedder(minilm, **options), texts(300, 60)),
        "one text": lambda: (skembed.TextEmbedder(minilm, **options), texts(1, 10)),
        "ResNet-50": lambda: (
            skembed.ImageEmbedder("resnet50", weights=None, **options),
            pictures(48),
        ),
        "ViT-B/16": lambda: (
            skembed.ImageEmbedder("vit_b_16", weights=None, **options),
            pictures(16),
        ),
        "wav2vec 2.0": lambda: (
            skembed.AudioEmbedder("WAV2VEC2_BASE", weights=None, **options),
            clips(16),
        ),
        "log-mel": lambda: (skembed.AudioEmbedder("logmel", cache=None), clips(200)),
    }
    return tasks[kind]()


TASKS = (
    *("short texts", "short texts, float32", "short texts, int8", "documents", "documents, int8"),
    *("one text", "ResNet-50", "ResNet-50, float32", "ViT-B/16", "wav2vec 2.0", "log-mel"),
)


def serve(name: str) -> None:
    """Embed the rows of a task whenever a line comes in; answer with the seconds."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints meanwhile
    embedder, rows = make_task(name)
    pickle.dump(embedder.fit_transform(rows), answers)
    answers.flush()
    repeats = 20 if len(rows) == 1 else 1
    for _ in sys.stdin:
        started = time.perf_counter()
        for _ in range(repeats):
            embedder.transform(rows)
        answers.write(f"{(time.perf_counter() - started) / repeats}\n".encode())
        answers.flush()


# The comparison -----------------------------------------------------------------------------------


class Side:
    """One checkout at one task."""

    def __init__(self, folder: Path, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", name],
            env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{PLACE}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.orders = self.process.stdin
        self.answers: Any = self.process.stdout
        self.vectors = pickle.load(self.answers)

    def seconds(self) -> float:
        """Return how long the task takes."""
        self.orders.write(b"\n")
        self.orders.flush()
        return float(self.answers.readline())

    def stop(self) -> None:
        """End the process."""
        self.orders.close()
        self.process.wait()


def compare(old: Path, new: Path, name: str, rounds: int) -> dict[str, Any] | None:
    """Return the seconds of both at a task, None if their vectors differ."""
    sides = [Side(old, name), Side(new, name)]
    try:
        cosine = least_cosine(sides[1].vectors, sides[0].vectors)
        change = float(np.abs(sides[1].vectors - sides[0].vectors).max())
        if cosine < (LEAST_COSINE_IN_INT8 if "int8" in name else LEAST_COSINE):
            print(f"{name:<24} NOT TIMED, least cosine {cosine:.6f}")
            return None
        seconds = [[side.seconds() for side in sides] for _ in range(rounds)]
    finally:
        for side in sides:
            side.stop()
    ratio = statistics.median(a / b for a, b in seconds)
    print(f"{name:<24} {ratio:5.2f} times as fast; least cosine {cosine:.6f}, change {change:.1e}")
    return {"ratio": ratio, "seconds": seconds, "least_cosine": cosine, "largest_change": change}


def main() -> None:
    """Compare two checkouts."""
    parser = make_parser(__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--tasks", nargs="*", default=TASKS)
    options = parser.parse_args()
    found = {
        name: compare(options.old.resolve(), options.new.resolve(), name, options.rounds or 5)
        for name in options.tasks
    }
    write_results(options.out, {"ratios": found})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2])
    else:
        main()
