"""What a worker says names the line that the user has written, and is sent to workers only."""

import pickle
import subprocess
import sys

import joblib
import pytest
from joblib.externals.loky.backend import reduction
from sklearn.base import clone

from skembed import exceptions
from skembed._base import BaseEmbedder

SCRIPT = """
import sys
from joblib import Parallel, delayed, parallel_config
from sklearn.dummy import DummyClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from skembed import BaseEmbedder, Encoder

class NoModel(Encoder):
    digest, width = b"none", 2
    def contents(self, texts):
        return texts
    def encode(self, texts):
        raise NotImplementedError

class Embedder(BaseEmbedder):
    def __init__(self, on_error="nan"):
        self.on_error = on_error
    def _check_row(self, value):
        return value
    def _get_encoder(self):
        return NoModel()

texts, y = [None] * 12, [0, 1] * 6
pipe, grid = make_pipeline(Embedder(), DummyClassifier()), {"embedder__on_error": ["nan"]}
with parallel_config(sys.argv[2]):
    if sys.argv[1] == "search":
        GridSearchCV(pipe, grid, cv=2, n_jobs=2, refit=False).fit(texts, y)
    elif sys.argv[1] == "scores":
        cross_val_score(pipe, texts, y, cv=2, n_jobs=2)
    else:
        Parallel(n_jobs=2)(delayed(pipe[0].transform)(part) for part in (texts, texts[::2]))
"""


@pytest.mark.parametrize("backend", ["loky", "threading"])
@pytest.mark.parametrize(
    ("what", "line"), [("search", "GridSearch"), ("scores", "cross_val"), ("rows", "Parallel")]
)
def test_a_worker_warns_of_the_users_line(tmp_path, what, line, backend):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), what, backend]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    written = SCRIPT.splitlines()
    (number,) = (n for n, each in enumerate(written, 1) if each.strip().startswith(line))
    warned = [each for each in said.splitlines() if "InvalidRowsWarning: " in each]
    assert warned
    assert all(each.startswith(f"{script}:{number}: ") for each in warned), said
    assert written[number - 1].strip() in said


class Words(BaseEmbedder):
    def __init__(self, cache="run"):
        self.cache = cache


def test_only_what_is_sent_to_workers_has_the_line(monkeypatch):
    monkeypatch.setattr(exceptions, "_line_noted", None)
    ours = Words()
    other = clone(ours)
    assert pickle.dumps(ours) == pickle.dumps(other)
    assert joblib.hash(ours) == joblib.hash(other)
    sent = bytes(reduction.dumps(ours))
    assert exceptions._line_noted is None
    assert type(pickle.loads(sent)) is Words
    assert exceptions._line_noted[0] == __file__
    assert vars(pickle.loads(sent)) == vars(ours)


@pytest.mark.parametrize(
    ("waiting", "found"), [("ab", "noted"), ("aa", "a"), ("a", "a"), ("", "noted")]
)
def test_two_lines_that_wait_for_workers_are_no_line(monkeypatch, waiting, found):
    for name, value in (("_user_above", lambda frame: None), ("_line_noted", "noted")):
        monkeypatch.setattr(exceptions, name, value)
    for name in ("_user_of_workers", "_line_of"):
        monkeypatch.setattr(exceptions, name, lambda frame: frame)
    monkeypatch.setattr(sys, "_current_frames", lambda: dict(enumerate(waiting)))
    assert exceptions.line_of_user() == found


GROWING = """
import os, time
from joblib import Parallel, delayed
from skembed import FunctionEmbedder

def grow(embedder):
    kept = vars(os).setdefault("kept", [])  # of this process
    time.sleep(1.1)  # joblib looks after a second
    kept.append(b"" if len(kept) != 1 else b"x" * (350 << 20))
    return os.getpid()

pids = Parallel(n_jobs=2)(delayed(grow)(FunctionEmbedder(len)) for task in range(8))
print(len(set(pids)))
"""


def test_a_worker_that_has_loaded_a_model_is_not_taken_for_one_that_leaks(tmp_path):
    pytest.importorskip("psutil")  # joblib looks only with it
    script = tmp_path / "script.py"
    script.write_text(GROWING)
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert (ran.stdout.strip(), ran.stderr) == ("2", "")
