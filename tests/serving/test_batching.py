"""Requests that wait are joined, bounded, and told apart again."""

import threading

import numpy as np
import pytest

from skembed.serving._batching import Batcher, Overloaded, Vectors
from tests.serving.servers import until


class Model:
    """Embeds a number as itself; waits in each call until it is let go."""

    def __init__(self):
        self.calls = []
        self.gate = threading.Semaphore(0)

    def __call__(self, texts):
        self.calls.append(list(texts))
        assert self.gate.acquire(timeout=60)
        if "fails" in texts:
            raise ArithmeticError("no such number")
        bad = {i: "no number" for i, text in enumerate(texts) if not text.isdecimal()}
        vectors = np.array(
            [[float(text) if i not in bad else np.nan] for i, text in enumerate(texts)],
            dtype=np.float32,
        )
        n_tokens = np.array([len(text) for text in texts])
        return Vectors(vectors, n_tokens, bad, np.flatnonzero(n_tokens > 2))


@pytest.fixture
def make():
    """Make a batcher whose first call, of "0", has begun and waits."""
    made = []

    def start(**limits):
        model = Model()
        batcher = Batcher(model, **{"max_batch": 8, "max_queue": 8, **limits})
        batcher.start(lambda: None, lambda error: None)
        first = batcher.submit(["0"])
        until(lambda: model.calls)
        made.append((model, batcher))
        return model, batcher, first

    yield start
    for model, batcher in made:
        for _ in range(20):
            model.gate.release()
        batcher.close()


def test_requests_that_wait_share_the_next_call(make):
    model, batcher, first = make()
    answers = [batcher.submit(texts) for texts in (["1"], ["2", "3"], ["4"])]
    model.gate.release()
    model.gate.release()
    assert first.result(60).vectors.tolist() == [[0]]
    assert [each.result(60).vectors.ravel().tolist() for each in answers] == [[1], [2, 3], [4]]
    assert model.calls == [["0"], ["1", "2", "3", "4"]]


def test_each_request_gets_its_own_faults_tokens_and_cuts(make):
    model, batcher, _ = make()
    good, bad = batcher.submit(["1", "200"]), batcher.submit(["30", "x"])
    model.gate.release(2)
    found = good.result(60)
    assert (found.faults, found.truncated.tolist(), found.n_tokens.tolist()) == ({}, [1], [1, 3])
    found = bad.result(60)
    assert (found.faults, found.truncated.tolist()) == ({1: "no number"}, [])


def test_a_call_has_no_more_texts_than_max_batch_unless_one_request_has(make):
    model, batcher, _ = make(max_batch=3, max_queue=20)
    for texts in (["1", "2"], ["3"], ["4"], ["5"] * 5, ["6"]):
        last = batcher.submit(texts)
    model.gate.release(10)
    last.result(60)
    assert model.calls[1:] == [["1", "2", "3"], ["4"], ["5"] * 5, ["6"]]


def test_more_than_max_queue_texts_are_refused_until_there_is_room(make):
    model, batcher, _ = make(max_queue=3)
    answers = [batcher.submit(["1", "2"]), batcher.submit(["3"])]
    with pytest.raises(Overloaded, match="try again in 1 s"):
        batcher.submit(["4"])
    with pytest.raises(Overloaded, match="try again"):
        batcher.refuse_if_full()
    assert batcher.n_waiting == 3
    model.gate.release(2)
    for answer in answers:
        answer.result(60)
    batcher.refuse_if_full()
    model.gate.release()
    assert batcher.submit(["4"]).result(60).vectors.tolist() == [[4]]


def test_a_request_larger_than_the_queue_is_accepted_when_nothing_waits(make):
    model, batcher, _ = make(max_queue=3)
    answer = batcher.submit(["5"] * 5)
    model.gate.release(2)
    assert len(answer.result(60).vectors) == 5


def test_a_cancelled_request_does_not_run_and_gives_up_its_room(make):
    model, batcher, _ = make(max_queue=2)
    given_up = batcher.submit(["1", "2"])
    assert given_up.cancel()
    assert batcher.n_waiting == 0
    kept = batcher.submit(["3", "4"])
    model.gate.release(2)
    assert kept.result(60).vectors.ravel().tolist() == [3, 4]
    assert model.calls == [["0"], ["3", "4"]]


def test_an_error_is_that_of_its_call_alone(make, caplog):
    model, batcher, first = make()
    answers = [batcher.submit(["1"]), batcher.submit(["fails"])]
    model.gate.release(2)
    assert first.result(60).vectors.tolist() == [[0]]
    for answer in answers:
        with pytest.raises(ArithmeticError, match="no such number"):
            answer.result(60)
    assert "the model failed on 2 texts of 2 requests" in caplog.text
    model.gate.release()
    assert batcher.submit(["2"]).result(60).vectors.tolist() == [[2]]


def test_closing_answers_what_waits(make):
    model, batcher, first = make()
    answer = batcher.submit(["1"])
    model.gate.release(2)
    batcher.close()
    assert first.done()
    assert answer.done()


def test_a_model_that_cannot_be_loaded_is_told():
    told = []
    batcher = Batcher(Model(), max_batch=1, max_queue=1)
    batcher.start(lambda: 1 / 0, told.append)
    batcher.close()
    assert [type(error) for error in told] == [ZeroDivisionError]
    assert not batcher.is_ready
