"""Of a table of embeddings the used rows are trained alone: the same is learned."""

import numpy as np
import pytest
import torch
from torch import nn

from skembed import Contrastive, FineTune, TextEmbedder
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
    assert 0 < len(shrunk[0].used) < len(shrunk[0].table) == 100
    with monkeypatch.context() as patched:
        expected = learned(embedder, patched)
    assert len(shrunk) == 1
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
    assert changed[shrunk[-1].used].any()
    assert not changed[np.setdiff1d(np.arange(len(after)), shrunk[-1].used)].any()


def test_views_may_use_any_row(embedder, shrunk):
    embedder(Contrastive("views", n_epochs=1)).fit(X)
    embedder(FineTune(**{**SETTINGS, "augment": True})).fit(X, Y)
    assert not shrunk


class Core(nn.Module):
    """Looks ids up in a table, and does more with it."""

    def __init__(self, more=None, **options):
        super().__init__()
        self.table = nn.Embedding(100, 16, **options)
        self.more = more

    @property
    def token_table(self):
        return self.table

    def forward(self, batch):
        found = self.table(batch.ids)
        return found if self.more is None else self.more(found, self.table)


class Batch:
    def __init__(self, ids):
        self.ids = ids


class Around(nn.Module):
    def __init__(self, core):
        super().__init__()
        self.core = core

    def forward(self, batch):
        return self.core(batch)


def try_core(core, *ids):
    module = Around(core)
    train_used_rows(module, [Batch(each) for each in ids])
    return module


def test_an_unknown_row_is_an_error(shrunk):
    core = Core(padding_idx=3)
    expected = core(Batch(torch.arange(20)))
    module = try_core(core, torch.arange(12), torch.arange(8, 20))
    assert shrunk[0].weight.shape == (20, 16)
    found = module(Batch(torch.arange(20)))
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert shrunk[0].weight.grad[3].eq(0).all()
    with pytest.raises(IndexError):
        module(Batch(torch.tensor([20])))


def tied():
    core = Core()
    core.second = nn.Linear(16, 100, bias=False)
    core.second.weight = core.table.weight
    return core


def hooked():
    core = Core()
    core.table.register_forward_hook(lambda module, given, found: 2 * found)
    return core


def small():
    core = Core()
    core.table = nn.Embedding(10, 16)
    return core


def frozen():
    core = Core()
    core.table.requires_grad_(False)
    return core


OTHERS = {
    "tied": tied,
    "hooked": hooked,
    "small": small,
    "frozen": frozen,
    "normed": lambda: Core(max_norm=1.0),
    "soft": lambda: Core(lambda found, table: found @ table.weight.T),
    "softmax": lambda: Core(lambda x, table: (x @ table.weight.T).softmax(-1) @ table.weight),
    "sized": lambda: Core(lambda found, table: found * table.num_embeddings),
    "twice": lambda: Core(lambda found, table: found + table(torch.full((5,), 50))),
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_other_tables_are_left_alone(make, shrunk):
    core = make()
    table, expected = core.table, core(Batch(torch.arange(5)))
    module = try_core(core, torch.arange(5))
    assert core.table is table
    torch.testing.assert_close(module(Batch(torch.arange(5))), expected)


def test_a_table_that_is_mostly_used_is_left_alone(shrunk):
    try_core(Core(), torch.arange(10), torch.arange(10, 95))
    assert not shrunk


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_frozen_blocks_go_together_with_products_of_steady_sizes(folder, dtype):
    X = [" ".join(["a cat"] * 2 + [str(i % 10)]) for i in range(64)]
    embedder = TextEmbedder(
        folder,
        training=FineTune(freeze=1, n_epochs=2, batch_size=10, dtype=dtype, random_state=0),
        cache=None,
    ).fit(X, [i % 2 for i in range(64)])
    assert len(embedder.history_["loss"]) == 3
