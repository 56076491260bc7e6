"""The common checks of embedders, scikit-learn's own, and processes that share work, on sound."""

import os
import warnings

import numpy as np
import pytest
from sklearn.exceptions import SkipTestWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from skembed import AudioEmbedder
from skembed.testing import embedder_checks
from tests.audio.networks import RATE, TinyNetwork, clips, pairs, write_files


def tiny(**params):
    return AudioEmbedder(TinyNetwork(), dtype="float32", **params)


CHECKS = embedder_checks(
    tiny(),
    pairs(7),
    set_params={"pooling": "max"},
    bad_rows=[3.5, b"bytes", None, "none.wav", np.zeros(3), (np.full(900, 9.0), RATE)],
)
MATRIX_CHECKS = embedder_checks(
    tiny(sampling_rate=RATE),
    np.stack(clips(6, seed=1, lengths=(900,))),
    set_params={"n_components": 3},
)
WAVEFORM_CHECKS = embedder_checks(
    tiny(sampling_rate=8000, window=0.06, hop=0.04),
    clips(6, seed=2),
    set_params={"normalize": True},
    bad_rows=[np.full(900, np.nan), np.zeros((4, 4, 4)), []],
)
NAMES = [name for name, _ in CHECKS]

with warnings.catch_warnings():
    # It says that it skips most of its checks for rows of sound: those above stand in for them.
    warnings.simplefilter("ignore", SkipTestWarning)
    every = parametrize_with_checks([tiny()], expected_failed_checks=lambda _: {})
    scikit_learns_checks = pytest.mark.parametrize(
        every.args[0], list(every.args[1]), **every.kwargs
    )


@pytest.mark.parametrize(("name", "check"), CHECKS, ids=NAMES)
def test_pairs_of_waveform_and_rate_keep_the_common_contract(name, check):
    check()


@pytest.mark.parametrize(("name", "check"), MATRIX_CHECKS, ids=NAMES)
def test_a_matrix_of_clips_keeps_the_common_contract(name, check):
    check()


@pytest.mark.parametrize(("name", "check"), WAVEFORM_CHECKS, ids=NAMES)
def test_waveforms_in_windows_keep_the_common_contract(name, check):
    check()


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("clips"), clips(6, seed=3))


@pytest.mark.parametrize("name", NAMES)
def test_paths_of_clips_keep_the_common_contract(name, paths):
    dict(embedder_checks(tiny(), paths, bad_rows=["", "no/such/file.wav"]))[name]()


@pytest.mark.parametrize("name", NAMES)
def test_the_baseline_keeps_the_common_contract(name, paths):
    dict(embedder_checks(AudioEmbedder("logmel"), paths, set_params={"pooling": "max"}))[name]()


@scikit_learns_checks
def test_audio_embedder_passes_scikit_learns_checks(estimator, check):
    check(estimator)


class LoggingEmbedder(AudioEmbedder):
    """Writes how many rows the model ran on to a file per process, with each `transform`."""

    def __init__(self, model, *, log, cache="run", pooling="auto"):
        super().__init__(model, cache=cache, pooling=pooling)
        self.log = log

    def _transform_rows(self, *args):
        vectors = super()._transform_rows(*args)
        with (self.log / str(os.getpid())).open("a") as file:
            file.write(f"{self.report_.n_rows} {self.report_.n_encoded}\n")
        return vectors


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_grid_search_encodes_each_distinct_clip_once(tmp_path, n_jobs):
    (tmp_path / "logs").mkdir()
    rows = write_files(tmp_path, clips(60, seed=10 + n_jobs))
    rows += rows[:12]
    pipeline = make_pipeline(
        LoggingEmbedder(TinyNetwork(), log=tmp_path / "logs"), LogisticRegression(max_iter=5000)
    )
    grid = {"loggingembedder__pooling": ["mean", "max"], "logisticregression__C": [0.01, 1]}
    GridSearchCV(pipeline, grid, cv=3, n_jobs=n_jobs).fit(rows, np.arange(72) % 2)
    lines = [each.read_text().splitlines() for each in (tmp_path / "logs").iterdir()]
    asked, encoded = np.array([line.split() for each in lines for line in each], dtype=int).sum(0)
    assert asked == 2 * 2 * 3 * 72 + 72
    assert encoded == 2 * 60
