"""The common checks of embedders, scikit-learn's own, and processes that share work, on images."""

import os
import warnings

import numpy as np
import pytest
from sklearn.exceptions import SkipTestWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from skembed import ImageEmbedder
from skembed.testing import embedder_checks
from tests.image.networks import TinyNetwork, pictures, to_pixels, write_files

ROWS = pictures(7)


def of_any_size(**params):
    return ImageEmbedder(TinyNetwork(), preprocess=to_pixels, dtype="float32", **params)


CHECKS = embedder_checks(
    of_any_size(), ROWS, set_params={"pooling": "max"}, bad_rows=[3.5, b"bytes", None, "none.png"]
)
STACK_CHECKS = embedder_checks(
    of_any_size(), np.stack(pictures(6, seed=1, sizes=[(12, 20)])), set_params={"normalize": True}
)
MATRIX_CHECKS = embedder_checks(
    of_any_size(image_shape=(12, 10), value_range=(0, 16)),
    np.random.default_rng(0).integers(0, 17, (6, 120)).astype(float),
    set_params={"n_components": 5},
)

with warnings.catch_warnings():
    # It says that it skips most of its checks for rows of images: those above stand in for them.
    warnings.simplefilter("ignore", SkipTestWarning)
    every = parametrize_with_checks([of_any_size()], expected_failed_checks=lambda _: {})
    cases = list(every.args[1])
    # The address of a function would differ between the processes that share the tests.
    scikit_learns_checks = pytest.mark.parametrize(
        every.args[0],
        cases,
        ids=[f"{i}-{check.func.__name__}" for i, (_, check) in enumerate(cases)],
    )


@pytest.mark.parametrize(("name", "check"), CHECKS, ids=[name for name, _ in CHECKS])
def test_image_embedder_keeps_the_common_contract(name, check):
    check()


@pytest.mark.parametrize(("name", "check"), STACK_CHECKS, ids=[name for name, _ in CHECKS])
def test_a_stack_of_images_keeps_the_common_contract(name, check):
    check()


@pytest.mark.parametrize(("name", "check"), MATRIX_CHECKS, ids=[name for name, _ in CHECKS])
def test_a_matrix_of_images_keeps_the_common_contract(name, check):
    check()


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("pictures"), pictures(6, seed=2))


NAMES = [name for name, _ in CHECKS]


@pytest.mark.parametrize("name", NAMES)
def test_paths_of_images_keep_the_common_contract(name, paths):
    dict(embedder_checks(of_any_size(), paths, bad_rows=["", "no/such/file.png"]))[name]()


@scikit_learns_checks
def test_image_embedder_passes_scikit_learns_checks(estimator, check):
    check(estimator)


class LoggingEmbedder(ImageEmbedder):
    """Writes how many rows the model ran on to a file per process, with each call."""

    def __init__(self, model, *, log, preprocess=None, cache="run", pooling="auto"):
        super().__init__(model, preprocess=preprocess, cache=cache, pooling=pooling)
        self.log = log

    def _transform_rows(self, *args):
        vectors = super()._transform_rows(*args)
        with (self.log / str(os.getpid())).open("a") as file:
            file.write(f"{self.report_.n_rows} {self.report_.n_encoded}\n")
        return vectors


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_grid_search_encodes_each_distinct_picture_once(tmp_path, n_jobs):
    (tmp_path / "logs").mkdir()
    rows = write_files(tmp_path, pictures(60, seed=10 + n_jobs))
    rows += rows[:12]
    pipeline = make_pipeline(
        LoggingEmbedder(TinyNetwork(), preprocess=to_pixels, log=tmp_path / "logs"),
        LogisticRegression(max_iter=5000),
    )
    grid = {
        "loggingembedder__pooling": ["mean", "max"],
        "logisticregression__C": [0.01, 1],
    }
    GridSearchCV(pipeline, grid, cv=3, n_jobs=n_jobs).fit(rows, np.arange(72) % 2)
    lines = [each.read_text().splitlines() for each in (tmp_path / "logs").iterdir()]
    asked, encoded = np.array([line.split() for each in lines for line in each], dtype=int).sum(0)
    assert asked == 2 * 2 * 3 * 72 + 72
    assert encoded == 2 * 60
