"""Weights of words against an independent NumPy version of each method."""

import pickle
from collections import Counter

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skembed import TextEmbedder, WordWeights
from skembed.exceptions import InvalidParameterError, InvalidRowsError
from tests.text.words import WORDS, vectors_of, write_fasttext, write_text

VECTORS = vectors_of(seed=40)
ROWS = [
    *("the cat sat on the mat", "the dog", "a dog sat", "the well-known unheard cat", "do"),
    *("the the the cat", "a mat on the dog"),
]
UNSEEN = ["naïve cat", "the $ dog", "a"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("words") / "glove.txt", vectors=VECTORS)


def known(text):
    return [word for word in text.split() if word in WORDS]


def sif(rows, texts, a):
    """Arora, Liang and Ma 2017, algorithm 1, the component from the rows of `fit`.

    A word that they lack counts as if it had been there once.
    """
    counts = Counter(word for row in rows for word in known(row))
    total = sum(counts.values())

    def mean(text):
        words = known(text)
        weights = [a / (a + max(counts[word], 1) / total) for word in words]
        vectors = [w * VECTORS[WORDS.index(word)] for w, word in zip(weights, words, strict=True)]
        return np.sum(vectors, axis=0) / len(words)

    component = np.linalg.svd(np.array([mean(row) for row in rows]))[2][0]
    found = np.array([mean(text) for text in texts])
    return found - np.outer(found @ component, component)


def idf(rows, texts):
    n_with = Counter(word for row in rows for word in set(known(row)))

    def mean(text):
        words = known(text)
        weights = np.array([np.log((1 + len(rows)) / (1 + n_with[word])) + 1 for word in words])
        return weights @ VECTORS[[WORDS.index(word) for word in words]] / weights.sum()

    return np.array([mean(text) for text in texts])


@pytest.mark.parametrize("a", [1e-3, 0.1])
def test_sif_is_that_of_its_paper(path, a):
    embedder = TextEmbedder(path, training=WordWeights(a=a)).fit(ROWS)
    for texts in (ROWS, UNSEEN):
        np.testing.assert_allclose(embedder.transform(texts), sif(ROWS, texts, a), atol=2e-6)
    np.testing.assert_allclose(clone(embedder).fit_transform(ROWS), sif(ROWS, ROWS, a), atol=2e-6)


def test_idf_is_a_weighted_mean(path):
    embedder = TextEmbedder(path, training=WordWeights(method="idf")).fit(ROWS)
    for texts in (ROWS, UNSEEN):
        np.testing.assert_allclose(embedder.transform(texts), idf(ROWS, texts), atol=2e-6)


def test_words_outside_fasttexts_vocabulary_count_as_the_rarest(tmp_path):
    words, table = ["cat", "dog"], vectors_of(22, 8, seed=41)
    path = write_fasttext(tmp_path / "m.bin", words, table)
    plain = TextEmbedder(path).transform(["cat", "unheard"])
    embedder = TextEmbedder(path, training=WordWeights(method="idf")).fit(["cat", "cat unheard"])
    weights = np.array([1, np.log(3) + 1])
    expected = weights @ plain / weights.sum()
    np.testing.assert_allclose(embedder.transform(["cat unheard"])[0], expected, atol=1e-6)


def test_what_was_counted_goes_with_pickles_and_not_with_clones(path):
    embedder = TextEmbedder(path, training=WordWeights(), normalize=True).fit(ROWS)
    expected = embedder.transform(UNSEEN)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(embedder)).transform(UNSEEN), expected)
    assert len(pickle.dumps(embedder)) < 6000
    assert all(isinstance(each, np.ndarray) for each in embedder.trained_.arrays.values())
    with pytest.raises(NotFittedError, match="has not been fitted"):
        clone(embedder).transform(UNSEEN)
    embedder.set_params(training__a=0.5)
    with pytest.raises(NotFittedError, match=r"training__a was 0\.001"):
        embedder.transform(UNSEEN)


def test_other_vectors_than_those_that_were_weighed_are_refused(path, tmp_path):
    embedder = TextEmbedder(path, training=WordWeights()).fit(ROWS)
    embedder.set_params(model=write_text(tmp_path / "other.txt", vectors=vectors_of(seed=42)))
    with pytest.raises(InvalidParameterError, match="are not those that this TextEmbedder"):
        embedder.transform(UNSEEN)


def test_a_search_compares_weights_in_a_pipeline(path):
    texts, labels = ["the cat", "the dog", "a cat sat", "a dog sat"] * 6, [0, 1, 0, 1] * 6
    pipeline = make_pipeline(TextEmbedder(path), LogisticRegression(C=100))
    grid = {"textembedder__training": [None, WordWeights(), WordWeights(method="idf")]}
    search = GridSearchCV(pipeline, grid, cv=3).fit(texts, labels)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_score_ == 1.0


def test_what_cannot_be_weighed_says_why(path, folder):
    with pytest.raises(InvalidParameterError, match="no vectors of words to weigh"):
        TextEmbedder(folder, training=WordWeights()).fit(["a"])
    with pytest.raises(InvalidParameterError, match="pooling='max': WordWeights weighs"):
        TextEmbedder(path, pooling="max", training=WordWeights()).fit(["a"])
    with pytest.raises(InvalidRowsError, match="none of the words in the 1 rows"):
        TextEmbedder(path, training=WordWeights()).fit(["unheard"])
    with pytest.raises(InvalidParameterError, match="Call fit"):
        TextEmbedder(path, training=WordWeights()).partial_fit(ROWS)
    with pytest.raises(InvalidParameterError, match=r"method.*'bm25'"):
        TextEmbedder(path, training=WordWeights(method="bm25")).fit(ROWS)
    with pytest.raises(InvalidParameterError, match=r"WordWeights.*a.*-1"):
        TextEmbedder(path, training=WordWeights(a=-1)).fit(ROWS)
