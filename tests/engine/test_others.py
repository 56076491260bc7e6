"""Few rows are left to who has the model, by who would have to load it first."""

import threading

import numpy as np

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
