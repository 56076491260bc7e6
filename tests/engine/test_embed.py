"""The road from rows to vectors, watched step by step."""

import dataclasses
import threading
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skembed.engine import _run, embed, measure_sizes
from skembed.engine._batch import budget_of
from skembed.engine._job import Job
from skembed.engine._rows import keys_of
from skembed.exceptions import MemoryWarning, StoreWarning
from skembed.store import EmbeddingStore
from skembed.weights import shared_model
from tests.engine.letters import LetterEncoder, letter_counts

WORDS = st.lists(st.text("abcz", max_size=30), max_size=60)


def expected(texts):
    return np.array([letter_counts(text) for text in texts]).reshape(-1, 26)


@settings(deadline=None, max_examples=50)
@given(
    texts=WORDS,
    layout=st.sampled_from(["packed", "padded", "equal"]),
    budget=st.integers(1, 100),
    batch_size=st.none() | st.integers(1, 5),
    has_store=st.booleans(),
)
def test_every_row_gets_its_own_vector_whatever_the_plan(
    texts, layout, budget, batch_size, has_store
):
    encoder = LetterEncoder(layout=layout, budget=budget)
    store = EmbeddingStore() if has_store else None
    result = embed(encoder, texts, store=store, batch_size=batch_size)
    np.testing.assert_array_equal(result.vectors, expected(texts))
    np.testing.assert_array_equal(result.sizes, [len(text) for text in texts])
    assert sorted(encoder.encoded) == sorted(set(texts))
    assert result.n_distinct == result.n_encoded == len(set(texts))


def test_a_stored_row_is_not_encoded_again():
    encoder, store = LetterEncoder(), EmbeddingStore()
    embed(encoder, ["ab", "cd"], store=store)
    result = embed(encoder, ["cd", "ef", "ab", "ef"], store=store)
    np.testing.assert_array_equal(result.vectors, expected(["cd", "ef", "ab", "ef"]))
    assert sorted(encoder.encoded) == ["ab", "cd", "ef"]
    assert (result.n_distinct, result.n_encoded) == (3, 1)
    np.testing.assert_array_equal(result.sizes, [2, 2, 2, 2])


def test_another_digest_is_another_vector():
    store = EmbeddingStore()
    first, second = LetterEncoder(), LetterEncoder()
    second.digest = b"other"
    embed(first, ["ab"], store=store)
    embed(second, ["ab"], store=store)
    assert second.encoded == ["ab"]


def test_many_rows_are_prepared_ahead_and_all_arrive():
    texts = [f"{'abc' * (i % 7)}{'z' * (i % 11)}" + "q" * (i % 501) for i in range(3000)]
    encoder = LetterEncoder(budget=5000, window=200)
    result = embed(encoder, texts, store=EmbeddingStore())
    np.testing.assert_array_equal(result.vectors, expected(texts))
    assert sorted(encoder.encoded) == sorted(set(texts))


def test_chunks_of_a_row_are_merged_by_cost():
    encoder = LetterEncoder(chunk=4)
    result = embed(encoder, ["aaaabb", "c"])
    # "aaaa" (4 letters) and "bb" (2): the mean weighted by length.
    assert result.vectors[0, 0] == pytest.approx(4 * 4 / 6)
    assert result.vectors[0, 1] == pytest.approx(2 * 2 / 6)
    np.testing.assert_array_equal(result.vectors[1], letter_counts("c"))
    np.testing.assert_array_equal(result.sizes, [6, 1])


def test_faults_name_every_row_that_has_one_and_spoil_no_other():
    encoder, store = LetterEncoder(), EmbeddingStore()
    texts = ["ab", "!", "cd", "x!", "!", "?"]
    result = embed(encoder, texts, store=store)
    assert result.faults == {
        1: "exclamation",
        3: "exclamation",
        4: "exclamation",
        5: "the model returned values that are not finite",
    }
    assert np.isnan(result.vectors[[1, 3, 4, 5]]).all()
    np.testing.assert_array_equal(result.vectors[[0, 2]], expected(["ab", "cd"]))
    np.testing.assert_array_equal(result.sizes, [2, 0, 2, 0, 0, 0])
    assert (result.n_distinct, result.n_encoded) == (2, 2)
    assert store.info().n_entries == 2


def test_running_out_of_memory_halves_batches_and_loses_nothing():
    texts = ["a" * n for n in range(1, 20)]
    encoder = LetterEncoder(budget=200, fits=45)
    with pytest.warns(MemoryWarning, match="going on with half"):
        result = embed(encoder, texts)
    np.testing.assert_array_equal(result.vectors, expected(texts))
    assert sorted(encoder.encoded) == sorted(texts)
    assert 22 <= budget_of(encoder) <= 45
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embed(encoder, ["b" * 10, "c" * 10])


def test_what_memory_was_enough_for_is_remembered_for_the_model():
    texts = [f"{i:010d}" for i in range(64)]
    first = LetterEncoder(budget=300, fits=205)
    with pytest.warns(MemoryWarning, match="going on with half"):
        embed(first, texts)
    second = LetterEncoder(budget=300, fits=205)
    second.model_key = first.model_key
    embed(second, texts)
    assert max(sum(map(len, batch)) for batch in second.batches) <= 150


def test_an_encoder_cheaper_than_a_look_up_leaves_the_store_alone():
    encoder, store = LetterEncoder(), EmbeddingStore()
    encoder.uses_store = False
    for _ in range(2):
        np.testing.assert_array_equal(
            embed(encoder, ["ab", "ab", "c"], store=store).vectors, expected(["ab", "ab", "c"])
        )
    assert sorted(encoder.encoded) == ["ab", "ab", "c", "c"]
    assert store.info().n_entries == 0
    assert measure_sizes(encoder, ["ab"], store).tolist() == [2]


@pytest.mark.parametrize("layout", ["packed", "padded", "equal"])
def test_memory_that_ran_out_once_is_not_tried_again_at_that_size(layout):
    texts = [f"{i:010d}" for i in range(64)]
    encoder = LetterEncoder(budget=300, fits=205, layout=layout)
    tried = []
    encoder.before_batch = lambda: tried.append(None)
    with pytest.warns(MemoryWarning, match="going on with half") as caught:
        embed(encoder, texts)
    # Of the batches that were planned (300, 300 and 40 characters) only the first is tried whole.
    assert len(caught) == 1
    assert budget_of(encoder) == 150
    assert len(tried) == 1 + 2 + 2 + 1
    assert sorted(encoder.encoded) == sorted(texts)


@pytest.mark.parametrize("n_running", [0, 1])
def test_an_error_keeps_the_batches_that_had_run(monkeypatch, n_running):
    monkeypatch.setattr(_run, "_runs_beside_host", lambda vectors: n_running)
    encoder, store = LetterEncoder(budget=4), EmbeddingStore()

    def fail():
        if len(encoder.batches) == 3:
            raise RuntimeError("the device is gone")

    encoder.before_batch = fail
    texts = ["aaaa", "bbbb", "cccc", "dddd", "eeee"]
    with pytest.raises(RuntimeError, match="the device is gone"):
        embed(encoder, texts, store=store)
    assert store.info().n_entries == 3
    encoder.before_batch = lambda: None
    result = embed(encoder, texts, store=store)
    np.testing.assert_array_equal(result.vectors, expected(texts))
    assert sorted(encoder.encoded) == sorted(texts)


def test_memory_that_ran_out_is_sought_among_other_models():
    encoder = LetterEncoder(fits=3)
    other, own = (shared_model(key, object, lambda: 0) for key in (b"other", encoder.model_key))
    with pytest.warns(MemoryWarning, match="going on with half"):
        embed(encoder, ["ab", "cd"])
    assert shared_model(encoder.model_key, object, lambda: 0) is own
    assert shared_model(b"other", object, lambda: 0) is not other


@pytest.mark.parametrize("bad", ["!", "zzzzz?"])
def test_a_row_with_a_fault_is_let_go_while_the_others_run(bad):
    encoder, store = LetterEncoder(budget=6), EmbeddingStore()
    key = keys_of(encoder, [bad])[0].tobytes()
    was_free = []

    def ask():
        was_free.extend(store.claim([key]))
        store.release([key])

    encoder.before_batch = ask
    embed(encoder, [bad, "abcde", "fghij"], store=store)
    assert was_free[-2:] == [True, True]


def test_a_row_that_does_not_fit_alone_is_an_error():
    encoder = LetterEncoder(fits=3)
    with pytest.raises(Exception, match="out of memory"):
        embed(encoder, ["abcdef"])


def test_an_interrupt_keeps_the_rows_already_embedded():
    encoder, store = LetterEncoder(budget=4), EmbeddingStore()

    def interrupt():
        if len(encoder.batches) == 3:
            raise KeyboardInterrupt

    encoder.before_batch = interrupt
    texts = ["aaaa", "bbbb", "cccc", "dddd", "eeee"]
    with pytest.raises(KeyboardInterrupt):
        embed(encoder, texts, store=store)
    assert store.info().n_entries == 3
    encoder.before_batch = lambda: None
    result = embed(encoder, texts, store=store)
    np.testing.assert_array_equal(result.vectors, expected(texts))
    assert sorted(encoder.encoded) == sorted(texts)


def test_an_interrupt_right_after_a_claim_gives_it_back(monkeypatch):
    encoder, store = LetterEncoder(), EmbeddingStore()
    claim = Job.claim

    def interrupted(self, rows):
        claim(self, rows)
        raise KeyboardInterrupt

    monkeypatch.setattr(Job, "claim", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embed(encoder, ["a", "b"], store=store)
    assert store.claim([key.tobytes() for key in keys_of(encoder, ["a", "b"])]) == [True, True]


def test_an_interrupt_while_the_thread_starts_leaves_no_claim_and_no_thread(monkeypatch):
    encoder, store = LetterEncoder(window=64), EmbeddingStore()
    texts = [f"{i:b}" for i in range(300)]
    start = threading.Thread.start

    def interrupted(self):
        start(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            embed(encoder, texts, store=store)
    assert not any(thread.name == "skembed-prepare" for thread in threading.enumerate())
    keys = [key.tobytes() for key in keys_of(encoder, texts)]
    assert store.claim(keys) == [True] * len(texts)


def test_a_claim_that_comes_after_giving_up_is_given_back():
    encoder, store = LetterEncoder(), EmbeddingStore()
    job = Job(encoder, ["a"], keys_of(encoder, ["a"]), store, np.empty((1, 26)), np.zeros(1, int))
    runner = _run.Runner(job, np.array([0]))
    runner.is_over = True
    assert list(runner._batches(np.array([0]), 1)) == []
    assert store.claim([key.tobytes() for key in job.keys]) == [True]


def test_a_holder_that_never_delivers_is_named_and_then_done_without(monkeypatch):
    encoder, store = LetterEncoder(), EmbeddingStore()
    store.claim([key.tobytes() for key in keys_of(encoder, ["a", "b"])], holder="stuck")
    monkeypatch.setattr(_run, "_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(_run, "_WARN_SECONDS", 0.0)
    monkeypatch.setattr(_run, "_PATIENCE_SECONDS", 0.2)
    with pytest.warns(StoreWarning, match="2 rows have been claimed for"):
        result = embed(encoder, ["a", "b", "c"], store=store)
    np.testing.assert_array_equal(result.vectors, expected(["a", "b", "c"]))


def test_memory_that_runs_out_while_a_batch_is_assembled_halves_it_too():
    encoder = LetterEncoder(budget=200)
    collate = encoder.collate

    def limited(parts):
        if len(parts) > 3:
            raise MemoryError
        return collate(parts)

    encoder.collate = limited
    texts = ["a" * n for n in range(1, 12)]
    with pytest.warns(MemoryWarning, match="going on with half"):
        result = embed(encoder, texts)
    np.testing.assert_array_equal(result.vectors, expected(texts))


def test_sizes_are_measured_without_the_model_and_once_for_each_row():
    encoder, store = LetterEncoder(), EmbeddingStore()
    embed(encoder, ["abc"], store=store)
    prepared = []
    prepare = encoder.prepare
    encoder.prepare = lambda items: prepared.extend(items) or prepare(items)
    sizes = measure_sizes(encoder, ["abc", "de", "!", "de", "abc"], store)
    assert sizes.tolist() == [3, 2, 0, 2, 3]
    assert sorted(prepared) == ["!", "de"]
    assert encoder.encoded == ["abc"]


def test_threads_share_the_work():
    encoder, store = LetterEncoder(budget=64), EmbeddingStore()
    texts = [f"{'ab' * (i % 9)}{'c' * (i % 13)}{'d' * (i % 5)}{i:b}" for i in range(400)]
    results = [None] * 4
    barrier = threading.Barrier(4)

    def work(number):
        barrier.wait()
        results[number] = embed(encoder, texts, store=store)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        np.testing.assert_array_equal(result.vectors, expected(texts))
    assert sorted(encoder.encoded) == sorted(set(texts))
    assert sum(result.n_encoded for result in results) == len(set(texts))


def test_a_claim_that_is_given_up_is_taken_over():
    store = EmbeddingStore()
    stuck, helper = LetterEncoder(budget=4), LetterEncoder(budget=4)
    inside, leave = threading.Event(), threading.Event()

    def fail():
        inside.set()
        leave.wait(10)
        raise RuntimeError("the first one fails")

    stuck.before_batch = fail
    errors = []

    def first():
        try:
            embed(stuck, ["aaaa", "bbbb"], store=store)
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait(10)
    threading.Timer(0.2, leave.set).start()
    result = embed(helper, ["bbbb", "aaaa"], store=store)
    thread.join()
    assert len(errors) == 1
    np.testing.assert_array_equal(result.vectors, expected(["bbbb", "aaaa"]))


def test_zero_rows_give_zero_vectors():
    result = embed(LetterEncoder(), [], store=EmbeddingStore())
    assert result.vectors.shape == (0, 26)
    assert result.vectors.dtype == np.float32


@pytest.mark.parametrize("overlaps", [True, False])
def test_rows_are_prepared_beside_the_model_only_where_the_encoder_says_so(overlaps):
    encoder, threads = LetterEncoder(), set()
    encoder.set_policy(overlaps=overlaps)
    prepare = encoder.prepare

    def note(items):
        threads.add(threading.current_thread() is threading.main_thread())
        return prepare(items)

    encoder.prepare = note
    texts = [f"row {i}" for i in range(300)]
    embed(encoder, texts)
    assert threads == {not overlaps}


def test_notes_are_kept_with_the_vectors():
    encoder, store = LetterEncoder(), EmbeddingStore()
    prepare = encoder.prepare

    def note_short_rows(items):
        return [
            dataclasses.replace(each, note="short" if each.size == 1 else None)
            for each in prepare(items)
        ]

    encoder.prepare = note_short_rows
    rows = ["a", "bb", "c", "a"]
    first, again = (embed(encoder, rows, store=store) for _ in range(2))
    assert again.n_encoded == 0
    assert first.notes == again.notes == {0: "short", 2: "short", 3: "short"}
    np.testing.assert_array_equal(first.vectors, again.vectors)
