"""What starting costs: a search in workers, and a second process that finds every row.

    python start_up.py [--rounds 3]

Each way runs in a fresh process, in turn. CPU seconds are of the process and its workers: on a busy
machine they say more than the clock.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

SEARCH = """
from joblib import parallel_config
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from skembed import TextEmbedder
texts = ["great value", "I love it", "works well", "a joy to use", "five stars", "just perfect",
         "broke at once", "I hate it", "does not work", "a pain to use", "one star", "money wasted"]
pipe = make_pipeline(TextEmbedder(), LogisticRegression())
grid = {{"logisticregression__C": [0.1, 1, 10]}}
with parallel_config({backend!r}):
    GridSearchCV(pipe, grid, n_jobs={n_jobs}).fit(texts, [1] * 6 + [0] * 6)
"""
SECOND = """
from skembed import TextEmbedder
TextEmbedder(cache={folder!r}).transform(["a cat", "a kitten", "a tax return"])
"""
AFTER = """
import json, sys
print(json.dumps([len(sys.modules), "torch" in sys.modules]))
"""


def run(code: str) -> dict[str, Any]:
    """Run code in a fresh process; return what it took, its workers included."""
    before, started = os.times(), time.perf_counter()
    command = [sys.executable, "-c", code + AFTER]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    seconds, after = time.perf_counter() - started, os.times()
    n_modules, has_torch = json.loads(printed.splitlines()[-1])
    cpu = sum(after[2:4]) - sum(before[2:4])
    return {"seconds": seconds, "cpu": cpu, "n_modules": n_modules, "has_torch": has_torch}


def main() -> None:
    """Run every way in turn and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            "scikit-learn imported": "import sklearn.model_selection, sklearn.pipeline",
            "search": SEARCH.format(n_jobs=None, backend="loky"),
            "search, n_jobs=2": SEARCH.format(n_jobs=2, backend="loky"),
            "search, n_jobs=2, threads": SEARCH.format(n_jobs=2, backend="threading"),
            "every row found in a folder": SECOND.format(folder=folder),
        }
        for code in ways.values():
            run(code)
        found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
        for _ in range(args.rounds):
            for way, code in ways.items():
                found[way].append(run(code))
    print(f"{'':30}{'seconds':>9}{'CPU':>7}{'modules':>9}  torch in the first process")
    for way, runs in found.items():
        seconds, cpu = (statistics.median(each[k] for each in runs) for k in ("seconds", "cpu"))
        last = runs[-1]
        print(f"{way:30}{seconds:9.1f}{cpu:7.1f}{last['n_modules']:9}  {last['has_torch']}")


if __name__ == "__main__":
    main()
