"""What encoders that ask a service may do besides: see a run begin and end, say what went wrong."""

import threading

import numpy as np
import pytest

from skembed.engine import embed
from skembed.store import EmbeddingStore
from tests.engine.letters import LetterEncoder, letter_counts


class Service(LetterEncoder):
    """Notes the rows that each run begins with, and how often one is stopped."""

    def __init__(self, **options):
        super().__init__(**options)
        self.begun, self.n_stopped = [], 0

    def begin(self, items):
        self.begun.append(list(items))
        self.n_used = sum(map(len, items))
        return self

    def stop(self):
        self.n_stopped += 1

    def why_not_finite(self, part):
        return f"no answer to {part!r}"


def test_a_run_begins_once_with_the_rows_that_no_store_has():
    encoder, store = Service(), EmbeddingStore()
    assert embed(encoder, ["a", "bb", "a", "ccc"], store=store).n_used == 6
    assert embed(encoder, ["a", "dddd"], store=store).n_used == 4
    embed(encoder, ["a"], store=store)
    assert encoder.begun == [["a", "bb", "ccc"], ["dddd"]]


def test_a_batch_has_no_more_parts_than_the_policy_allows_unless_the_user_says_so():
    encoder = Service(budget=1000)
    encoder.set_policy(max_parts=3)
    texts = [f"{i} abc" for i in range(10)]
    embed(encoder, texts)
    assert max(map(len, encoder.batches)) == 3
    encoder.batches.clear()
    embed(encoder, texts, batch_size=5)
    assert max(map(len, encoder.batches)) == 5


def test_a_fault_is_that_of_the_part_which_is_not_finite():
    encoder = Service(chunk=2)
    found = embed(encoder, ["abcd", "ab?dab"])
    assert found.faults == {1: "no answer to '?d'"}
    np.testing.assert_allclose(found.vectors[0], letter_counts("abcd") / 2)


def test_a_run_that_fails_is_stopped_while_its_other_batches_wait():
    encoder = Service(budget=1)
    encoder.replicas = (encoder,) * 2
    is_stopped = threading.Event()
    encoder.stop = is_stopped.set
    turns = iter(range(2))

    def fail_or_wait():
        if next(turns) == 0:
            raise OSError("no more")
        assert is_stopped.wait(20)

    encoder.before_batch = fail_or_wait
    with pytest.raises(OSError, match="no more"):
        embed(encoder, ["a", "b"])
    assert is_stopped.is_set()


def test_a_run_that_ends_well_is_not_stopped():
    encoder = Service(budget=1)
    encoder.replicas = (encoder,) * 2
    embed(encoder, ["a", "b", "c"])
    assert encoder.n_stopped == 0
