"""Slices of stored vectors, and rows that one encoder reads whole and another cuts."""

import threading

import numpy as np
import pytest

from skembed.engine import embed, measure_sizes
from skembed.store import EmbeddingStore
from tests.engine.letters import LetterEncoder, letter_counts

TEXTS = ["ab", "aaaabb", "abcabcabc", "c"]


def expected(texts, limit=None):
    return np.array([letter_counts(text[:limit]) for text in texts])


def test_a_slice_of_a_stored_vector_is_found():
    store = EmbeddingStore()
    embed(LetterEncoder(n_letters=2), TEXTS, store=store)
    whole, short = LetterEncoder(), LetterEncoder(n_letters=1)
    np.testing.assert_array_equal(embed(whole, TEXTS, store=store).vectors, expected(TEXTS))
    np.testing.assert_array_equal(embed(short, TEXTS, store=store).vectors, expected(TEXTS)[:, :1])
    assert whole.encoded == short.encoded == []


@pytest.mark.parametrize("first", [None, 9, 4, 1])
@pytest.mark.parametrize("second", [None, 9, 4, 1])
def test_only_rows_beyond_a_limit_depend_on_it(first, second):
    store = EmbeddingStore()
    embed(LetterEncoder(limit=first), TEXTS, store=store)
    encoder = LetterEncoder(limit=second)
    result = embed(encoder, TEXTS, store=store)
    np.testing.assert_array_equal(result.vectors, expected(TEXTS, second))
    np.testing.assert_array_equal(result.sizes, [2, 6, 9, 1])
    limits = [limit or max(map(len, TEXTS)) for limit in (first, second)]
    n_others = sum(len(text) > min(limits) for text in TEXTS) if limits[0] != limits[1] else 0
    assert len(encoder.encoded) == n_others
    again = LetterEncoder(limit=second)
    np.testing.assert_array_equal(measure_sizes(again, TEXTS, store), [2, 6, 9, 1])
    np.testing.assert_array_equal(embed(again, TEXTS, store=store).vectors, result.vectors)
    assert again.encoded == []


def test_cut_and_chunked_rows_are_stored_apart():
    store = EmbeddingStore()
    embed(LetterEncoder(limit=4), TEXTS, store=store)
    chunked = LetterEncoder(limit=4, chunk=4)
    result = embed(chunked, TEXTS, store=store)
    assert sorted(chunked.encoded) == ["aaaa", "abca", "bb", "bcab", "c"]
    np.testing.assert_allclose(result.vectors[1, :2], [4 * 4 / 6, 2 * 2 / 6])


def test_threads_with_different_limits_wait_for_no_row_forever():
    store, texts = EmbeddingStore(), ["ab" * n for n in range(1, 40)]
    limits = [None, 5, 20, 5, None, 60]
    start = threading.Barrier(len(limits))
    encoders = [LetterEncoder(limit=limit, window=8) for limit in limits]
    found = [None] * len(limits)

    def work(i):
        start.wait()
        found[i] = embed(encoders[i], texts, store=store)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(limits))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for limit, result in zip(limits, found, strict=True):
        np.testing.assert_array_equal(result.vectors, expected(texts, limit))
    # Two of them have the same limit, and two none: what they cut or read is divided, too.
    parts = [part for encoder in encoders for part in encoder.encoded]
    n_ways = {text: len({text[:limit] for limit in limits}) for text in texts}
    assert len(parts) == sum(n_ways.values())
