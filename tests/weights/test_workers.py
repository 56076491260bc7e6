"""Weights reach joblib's workers once, as files, and lie in every other pickle."""

import copy
import pickle

import cloudpickle
import numpy as np
import pytest
import torch
from joblib import Parallel, delayed
from joblib.externals.loky.backend import reduction
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from torch import nn

from skembed import ImageEmbedder
from skembed.store import keep_in_run
from skembed.weights import _workers
from tests.image.networks import TinyNetwork, pictures, to_pixels


class Heavy(TinyNetwork):
    """With a million weights, which scale what it gives."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.spare = nn.Parameter(torch.full((1_000_000,), scale))

    def forward(self, pixels):
        return super().forward(pixels) * self.spare.mean()


def embedder(module=None):
    return ImageEmbedder(module or Heavy(), preprocess=to_pixels, dtype="float32")


def sent(thing):
    return bytes(reduction.dumps(thing))


def double_and_embed(each, rows):
    with torch.no_grad():
        each.model.spare.mul_(2)
    return each.set_params(cache=None).fit_transform(rows)


def test_what_a_worker_changes_in_a_task_is_not_seen_in_the_next():
    ours, rows = embedder(), pictures(3)
    expected = 2 * ours.fit_transform(rows)
    found = Parallel(n_jobs=2)(delayed(double_and_embed)(clone(ours), rows) for _ in range(6))
    for vectors in found:
        np.testing.assert_allclose(vectors, expected, rtol=1e-5)
    assert float(ours.model.spare.detach().max()) == 1


def test_estimators_that_come_back_are_the_callers_own():
    rows, y = pictures(8), np.arange(8) % 2
    ours = make_pipeline(embedder(), LogisticRegression())
    vectors = ours[0].fit_transform(rows)
    options = {"cv": 2, "n_jobs": 2, "return_estimator": True}
    first, second = cross_validate(ours, rows, y, **options)["estimator"]
    assert isinstance(first[0].model, Heavy)
    pickle.dumps(first)
    with torch.no_grad():
        first[0].model.spare.mul_(3)
    again = cross_validate(ours, rows, y, **options)["estimator"]
    for each in (second, *again):
        np.testing.assert_allclose(each[0].transform(rows), vectors, rtol=1e-5)
    np.testing.assert_allclose(first[0].transform(rows), 3 * vectors, rtol=1e-5)


def test_weights_are_a_file_that_is_written_once():
    ours = embedder()
    files = keep_in_run("beacon", memoryview(b"1")).parent
    n_before = len(list(files.glob("weights-*")))
    pickles = [sent(clone(ours)) for _ in range(3)]
    assert max(map(len, pickles)) < 20_000
    assert len(list(files.glob("weights-*"))) == n_before + (n_before == 0)
    with torch.no_grad():
        ours.model.spare.add_(1)
    changed, old = pickle.loads(sent(ours)), pickle.loads(pickles[0])
    assert float(changed.model.spare.detach()[0]) == 2
    assert float(old.model.spare.detach()[0]) == 1


def test_modules_in_a_grid_travel_so_too():
    grid = GridSearchCV(embedder(), {"model": [Heavy(), Heavy(7.0)]})
    assert len(sent(grid)) < 40_000


def test_all_else_of_a_module_travels_as_it_is_now():
    net = Heavy()
    assert pickle.loads(sent(net)).spare.requires_grad
    net.requires_grad_(False).eval()
    found = pickle.loads(sent(net))
    assert not found.training
    assert not found.spare.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_formats_and_shapes_arrive(dtype):
    weights = nn.Parameter(torch.randn(3, 400_000).to(dtype))
    found = pickle.loads(sent(weights))
    assert type(found) is nn.Parameter
    torch.testing.assert_close(found, weights, rtol=0, atol=0)


def test_changes_that_torch_does_not_count_arrive():
    weights = nn.Parameter(torch.zeros(1024, 1024))
    sent(weights)
    weights.data[5, 7] = 1
    assert float(pickle.loads(sent(weights)).detach()[5, 7]) == 1


@pytest.mark.filterwarnings("ignore:Sparse")
def test_sparse_weights_travel_in_the_pickle():
    weights = nn.Parameter(torch.eye(3).to_sparse_csr())
    assert pickle.loads(sent(weights)).layout is torch.sparse_csr


def test_files_of_a_run_are_bounded(monkeypatch):
    monkeypatch.setattr("skembed.store._resolve.run_limit", lambda folder: 1 << 20)
    assert len(sent(nn.Parameter(torch.randn(400_000)))) > 1_000_000


def test_tied_weights_stay_tied():
    tied = nn.Sequential(nn.Linear(1024, 1024), nn.Linear(1024, 1024))
    tied[1].weight = tied[0].weight
    found = pickle.loads(sent(tied))
    assert found[1].weight is found[0].weight


def test_other_pickles_hold_the_weights():
    ours = embedder()
    for dumps in (pickle.dumps, cloudpickle.dumps):
        assert len(dumps(ours)) > 4_000_000
    assert copy.copy(ours).model is ours.model
    assert isinstance(copy.deepcopy(ours).model, Heavy)


def test_without_a_file_weights_travel_in_the_pickle(monkeypatch):
    monkeypatch.setattr(_workers, "keep_in_run", lambda name, data: None)
    kept = sent(embedder())
    assert len(kept) > 4_000_000
    assert isinstance(pickle.loads(kept).model, Heavy)
