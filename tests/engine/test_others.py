"""Few rows are left to who has the model, by who would have to load it first."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from skembed.engine import _others, embed
from skembed.store import EmbeddingStore
from tests.engine.letters import LetterEncoder, letter_counts


class Unloaded(LetterEncoder):
    """Loads its model, which takes as long as `loading` says, when its policy is asked for."""

    def __init__(self, loading=lambda: None):
        super().__init__()
        self.loading, self.n_loads = loading, 0

    @property
    def is_loaded(self):
        return self.n_loads > 0

    @property
    def policy(self):
        if not self.n_loads:
            self.loading()
            self.n_loads += 1
        return self._policy


def expected(texts):
    return np.array([letter_counts(text) for text in texts])


def embed_beside(first_texts, second_texts, *, fails=False):
    """Embed texts while another encoder loads for its own; return it, and what came of both."""
    store, is_loading, may_go_on = EmbeddingStore(), threading.Event(), threading.Event()

    def load():
        is_loading.set()
        may_go_on.wait(10)
        if fails:
            raise OSError("it cannot be loaded")

    first, second, results = Unloaded(load), Unloaded(), {}

    def work(name, encoder, texts):
        try:
            results[name] = embed(encoder, texts, store=store)
        except OSError as error:
            results[name] = error

    threads = [threading.Thread(target=work, args=("first", first, first_texts))]
    threads[0].start()
    is_loading.wait(10)
    threads.append(threading.Thread(target=work, args=("second", second, second_texts)))
    threads[1].start()
    threading.Timer(0.1, may_go_on.set).start()
    for thread in threads:
        thread.join()
    return first, second, results


def test_who_waits_for_the_rows_of_another_loads_nothing():
    first, second, results = embed_beside(["a", "bb", "c"], ["bb", "c"])
    np.testing.assert_array_equal(results["second"].vectors, expected(["bb", "c"]))
    assert (first.n_loads, second.n_loads) == (1, 0)
    assert results["second"].n_encoded == 0


def test_rows_that_no_other_embeds_are_encoded_after_a_while(monkeypatch):
    monkeypatch.setattr(_others, "_GRACE_SECONDS", 0.05)
    first, second, results = embed_beside(["a", "bb"], ["bb", "c"])
    np.testing.assert_array_equal(results["second"].vectors, expected(["bb", "c"]))
    assert (first.encoded, second.encoded) == (["bb", "a"], ["c"])


def test_nobody_waits_for_rows_of_its_own():
    _, second, results = embed_beside(["a"], ["b"])
    assert (second.n_loads, results["second"].n_encoded) == (1, 1)


def test_rows_of_a_model_that_cannot_be_loaded_are_taken_over(monkeypatch):
    monkeypatch.setattr(_others, "_GRACE_SECONDS", 0.05)
    _, second, results = embed_beside(["a", "b"], ["b", "a"], fails=True)
    assert isinstance(results["first"], OSError)
    np.testing.assert_array_equal(results["second"].vectors, expected(["b", "a"]))
    assert second.n_loads == 1


def test_many_rows_are_divided_as_ever():
    texts = [f"{'a' * (i % 7)}{'b' * (i // 7)}" for i in range(LetterEncoder.n_few + 1)]
    _, second, results = embed_beside(texts, texts)
    np.testing.assert_array_equal(results["second"].vectors, expected(texts))
    assert second.n_loads == 1


def key_of_model(encoder):
    return _others._key_of_model(SimpleNamespace(encoder=encoder))


@pytest.mark.parametrize("is_worker", [True, False])
def test_a_worker_gives_who_has_the_model_time_to_embed_new_rows(monkeypatch, is_worker):
    monkeypatch.setattr(_others, "is_worker", lambda: is_worker)
    store, encoder, quick = EmbeddingStore(), Unloaded(), LetterEncoder()
    store.claim([key_of_model(encoder)], holder="another worker")
    looked = _others._look_up_for_a_while

    def embed_meanwhile(job, missing):
        embed(quick, ["a", "bb"], store=store)
        return looked(job, missing)

    monkeypatch.setattr(_others, "_look_up_for_a_while", embed_meanwhile)
    found = embed(encoder, ["a", "bb"], store=store)
    np.testing.assert_array_equal(found.vectors, expected(["a", "bb"]))
    assert (encoder.n_loads, found.n_encoded) == ((0, 0) if is_worker else (1, 2))


@pytest.mark.parametrize("is_worker", [True, False])
def test_a_worker_says_that_it_has_the_model(monkeypatch, is_worker):
    monkeypatch.setattr(_others, "is_worker", lambda: is_worker)
    monkeypatch.setattr(_others, "_GRACE_SECONDS", 5)
    store = EmbeddingStore()
    for _ in range(2):  # it does not wait for itself, should it need the model again
        encoder = Unloaded()
        encoder.model_key = b"model"
        embed(encoder, ["a", "bb"], store=store)
        assert store.claim([key_of_model(encoder)], holder="another") == [not is_worker]
        store.release([key_of_model(encoder)], holder="another")
        store.clear()
