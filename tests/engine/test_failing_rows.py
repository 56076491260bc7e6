"""Rows that a model fails on, that change or vanish, and encoders that prepare a few at once."""

import numpy as np
import pytest
import torch

from skembed._encoder import Fault, Prepared
from skembed.engine import embed, measure_sizes
from skembed.store import EmbeddingStore
from tests.engine.letters import LetterEncoder, letter_counts


class FailsOnX(LetterEncoder):
    """Raises where a batch holds an "x"."""

    error = ValueError("an x")

    def encode(self, batch):
        if any("x" in text for text in batch):
            raise self.error
        return super().encode(batch)


@pytest.mark.parametrize("chunk", [None, 2])
def test_rows_that_the_model_fails_on_are_named_and_the_others_embedded(chunk):
    encoder, store = FailsOnX(chunk=chunk), EmbeddingStore()
    encoder.set_policy(may_fail=True)
    texts = ["aab", "axb", "ccc", "x", "bb"]
    found = embed(encoder, texts, store=store)
    reason = "the model failed on it: ValueError: an x"
    assert found.faults == {1: reason, 3: reason}
    good = [0, 2, 4]
    expected = LetterEncoder(chunk=chunk)
    np.testing.assert_array_equal(found.vectors[good], embed(expected, texts).vectors[good])
    assert np.isnan(found.vectors[[1, 3]]).all()
    assert (found.n_distinct, found.n_encoded) == (3, 3)
    again = FailsOnX(chunk=chunk)
    again.set_policy(may_fail=True)
    assert embed(again, texts, store=store).n_encoded == 0


def test_a_model_that_is_not_of_the_user_fails_as_a_whole():
    with pytest.raises(ValueError, match=r"an x"):
        embed(FailsOnX(), ["a", "x"])


def test_what_the_machine_lacks_is_no_fault_of_a_row():
    encoder = FailsOnX()
    encoder.set_policy(may_fail=True)
    encoder.error = RuntimeError("CUDA error: device-side assert triggered")
    with pytest.raises(RuntimeError, match=r"device-side assert"):
        embed(encoder, ["a", "x"])
    encoder.error = torch.OutOfMemoryError("out of memory")
    with pytest.raises(torch.OutOfMemoryError, match=r"out of memory"):
        embed(encoder, ["x"])


class Changing(LetterEncoder):
    """Rows are [key, text]; the text is what is there when they are prepared, None is gone."""

    def contents(self, items):
        return [item[0].encode() for item in items]

    def describe(self, item):
        return f"row with {item[0]}"

    def prepare(self, items):
        return [
            Fault("gone", is_gone=True)
            if text is None
            else Prepared([text], len(text), text.encode())
            for _, text in items
        ]


def test_what_has_changed_is_a_fault_and_not_stored():
    encoder, store = Changing(), EmbeddingStore()
    found = embed(encoder, [["ab", "ab"], ["cd", "ce"], ["ef", None]], store=store)
    assert found.faults == {
        1: "row with cd: it changed while it was being embedded",
        2: "row with ef: gone",
    }
    assert encoder.encoded == ["ab"]
    found = embed(encoder, [["ab", "ab"], ["cd", "cd"], ["ef", "ef"]], store=store)
    assert found.faults == {}
    assert encoder.encoded == ["ab", "ef", "cd"] or encoder.encoded == ["ab", "cd", "ef"]


def test_another_row_of_the_same_content_stands_in_for_one_that_is_gone():
    encoder = Changing()
    rows = [["ab", None], ["cd", "cd"], ["ab", "xx"], ["ab", "ab"], ["ab", None], ["g", None]]
    found = embed(encoder, rows, store=EmbeddingStore())
    assert found.faults == {5: "row with g: gone"}
    for i in (0, 2, 3, 4):
        np.testing.assert_array_equal(found.vectors[i], letter_counts("ab"))
        assert found.sizes[i] == 2
    assert (found.n_distinct, found.n_encoded) == (2, 2)


class FewAtOnce(LetterEncoder):
    """Prepares at most three rows of those it is given."""

    def prepare(self, items):
        return super().prepare(items[:3])


def test_an_encoder_may_prepare_a_few_rows_at_once():
    texts = [chr(97 + i % 26) * (1 + i % 7) + "!" * (i % 11 == 0) for i in range(100)]
    found, expected = embed(FewAtOnce(), texts), embed(LetterEncoder(), texts)
    np.testing.assert_array_equal(found.vectors, expected.vectors)
    assert found.faults == expected.faults
    np.testing.assert_array_equal(
        measure_sizes(FewAtOnce(), texts), measure_sizes(LetterEncoder(), texts)
    )
