"""The loop: a batch's gradient is the same whatever pieces it runs in."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from skembed.training._examples import collate_vectors, vector_examples
from skembed.training._loop import Loop, Settings
from skembed.training._objective import Batch, Objective

N, WIDTH = 12, 5
X = np.random.default_rng(0).normal(size=(N, WIDTH)).astype(np.float32)
Y = torch.arange(N) % 3


class Net(nn.Module):
    """Runs out of memory on more than so many rows at once, and says how many it took."""

    def __init__(self, most, dropout=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(WIDTH, 8), nn.Tanh(), nn.Dropout(dropout))
        self.most, self.sizes, self.masked = most, [], []

    def forward(self, rows):
        if len(rows) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.sizes.append(len(rows))
        vectors = self.layers(rows)
        self.masked.append(vectors.detach() == 0)
        return vectors


class PerRow(Objective):
    """Cross-entropy of the first features."""

    n_rows, is_per_row = N, True

    def __init__(self):
        self.head = nn.Identity()

    def batches(self, rng):
        yield Batch(rng.permutation(N))

    def n_batches(self):
        return 1

    def loss(self, vectors, batch, positions=None):
        rows = batch.rows if positions is None else batch.rows[positions]
        return F.cross_entropy(vectors[:, :3], Y[rows], reduction="sum") / N

    def score(self, embed):
        return None


class OfPairs(PerRow):
    """Each row is told from all others of the batch."""

    is_per_row = False

    def loss(self, vectors, batch, positions=None):
        assert len(vectors) == N
        same = Y[batch.rows][:, None] == Y[batch.rows]
        similarities = F.normalize(vectors, dim=1) @ F.normalize(vectors, dim=1).T
        return F.mse_loss(similarities, same.float())


def train(net, objective, budget=1 << 30, n_epochs=3):
    settings = Settings(
        n_epochs=n_epochs,
        learning_rate=0.05,
        head_learning_rate=0.05,
        weight_decay=0.01,
        warmup=0.0,
        max_grad_norm=1.0,
        patience=None,
        seed=0,
        dtype=torch.float32,
        budget=budget,
        layout="packed",
    )
    cpu = torch.device("cpu")
    loop = Loop(net, collate_vectors, vector_examples(X), objective(), settings, cpu)
    loop.run()
    return loop


@pytest.mark.parametrize("objective", [PerRow, OfPairs])
def test_memory_that_runs_out_halves_the_piece_and_changes_no_weight(objective):
    whole, halved = Net(N), Net(4)
    train(whole, objective)
    loop = train(halved, objective)
    assert set(whole.sizes) == {N}
    assert set(halved.sizes) == {3}
    assert loop.budget == 3
    for a, b in zip(whole.parameters(), halved.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_a_row_alone_that_takes_too_much_memory_is_an_error():
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        train(Net(0), PerRow)


def test_pieces_of_a_loss_of_whole_batches_have_the_same_dropout_in_both_passes():
    net = Net(N, dropout=0.5)
    train(net, OfPairs, budget=4, n_epochs=1)
    assert net.sizes == [4] * 6
    for first, second in zip(net.masked[:3], net.masked[3:], strict=True):
        torch.testing.assert_close(first, second)
    assert not torch.equal(net.masked[0], net.masked[1])
