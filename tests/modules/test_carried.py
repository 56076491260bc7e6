"""Modules reach joblib's workers once, and lie in every other pickle."""

import copy
import pickle

import cloudpickle
import numpy as np
import torch
from joblib import Parallel, delayed
from joblib.externals.loky.backend import reduction
from sklearn.base import clone
from torch import nn

from skembed import ImageEmbedder
from skembed.modules import _carried
from tests.image.networks import TinyNetwork, pictures, to_pixels


class Heavy(TinyNetwork):
    """With a million weights that nothing uses."""

    def __init__(self):
        super().__init__()
        self.spare = nn.Parameter(torch.zeros(1_000_000))


def embedder(module=None):
    return ImageEmbedder(module or Heavy(), preprocess=to_pixels, dtype="float32")


def identity_and_vectors(each, rows):
    return id(each.model), each.transform(rows)


def test_a_worker_reads_a_module_once_for_all_its_tasks():
    rows = pictures(4)
    ours = embedder()
    expected = ours.fit_transform(rows)
    found = Parallel(n_jobs=2)(
        delayed(identity_and_vectors)(clone(ours), rows[:n]) for n in (1, 2, 3, 4, 3, 2)
    )
    assert len({identity for identity, _ in found}) <= 2
    for _, vectors in found:
        np.testing.assert_array_equal(vectors, expected[: len(vectors)])


def test_what_travels_is_a_file_written_once():
    ours = embedder()
    sent = [bytes(reduction.dumps(clone(ours))) for _ in range(3)]
    assert max(map(len, sent)) < 20_000
    one, other = (pickle.loads(each) for each in sent[:2])
    assert one.model is other.model
    ours.model.spare.data = ours.model.spare.data + 1  # another module from now on
    changed = pickle.loads(bytes(reduction.dumps(ours)))
    assert float(changed.model.spare.detach()[0]) == 1
    assert float(one.model.spare.detach()[0]) == 0


def test_other_pickles_hold_the_module():
    ours = embedder()
    for dumps in (pickle.dumps, cloudpickle.dumps):
        kept = dumps(ours)
        assert len(kept) > 4_000_000
        assert isinstance(pickle.loads(kept).model, Heavy)
    assert copy.copy(ours).model is ours.model
    assert isinstance(copy.deepcopy(ours).model, Heavy)


def test_without_a_folder_the_module_travels_as_it_is(monkeypatch):
    monkeypatch.setattr(_carried, "live_run_folder", lambda: None)
    sent = bytes(reduction.dumps(embedder()))
    assert len(sent) > 4_000_000
    assert isinstance(pickle.loads(sent).model, Heavy)
