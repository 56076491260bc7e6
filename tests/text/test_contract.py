"""The common checks of embedders, scikit-learn's own, and processes that share work, on text."""

import multiprocessing
import os
import warnings

import numpy as np
import pandas as pd
import pytest
from joblib import Parallel, delayed
from sklearn.exceptions import SkipTestWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from skembed import EmbeddingStore, TextEmbedder
from skembed.testing import embedder_checks
from tests.text.checkpoints import TEXTS, write_checkpoint

ROWS = [*TEXTS, "one more row", "Ünïcödé — 朴素贝叶斯"]

CHECKS = embedder_checks(
    TextEmbedder(on_truncate="ignore", dtype="float32"),
    ROWS,
    set_params={"pooling": "cls"},
    bad_rows=[3.5, b"bytes", None],
)

with warnings.catch_warnings():
    # It says that it skips most of its checks for rows of text: those above stand in for them.
    warnings.simplefilter("ignore", SkipTestWarning)
    every = parametrize_with_checks([TextEmbedder()], expected_failed_checks=lambda _: {})
    # Older releases draw the checks, and say so, only when they are asked for.
    scikit_learns_checks = pytest.mark.parametrize(
        every.args[0], list(every.args[1]), **every.kwargs
    )


@pytest.mark.parametrize(("name", "check"), CHECKS, ids=[name for name, _ in CHECKS])
def test_text_embedder_keeps_the_common_contract(name, check):
    check()


@scikit_learns_checks
def test_text_embedder_passes_scikit_learns_checks(estimator, check):
    check(estimator)


class LoggingEmbedder(TextEmbedder):
    """Writes how many rows the model ran on to a file per process, with each call."""

    def __init__(self, model, *, log, cache="run", pooling="auto"):
        super().__init__(model, cache=cache, pooling=pooling, on_truncate="ignore")
        self.log = log

    def transform(self, X):
        return self._logged(super().transform(X))

    def fit_transform(self, X, y=None):
        return self._logged(super().fit_transform(X, y))

    def _logged(self, vectors):
        with (self.log / str(os.getpid())).open("a") as file:
            file.write(f"{self.report_.n_rows} {self.report_.n_encoded}\n")
        return vectors


def logged(folder):
    """Return (processes, rows asked for, rows encoded) from the logs of a folder."""
    lines = [line.split() for path in folder.iterdir() for line in path.read_text().splitlines()]
    asked, encoded = np.array(lines, dtype=int).sum(0)
    return len(list(folder.iterdir())), asked, encoded


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("model") / "bert")


@pytest.fixture
def logs(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    return folder


def documents(n, seed):
    """Return n distinct texts that no other test embeds."""
    rng = np.random.default_rng(seed)
    words = np.array(" ".join(TEXTS).split())
    return [f"{seed} {i} " + " ".join(rng.choice(words, rng.integers(1, 30))) for i in range(n)]


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("cache", ["run", "folder"])
def test_a_grid_search_encodes_each_distinct_row_once(checkpoint, logs, tmp_path, n_jobs, cache):
    texts = documents(150, seed=10 * n_jobs + len(cache))
    texts += texts[:30]
    labels = np.arange(len(texts)) % 2
    cache = cache if cache == "run" else tmp_path / "store"
    pipeline = make_pipeline(
        LoggingEmbedder(checkpoint, log=logs, cache=cache), LogisticRegression(max_iter=5000)
    )
    grid = {
        "loggingembedder__pooling": ["mean", "cls"],
        "logisticregression__C": [0.1, 1, 10],
    }
    GridSearchCV(pipeline, grid, cv=5, n_jobs=n_jobs).fit(texts, labels)
    n_processes, n_asked, n_encoded = logged(logs)
    assert n_asked == 2 * 3 * 5 * 180 + 180
    assert n_encoded == 2 * 150
    if n_jobs == 2:
        assert n_processes >= 2


def test_threads_share_the_work_too(checkpoint, logs):
    texts = documents(200, seed=5)
    labels = np.arange(200) % 2
    pipeline = make_pipeline(
        LoggingEmbedder(checkpoint, log=logs), LogisticRegression(max_iter=5000)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JOBLIB_START_METHOD", "loky")
        scores = Parallel(n_jobs=3, prefer="threads")(
            delayed(cross_val_score)(pipeline, texts, labels, cv=3) for _ in range(3)
        )
    np.testing.assert_array_equal(scores[0], scores[1])
    assert logged(logs)[2] == 200


def _transform_in_child(folder, texts, queue):
    queue.put(TextEmbedder(folder, on_truncate="ignore").transform(texts))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_children_embed_what_the_parent_has_not(checkpoint):
    context = multiprocessing.get_context("fork")
    texts = documents(100, seed=6)
    embedder = TextEmbedder(checkpoint, on_truncate="ignore")
    embedder.transform(texts[:40])
    queue = context.Queue()
    children = [
        context.Process(target=_transform_in_child, args=(checkpoint, texts, queue))
        for _ in range(2)
    ]
    for child in children:
        child.start()
    results = [queue.get(timeout=120) for _ in children]
    for child in children:
        child.join(timeout=60)
        assert child.exitcode == 0
    expected = embedder.transform(texts)
    for result in results:
        np.testing.assert_allclose(result, expected, atol=0.02)


def test_a_folder_serves_the_next_process(checkpoint, tmp_path):
    texts = pd.Series(documents(50, seed=7))
    first = TextEmbedder(checkpoint, cache=tmp_path / "store", on_truncate="ignore")
    vectors = first.transform(texts)
    n_encoded, again = Parallel(n_jobs=2)(
        [delayed(_transform_and_report)(first, texts), delayed(_transform_and_report)(first, texts)]
    )[0]
    assert n_encoded == 0
    np.testing.assert_array_equal(again, vectors)


def _transform_and_report(embedder, texts):
    vectors = embedder.transform(texts)
    return embedder.report_.n_encoded, vectors


def test_a_store_that_breaks_costs_no_result(checkpoint, tmp_path):
    (tmp_path / "store").write_text("a file stands where the folder should be")
    texts = documents(20, seed=8)
    expected = TextEmbedder(checkpoint, cache=None, on_truncate="ignore").transform(texts)
    store = EmbeddingStore(tmp_path / "store")
    with pytest.warns(Warning, match="store"):
        vectors = TextEmbedder(checkpoint, cache=store, on_truncate="ignore").transform(texts)
    np.testing.assert_array_equal(vectors, expected)
