"""Of a table of embeddings the used rows are trained alone: the same is learned."""

import numpy as np
import pytest
import torch
from torch import nn

from skembed import Contrastive, FineTune
from skembed.training import _learn, _lookups
from skembed.training._lookups import UsedRows, train_used_rows
from tests.training.conftest import X, Y

SETTINGS = {
    "n_epochs": 3,
    "batch_size": 8,
    "learning_rate": 3e-3,
    "validation_fraction": 0.25,
    "weight_decay": 0.0,
    "random_state": 0,
}


@pytest.fixture
def shrunk(monkeypatch):
    """Let small tables count as large, and list what stands in for them."""
    monkeypatch.setattr(_lookups, "_LEAST_VALUES", 1000)
    monkeypatch.setattr(_lookups, "_MOST_SHARE", 0.9)
    made, init = [], UsedRows.__init__

    def note(self, *given):
        init(self, *given)
        made.append(self)

    monkeypatch.setattr(UsedRows, "__init__", note)
    return made


def learned(embedder, monkeypatch=None, **changes):
    if monkeypatch is not None:
        monkeypatch.setattr(_learn, "train_used_rows", lambda *given: None)
    found = embedder(FineTune(**{**SETTINGS, **changes})).fit(X, Y)
    if monkeypatch is not None:
        monkeypatch.undo()
    return found


def test_the_same_is_learned(embedder, shrunk, monkeypatch):
    found = learned(embedder)
    assert [len(each.table) for each in shrunk] == [100, 130]  # tokens and positions
    assert all(0 < len(each.used) < len(each.table) for each in shrunk)
    with monkeypatch.context() as patched:
        expected = learned(embedder, patched)
    assert len(shrunk) == 2
    assert list(found.trained_.arrays) == list(expected.trained_.arrays)
    for name, array in expected.trained_.arrays.items():
        np.testing.assert_allclose(found.trained_.arrays[name], array, atol=2e-5)
    np.testing.assert_allclose(found.transform(X), expected.transform(X), atol=1e-5)


def test_what_no_row_uses_stays_as_published(embedder, shrunk):
    found = learned(embedder, weight_decay=0.5, validation_fraction=None)
    (name,) = (n for n in found.trained_.arrays if n.endswith("word_embeddings.weight"))
    published = found.encoder_.backbone.base.load().state_dict()[name].numpy()
    same = (found.trained_.arrays[name] == published).all(axis=1)
    assert same.any()
    assert not same[shrunk[0].used[1:]].all()
    assert same[np.setdiff1d(np.arange(len(same)), shrunk[0].used)].all()
    found.transform(["words that were never seen"])


def test_going_on_trains_from_what_was_learned(embedder, shrunk):
    once = learned(embedder, n_epochs=2)
    (name,) = (n for n in once.trained_.arrays if n.endswith("word_embeddings.weight"))
    before = once.trained_.arrays[name].copy()
    rest = X[:8]
    once.partial_fit(rest, Y[:8])
    after = once.trained_.arrays[name]
    changed = (after != before).any(axis=1)
    assert changed[shrunk[-2].used].any()
    assert not changed[np.setdiff1d(np.arange(len(after)), shrunk[-2].used)].any()


def test_views_may_use_any_row(embedder, shrunk):
    embedder(Contrastive("views", n_epochs=1)).fit(X)
    embedder(FineTune(**{**SETTINGS, "augment": True})).fit(X, Y)
    assert not shrunk


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Embedding(100, 16), nn.Linear(16, 100, bias=False)
        self.second.weight = self.first.weight

    def forward(self, ids):
        return self.second(self.first(ids))


@pytest.mark.parametrize(
    "module",
    [
        Tied(),
        nn.Sequential(nn.Embedding(100, 16), nn.Linear(16, 1000)),
        nn.Sequential(nn.Embedding(100, 16, max_norm=1.0)),
        nn.Sequential(nn.Embedding(100, 16).requires_grad_(False), nn.Linear(16, 2)),
        nn.Sequential(nn.Embedding(10, 16)),
    ],
    ids=["tied", "two are used up", "normed", "frozen", "small"],
)
def test_other_tables_are_left_alone(module, shrunk):
    batches = [torch.arange(10), torch.arange(10, 95)]
    train_used_rows(module, batches if len(list(module.parameters())) > 1 else batches[:1])
    assert not shrunk


def test_an_unknown_row_is_an_error(shrunk):
    module = nn.Sequential(nn.Embedding(100, 16, padding_idx=3))
    expected = module(torch.arange(20))
    train_used_rows(module, [torch.arange(12), torch.arange(8, 20)])
    assert shrunk[0].weight.shape == (20, 16)
    found = module(torch.arange(20))
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert shrunk[0].weight.grad[3].eq(0).all()
    with pytest.raises(IndexError):
        module(torch.tensor([20]))
