"""Batches divided among replicas of a model, each in a thread of its own."""

import signal
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skembed._encoder import join_replicas
from skembed.engine import _run, embed
from skembed.engine._batch import budget_of
from skembed.engine._rows import keys_of
from skembed.exceptions import InvalidParameterError, MemoryWarning
from skembed.store import EmbeddingStore
from skembed.weights import shared_model
from tests.engine.letters import LetterEncoder, letter_counts

WORDS = st.lists(st.text("abcz", max_size=30), max_size=60)
PATIENCE = 20


def expected(texts):
    return np.array([letter_counts(text) for text in texts]).reshape(-1, 26)


def make_pair(**options):
    """Return an encoder with two replicas, and the replicas."""
    pair = [LetterEncoder(**options) for _ in range(2)]
    for number, encoder in enumerate(pair):
        encoder.device = f"letters:{number}"
    return join_replicas(pair), *pair


def meet_once(*encoders):
    """Let each encoder's first batch wait for those of the others."""
    barrier = threading.Barrier(len(encoders))
    for encoder in encoders:
        steps = iter([lambda: barrier.wait(PATIENCE)])
        encoder.before_batch = lambda steps=steps: next(steps, lambda: None)()


@pytest.fixture(autouse=True)
def no_thread_outlives_the_call():
    yield
    assert [t.name for t in threading.enumerate() if t.name.startswith("skembed")] == []


@settings(deadline=None, max_examples=50)
@given(
    texts=WORDS,
    layout=st.sampled_from(["packed", "padded", "equal"]),
    budget=st.integers(1, 100),
    batch_size=st.none() | st.integers(1, 5),
    has_store=st.booleans(),
)
def test_every_distinct_row_is_encoded_once_over_both(texts, layout, budget, batch_size, has_store):
    encoder, first, second = make_pair(layout=layout, budget=budget)
    store = EmbeddingStore() if has_store else None
    result = embed(encoder, texts, store=store, batch_size=batch_size)
    np.testing.assert_array_equal(result.vectors, expected(texts))
    np.testing.assert_array_equal(result.sizes, [len(text) for text in texts])
    assert sorted(first.encoded + second.encoded) == sorted(set(texts))
    assert result.n_distinct == result.n_encoded == len(set(texts))


@pytest.mark.parametrize("n_texts", [2, 3000])
def test_both_run_at_once(n_texts):
    encoder, first, second = make_pair(budget=12, window=200)
    meet_once(first, second)
    texts = [f"{i:012b}" for i in range(n_texts)]
    result = embed(encoder, texts, store=EmbeddingStore())
    np.testing.assert_array_equal(result.vectors, expected(texts))
    assert sorted(first.encoded + second.encoded) == sorted(texts)


def test_chunks_of_a_row_that_ran_on_different_devices_are_merged():
    encoder, first, second = make_pair(budget=4, chunk=4)
    meet_once(first, second)
    result = embed(encoder, ["aaaabb", "c"])
    assert sorted([first.encoded, second.encoded]) == [["aaaa"], ["bb", "c"]]
    np.testing.assert_allclose(result.vectors[0, :2], [4 * 4 / 6, 2 * 2 / 6])
    np.testing.assert_array_equal(result.vectors[1], letter_counts("c"))


def test_a_batch_is_assembled_and_run_by_the_same_replica_without_gradients():
    encoder, *pair = make_pair(budget=4)
    meet_once(*pair)
    seen = []

    def watch(replica):
        collate, encode = replica.collate, replica.encode
        replica.collate = lambda parts: (replica, collate(parts))

        def watched(batch):
            seen.append(batch[0] is replica and torch.is_inference_mode_enabled())
            return encode(batch[1])

        replica.encode = watched

    for replica in pair:
        watch(replica)
    embed(encoder, ["aaaa", "bbbb", "cccc"])
    assert seen == [True] * 3


def test_a_single_row_starts_no_thread():
    encoder, first, _ = make_pair()
    threads = []
    first.before_batch = lambda: threads.append(threading.current_thread())
    embed(encoder, ["ab", "ab"])
    assert threads == [threading.current_thread()]


@pytest.mark.parametrize("n_running", [0, 1])
@pytest.mark.parametrize(
    "error", [RuntimeError("the device is gone"), KeyboardInterrupt("stopped")]
)
def test_an_error_of_one_stops_the_other_and_loses_nothing_that_had_run(
    monkeypatch, error, n_running
):
    monkeypatch.setattr(_run, "_runs_beside_host", lambda vectors: n_running)
    encoder, first, second = make_pair(budget=8)
    store = EmbeddingStore()
    texts = [f"{i:08b}" for i in range(256)]
    has_run, has_failed = threading.Event(), threading.Event()

    def work():
        if len(first.batches) == 3:
            has_run.set()
            has_failed.wait(PATIENCE)
        if has_failed.is_set():
            time.sleep(0.05)  # so that a thread that goes on is seen, and one that stops is not

    def fail():
        if len(second.batches) == 1:
            has_run.wait(PATIENCE)
            has_failed.set()
            raise error

    first.before_batch, second.before_batch = work, fail
    with pytest.raises(type(error), match=str(error)):
        embed(encoder, texts, store=store)
    ran = first.encoded + second.encoded
    assert len(second.encoded) == 1
    assert 4 <= len(ran) < 128
    assert store.info().n_entries == len(ran)
    rest = sorted(set(texts) - set(ran))
    assert all(store.claim([key.tobytes() for key in keys_of(encoder, rest)]))
    store.release([key.tobytes() for key in keys_of(encoder, rest)])
    first.before_batch = second.before_batch = lambda: None
    result = embed(encoder, texts, store=store)
    np.testing.assert_array_equal(result.vectors, expected(texts))
    assert sorted(first.encoded + second.encoded) == sorted(texts)


def test_an_error_while_rows_are_prepared_arrives():
    encoder, *_ = make_pair(window=64)

    def prepare(items):
        raise ValueError("no tokenizer")

    encoder.prepare = prepare
    for texts in (["a", "b"], [f"{i:b}" for i in range(300)]):
        with pytest.raises(ValueError, match="no tokenizer"):
            embed(encoder, texts, store=EmbeddingStore())


@pytest.fixture
def can_interrupt():
    """Let SIGINT raise KeyboardInterrupt, also where tests run in the background and ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs POSIX signals")
@pytest.mark.parametrize("n_texts", [60, 3000])
def test_an_interrupt_of_the_caller_keeps_the_rows_already_embedded(n_texts, can_interrupt):
    encoder, first, second = make_pair(budget=12)
    store = EmbeddingStore()
    main = threading.main_thread()

    def interrupt():
        if len(first.batches) == 3:
            signal.pthread_kill(main.ident, signal.SIGINT)
        if len(first.batches) >= 3:
            time.sleep(0.05)

    first.before_batch = interrupt
    second.before_batch = lambda: time.sleep(0.05)
    texts = [f"{i:012b}" for i in range(n_texts)]
    with pytest.raises(KeyboardInterrupt):
        embed(encoder, texts, store=store)
    ran = first.encoded + second.encoded
    assert 3 <= len(ran) < n_texts
    assert store.info().n_entries == len(ran)
    assert all(store.claim([k.tobytes() for k in keys_of(encoder, sorted(set(texts) - set(ran)))]))


def test_memory_that_runs_out_on_one_halves_its_batches_alone():
    encoder, small, large = make_pair(budget=200)
    small.fits = 45
    meet_once(small, large)
    models = [shared_model(each.model_key, object, lambda: 0) for each in (small, large)]
    texts = [f"{i:010d}" for i in range(200)]
    with pytest.warns(MemoryWarning, match="ran out on letters:0 .* going on with half") as caught:
        result = embed(encoder, texts)
    np.testing.assert_array_equal(result.vectors, expected(texts))
    assert sorted(small.encoded + large.encoded) == sorted(texts)
    assert {warning.filename for warning in caught} == {__file__}
    assert 22 <= budget_of(small) <= 45
    assert budget_of(large) == 200
    assert models == [shared_model(each.model_key, object, lambda: 0) for each in (small, large)]


def test_a_replica_that_has_room_keeps_its_batches_when_another_has_not():
    encoder, small, large = make_pair(budget=200)
    small.set_policy(budget=40)
    meet_once(small, large)
    embed(encoder, [f"{i:010d}" for i in range(200)])
    assert max(map(len, large.batches)) == 20
    assert max(map(len, small.batches)) == 4


def test_vectors_are_stored_by_one_thread_at_a_time():
    encoder, first, second = make_pair(budget=4)
    meet_once(first, second)
    store, is_storing, overlaps = EmbeddingStore(), threading.Lock(), []
    put_many = store.put_many

    def watched(*args, **kwargs):
        if not is_storing.acquire(blocking=False):
            overlaps.append(threading.current_thread())
            return
        time.sleep(0.01)
        put_many(*args, **kwargs)
        is_storing.release()

    store.put_many = watched
    embed(encoder, [f"{i:04b}" for i in range(16)], store=store)
    assert overlaps == []
    assert store.info().n_entries == 16


def test_a_warning_that_is_an_error_is_raised_in_the_callers_thread():
    encoder, small, large = make_pair(budget=200)
    small.fits = 45
    meet_once(small, large)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(MemoryWarning, match="going on with half"):
            embed(encoder, [f"{i:010d}" for i in range(200)])


def test_a_replica_that_needs_equal_lengths_gets_them():
    encoder, mixed, equal = make_pair(budget=6)
    equal.set_policy(layout="equal")
    meet_once(mixed, equal)
    texts = ["aaa", "bb", "c", "ddd", "ee", "f"]
    result = embed(encoder, texts)
    np.testing.assert_array_equal(result.vectors, expected(texts))
    assert all(len({len(text) for text in batch}) == 1 for batch in equal.batches)


def test_replicas_whose_vectors_differ_are_refused():
    first, second = LetterEncoder(), LetterEncoder()
    second.digest, second.dtype, second.device = b"other", "bfloat16", "letters:1"
    with pytest.raises(InvalidParameterError, match="got float32 on cpu, bfloat16 on letters:1"):
        join_replicas([first, second])


def test_a_single_replica_is_the_encoder():
    encoder = LetterEncoder()
    assert join_replicas([encoder]) is encoder
    assert encoder.replicas == ()
