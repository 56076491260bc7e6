"""Texts by their letters, or by an embedder that is handed over."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer

from skembed.columns import TableEncoder, _texts
from skembed.columns._texts import Letters, _count_grams

TITLES = [
    *["senior data engineer", "data engineer", "Data Engineers (f/m)", "junior data engineer"],
    *["head nurse", "nurse", "night nurse", "nurses' aide", "bus driver", "truck driver", "driver"],
]


def obvious_grams(text):
    """Return how often a text has each group of 3 and 4 letters, in the slowest way."""
    words = "".join(c if c > " " else " " for c in text.lower()).split(" ")
    padded = [f" {word} " for word in words if word]
    return Counter(w[i : i + n] for w in padded for n in (3, 4) for i in range(len(w) - n + 1))


def column_of(gram):
    """Return the column of a group of letters: its hash, one step after the other."""
    hashed = 2166136261 + len(gram)
    for letter in gram:
        hashed = (hashed ^ ord(letter)) * 16777619 % 2**32
    hashed = (hashed ^ hashed >> 15) * 2246822507 % 2**32
    return (hashed ^ hashed >> 13) % 2**14


@given(st.lists(st.text("abAÉ 1\0\n漢", max_size=12), min_size=1, max_size=5))
def test_grams_are_counted_as_one_would_by_hand(texts):
    counted = _count_grams(texts).toarray()
    for text, counts in zip(texts, counted, strict=True):
        expected = Counter()
        for gram, n in obvious_grams(text).items():
            expected[column_of(gram)] += n
        assert {i: counts[i] for i in np.flatnonzero(counts)} == expected


def test_grams_are_those_of_scikit_learn():
    vectorizer = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 4), norm=None)
    analyze = vectorizer.build_analyzer()
    for title in TITLES:
        assert Counter(analyze(title)) == obvious_grams(title)


def encode(letters, texts):
    return letters.encode(np.arange(len(texts)), texts)


def test_similar_texts_have_similar_vectors():
    vectors = encode(Letters(TITLES, 0), TITLES)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = vectors @ vectors.T
    assert similarity[5, 6] > similarity[5, 1]
    assert similarity[9, 10] > similarity[9, 4]


def test_vectors_have_unit_variance_on_what_they_were_learned_from():
    texts = [
        f"{a} {b} {i}" for i, (a, b) in enumerate(zip(TITLES * 9, TITLES[::-1] * 9, strict=True))
    ]
    vectors = encode(Letters(texts, 0), texts)
    assert vectors.shape == (99, 30)
    np.testing.assert_allclose(vectors.std(axis=0), 1, rtol=1e-4)


def test_vectors_do_not_depend_on_neighbours_nor_on_chunks(monkeypatch):
    letters = Letters(TITLES, 0)
    expected = encode(letters, TITLES)
    alone = np.concatenate([encode(letters, [title]) for title in TITLES])
    np.testing.assert_array_equal(alone, expected)
    monkeypatch.setattr(_texts, "_PER_CHUNK", 3)
    np.testing.assert_array_equal(encode(letters, TITLES), expected)


def test_what_is_learned_does_not_depend_on_the_order_of_texts(monkeypatch):
    monkeypatch.setattr(_texts, "_MOST_TO_LEARN_FROM", 7)
    np.testing.assert_array_equal(Letters(TITLES, 0).axes, Letters(TITLES[::-1], 0).axes)


def test_missing_and_blank_texts_and_unknown_letters_are_zeros():
    letters = Letters(TITLES, 0)
    assert not letters.encode(np.array([-1, 0, -1]), [" \t"]).any()
    assert np.isfinite(encode(letters, ["ЖЖЖЖ", "\ud800\ud800"])).all()
    assert letters.encode(np.array([-1]), []).shape == (1, letters.width)


@pytest.mark.parametrize("texts", [["", " "], ["abc def", "ABC  def"]])
def test_texts_that_are_alike_to_all_letters_teach_nothing(texts):
    assert Letters(texts, 0).width == 0
    frame = pd.DataFrame({"a": texts})
    column = TableEncoder(kinds={"a": "text"}).fit(frame).columns_["a"]
    assert (column.kind, column.why) == ("drop", "constant: nothing to learn")


class Lengths(TransformerMixin, BaseEstimator):
    """Embeds a text as its length, times `factor`; says what it was given."""

    def __init__(self, factor=1):
        self.factor = factor

    def fit(self, X, y=None):
        self.seen_ = list(X)
        return self

    def transform(self, X):
        assert X.ndim == 1
        assert all(type(each) is str for each in X)
        return np.array([[len(each) * self.factor, 1] for each in X])


def test_an_embedder_that_is_handed_over_sees_each_text_once():
    frame = pd.DataFrame({"a": [*TITLES, None, TITLES[0]], "b": range(13)})
    text = Lengths()
    encoder = TableEncoder(kinds={"a": "text"}, text=text).fit(frame)
    assert not hasattr(text, "seen_")
    assert encoder._learned[0].dense.text.seen_ == TITLES
    dense = encoder.transform(frame)[0].arrays["dense"]
    assert encoder.shape.dense == (2,)
    expected = [[len(title), 1] for title in TITLES]
    assert dense.tolist() == [*expected, [0, 0], expected[0]]
    assert encoder.transform(frame[:0])[0].arrays["dense"].shape == (0, 2)


def test_sparse_vectors_are_made_dense():
    frame = pd.DataFrame({"a": TITLES})
    text = TfidfVectorizer()
    encoder = TableEncoder(kinds={"a": "text"}, text=text).fit(frame)
    expected = text.fit_transform(TITLES).toarray().astype(np.float32)
    np.testing.assert_array_equal(encoder.transform(frame)[0].arrays["dense"], expected)


def test_the_digest_tells_one_embedder_from_another():
    frame = pd.DataFrame({"a": TITLES})
    first, same, other = (
        TableEncoder(kinds={"a": "text"}, text=Lengths(factor)).fit(frame).digest
        for factor in (1, 1, 2)
    )
    assert first == same
    assert first != other
