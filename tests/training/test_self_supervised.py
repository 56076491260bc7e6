"""Learning from rows alone: which cells are hidden or exchanged, and what telling them costs."""

import numpy as np
import pandas as pd
import pytest
import torch

from skembed import SelfSupervised, TabularEmbedder, TextEmbedder
from skembed.columns import TableRows, TableShape
from skembed.exceptions import InvalidParameterError, InvalidTargetsError
from skembed.training._cells import Contrast, Reconstruction
from tests.text.checkpoints import write_checkpoint

N, WIDTH = 40, 6
BINS = (np.float32([-1, 1]), np.float32([-1, 0, 1]))
SHAPE = TableShape(BINS, cardinalities=(5, 3, 4), dense=(2,))


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(N, 2)).astype(np.float32)
    numbers[4, 1] = np.nan
    codes = np.stack([rng.integers(0, n, N) for n in SHAPE.cardinalities], 1).astype(np.int32)
    dense = rng.normal(size=(N, 2)).astype(np.float32)
    return TableRows({"numbers": numbers, "codes": codes, "dense": dense}, SHAPE)


def objective(kind, rows, name, **params):
    torch.manual_seed(0)
    strategy = SelfSupervised(name, batch_size=8, **params)
    return kind(strategy, rows, WIDTH, np.arange(32), np.arange(32, N), 0)


def batches(of):
    return list(of.batches(np.random.default_rng(0)))


def test_each_row_is_seen_once_an_epoch(rows):
    found = batches(objective(Reconstruction, rows, "masked"))
    assert sorted(np.concatenate([batch.rows for batch in found])) == list(range(32))
    assert [len(batch.rows) for batch in found] == [8] * 4


@pytest.mark.parametrize(("corruption", "n"), [(0.01, 1), (0.4, 2), (0.99, 6)])
def test_as_many_cells_of_each_row_are_hidden(rows, corruption, n):
    for batch in batches(objective(Reconstruction, rows, "masked", corruption=corruption)):
        parts = batch.change(rows.take(batch.rows))
        assert (parts.arrays["hidden"].sum(1) == n).all()
        np.testing.assert_array_equal(parts.arrays["hidden"], batch.extra)
        np.testing.assert_array_equal(parts.arrays["codes"], rows.arrays["codes"][batch.rows])


@pytest.mark.parametrize(
    ("kind", "name"), [(Reconstruction, "denoise"), (Contrast, "contrast")], ids=lambda each: each
)
def test_exchanged_cells_come_from_rows_that_are_learned_from(rows, kind, name):
    n_changed = 0
    for batch in batches(objective(kind, rows, name, corruption=0.4)):
        own, parts = rows.take(batch.rows), batch.change(rows.take(batch.rows))
        assert "hidden" not in parts.arrays
        for key in ("numbers", "codes", "dense"):
            for column in range(own.arrays[key].shape[1]):
                mine, theirs = own.arrays[key][:, column], parts.arrays[key][:, column]
                is_same = (mine == theirs) | (np.isnan(mine) & np.isnan(theirs))
                n_changed += int((~is_same).sum())
                from_train = rows.arrays[key][:32, column]
                assert np.isin(theirs[~is_same & ~np.isnan(theirs)], from_train).all()
        if kind is Contrast:  # the first of the two views is the row itself
            np.testing.assert_array_equal(parts.arrays["codes"][:8], own.arrays["codes"][:8])
    assert n_changed > 30


def test_the_cells_of_a_vector_are_exchanged_together(rows):
    places = np.full((N, SHAPE.n_cells), -1)
    places[3, 5], places[5, 0] = 7, 9
    parts = rows.exchanged(rows, places)
    np.testing.assert_array_equal(parts.arrays["dense"][3], rows.arrays["dense"][7])
    assert parts.arrays["numbers"][5, 0] == rows.arrays["numbers"][9, 0]
    parts.arrays["dense"][3] = rows.arrays["dense"][3]
    parts.arrays["numbers"][5, 0] = rows.arrays["numbers"][5, 0]
    assert parts.contents() == rows.contents()


def expected_losses(told, rows):
    """Return the loss of each cell, the obvious way; NaN where there is none."""
    found = np.full((len(rows), SHAPE.n_cells), np.nan)
    for i in range(len(rows)):
        # Those of 3 and of 4 values have 4 outputs each, and come first.
        logits = told[i, 10:15], told[i, 2:5], told[i, 6:10]
        numbers, dense = told[i, :2], told[i, 15:]
        true = {name: array[i] for name, array in rows.arrays.items()}
        found[i, :2] = (numbers - true["numbers"]) ** 2
        for j, outputs in enumerate(logits):
            shares = np.exp(outputs) / np.exp(outputs).sum()
            found[i, 2 + j] = -np.log(shares[true["codes"][j]]) / np.log(len(outputs))
        found[i, 5] = np.mean((dense - true["dense"]) ** 2)
    return found


@pytest.mark.parametrize("name", ["masked", "denoise"])
def test_the_loss_is_the_mean_over_the_cells_that_are_told(rows, name):
    of = objective(Reconstruction, rows, name, corruption=0.4)
    batch = batches(of)[0]
    vectors = torch.randn(8, WIDTH)
    with torch.no_grad():
        told = of.head.last(vectors).double().numpy()
        loss = float(of.loss(vectors, batch))
        pieces = [float(of.loss(vectors[i : i + 2], batch, [i, i + 1])) for i in range(0, 8, 2)]
    losses = np.where(batch.extra, expected_losses(told, rows.take(batch.rows)), np.nan)
    assert loss == pytest.approx(np.mean(np.nanmean(losses, axis=1)), rel=1e-5)
    assert sum(pieces) == pytest.approx(loss, rel=1e-5)


def test_a_row_whose_told_cells_are_all_missing_has_no_loss(rows):
    of = objective(Reconstruction, rows, "masked")
    batch = of._batch(np.array([4]), np.random.default_rng(0))
    batch.extra[:] = [[False, True, False, False, False, False]]
    assert float(of.loss(torch.randn(1, WIDTH), batch).detach()) == 0


def test_the_gradient_of_the_loss_is_that_of_its_differences(rows):
    of = objective(Reconstruction, rows, "denoise")
    of.head.double()
    batch = batches(of)[0]
    vectors = torch.randn(8, WIDTH, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: of.loss(v, batch), vectors, atol=1e-4)


def test_held_out_rows_are_scored_with_the_same_cells_each_time(rows):
    of = objective(Reconstruction, rows, "masked")
    seen = []

    def embed(some, seeds=None, change=None):
        seen.append(change(rows.take(some)).arrays["hidden"])
        return np.zeros((len(some), WIDTH), dtype=np.float32)

    assert of.score(embed) == of.score(embed)
    np.testing.assert_array_equal(seen[0], seen[1])


def test_the_only_cell_of_a_row_is_not_exchanged():
    shape = TableShape(bins=(np.linspace(-1, 1, 4, dtype=np.float32),), cardinalities=(), dense=())
    arrays = {
        "numbers": np.arange(12, dtype=np.float32)[:, None],
        "codes": np.zeros((12, 0), np.int32),
        "dense": np.zeros((12, 0), np.float32),
    }
    alone = TableRows(arrays, shape)
    strategy = SelfSupervised("denoise")
    of = Reconstruction(strategy, alone, WIDTH, np.arange(12), np.arange(0), 0)
    batch = of._batch(np.arange(12), np.random.default_rng(0))
    changed = batch.change(alone.take(batch.rows))
    np.testing.assert_array_equal(changed.arrays["numbers"], arrays["numbers"])


def test_what_is_told_gets_better():
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, 600)
    X = pd.DataFrame({"a": kind + 0.1 * rng.normal(size=600), "b": np.array(list("xyz"))[kind]})
    for name in ("masked", "denoise", "contrast"):
        training = SelfSupervised(name, n_epochs=15, corruption=0.5)
        score = TabularEmbedder(training=training).fit(X).history_["score"]
        assert max(score) > score[0] + 0.3, name


def test_rows_without_cells_are_refused(tmp_path):
    folder = write_checkpoint(tmp_path / "model", num_hidden_layers=1)
    with pytest.raises(InvalidParameterError, match="expected"):
        TextEmbedder(folder, training=SelfSupervised()).fit(["a", "b"])


def test_weights_of_rows_are_refused(rows):
    from skembed._inputs import CheckedRows
    from skembed.training._cells import check_rows_alone

    checked = CheckedRows(rows, np.arange(N), N)
    with pytest.raises(InvalidTargetsError, match="sample_weight"):
        check_rows_alone(SelfSupervised(), None, checked, "TabularEmbedder", np.ones(N))
    listed = CheckedRows(["a", "b"], np.arange(2), 2)
    with pytest.raises(InvalidParameterError, match="no cells to learn from"):
        check_rows_alone(SelfSupervised(), None, listed, "TextEmbedder", None)
