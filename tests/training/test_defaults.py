"""What "auto" stands for: epochs and held-out rows by the number of rows."""

import numpy as np
import pytest

from skembed import FineTune, TextEmbedder
from skembed.training._targets import Targets
from skembed.training._validation import split


def classes(n_rows):
    values = np.arange(n_rows) % 2
    return Targets("classes", values, np.ones(n_rows, np.float32), np.array(["a", "b"]))


@pytest.mark.parametrize(("n_rows", "n_held_out"), [(16, 0), (190, 0), (200, 20), (1000, 100)])
def test_auto_holds_out_a_tenth_unless_that_is_few(n_rows, n_held_out):
    train, held_out = split(classes(n_rows), "auto", 0, np.arange(n_rows))
    assert (len(train), len(held_out)) == (n_rows - n_held_out, n_held_out)


def test_a_share_that_is_asked_for_is_held_out_of_few_rows_too():
    train, held_out = split(classes(16), 0.25, 0, np.arange(16))
    assert (len(train), len(held_out)) == (12, 4)
    assert not set(train) & set(held_out)


@pytest.mark.parametrize("n_sides", [1, 2])
def test_equal_rows_are_held_out_together(n_sides):
    keys = np.repeat(np.arange(8) % 4 * 2, 4)[:, None] + np.arange(n_sides)
    train, held_out = split(classes(32), 0.25, 0, keys.ravel())
    assert len(held_out) == 8
    assert sorted([*train, *held_out]) == list(range(32))
    assert not set(keys[train, 0]) & set(keys[held_out, 0])


@pytest.mark.parametrize(
    ("n_rows", "batch_size", "n_epochs"), [(8, 32, 50), (8, 4, 25), (40, 1, 3)]
)
def test_few_rows_are_seen_for_fifty_steps_and_others_for_three_epochs(
    n_rows, batch_size, n_epochs
):
    texts = [f"{'a dog' if i % 2 else 'a bill'} {i}" for i in range(n_rows)]
    training = FineTune("head", batch_size=batch_size)
    embedder = TextEmbedder(training=training).fit(texts, [i % 2 for i in range(n_rows)])
    assert embedder.history_["epoch"][-1] == n_epochs
