"""Static vectors of words: what a word is, how words become a vector, and what is told of them."""

import contextlib
import pickle
from unittest import SkipTest

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skembed import EmbeddingStore, FineTune, TextEmbedder
from skembed.exceptions import (
    InvalidInputError,
    InvalidParameterError,
    InvalidRowsError,
    InvalidRowsWarning,
    QualityWarning,
    TruncatedRowsError,
    TruncationWarning,
    UnsupportedModelError,
)
from skembed.testing import embedder_checks
from tests.text.words import WORDS, vectors_of, write_text

VECTORS = vectors_of(seed=20)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("words") / "glove.txt", vectors=VECTORS)


@pytest.fixture
def embedder(path):
    return TextEmbedder(path)


def rows(*words):
    return VECTORS[[WORDS.index(word) for word in words]]


# What a word is ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words", "n_unknown"),
    [
        ("the cat sat", ["the", "cat", "sat"], 0),
        ("The CAT\tsat\n", ["the", "cat", "sat"], 0),
        ("the cat, on a mat.", ["the", "cat", ",", "on", "a", "mat", "."], 0),
        ("(the cat!)", ["the", "cat"], 0),  # punctuation that is not known does not count
        ("don't", ["do", "n't"], 0),
        ("the dog\u2019s mat", ["the", "dog", "'s", "mat"], 0),
        ("dogs' mat", ["mat"], 1),
        ("(e.g., U.S.)", ["e.g.", ",", "u.s."], 0),
        ("well-known", ["well-known"], 0),
        ("known-well", ["known", "well"], 0),
        ("known/unheard-of", ["known"], 2),
        ("$10,000", ["$", "10,000"], 0),
        ("naïve 朴素", ["naïve", "朴素"], 0),
        ("cat 🐈", ["cat"], 1),  # a symbol counts, as it says something
    ],
)
def test_texts_are_split_into_words_that_are_known(embedder, text, words, n_unknown):
    vectors = embedder.transform([text])
    np.testing.assert_allclose(vectors[0], rows(*words).mean(0), atol=1e-6)
    assert embedder.report_.n_unknown.tolist() == [n_unknown]
    assert embedder.report_.n_tokens.tolist() == [len(words) + n_unknown]


def test_capitals_count_where_the_vocabulary_has_them(tmp_path):
    words, vectors = ["Apple", "apple", "pie"], vectors_of(3)
    embedder = TextEmbedder(write_text(tmp_path / "cased.txt", words, vectors))
    found = embedder.transform(["Apple", "apple", "Pie", "APPLE"])
    np.testing.assert_array_equal(found, vectors[[0, 1, 2, 1]])


def test_marks_upon_letters_do_not_part_words(tmp_path):
    words, vectors = ["हिन्दी", "भाषा"], vectors_of(2)
    embedder = TextEmbedder(write_text(tmp_path / "hindi.txt", words, vectors))
    np.testing.assert_allclose(embedder.transform(["(हिन्दी भाषा)।"])[0], vectors.mean(0), atol=1e-6)


# How words become one vector ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pooling", "oracle"),
    [
        ("auto", lambda v: v.mean(0)),
        ("mean", lambda v: v.mean(0)),
        ("max", lambda v: v.max(0)),
        ("mean_sqrt_len", lambda v: v.sum(0) / len(v) ** 0.5),
    ],
)
def test_poolings_are_those_of_numpy(path, pooling, oracle):
    vectors = TextEmbedder(path, pooling=pooling).transform(["the cat unheard sat", "dog"])
    np.testing.assert_allclose(vectors[0], oracle(rows("the", "cat", "sat")), atol=1e-6)
    np.testing.assert_allclose(vectors[1], rows("dog")[0], atol=1e-6)


def test_vectors_are_cut_and_brought_to_length_one(path):
    vectors = TextEmbedder(path, n_components=3, normalize=True).transform(["the cat"])
    expected = rows("the", "cat").mean(0)[:3]
    np.testing.assert_allclose(vectors[0], expected / np.linalg.norm(expected), atol=1e-6)


def test_a_text_does_not_depend_on_its_neighbours(embedder):
    texts = ["the cat sat on a mat", "dog", "", "unheard"] * 700
    with pytest.warns(QualityWarning):
        together = embedder.transform(texts)
        alone = [embedder.transform(texts[i : i + 1])[0] for i in (0, 1, 2, 3, 2000)]
    np.testing.assert_array_equal(alone, together[[0, 1, 2, 3, 2000]])


# What is told ------------------------------------------------------------------------------------


def test_texts_of_which_nothing_is_known_are_zeros_and_named_once(embedder):
    texts = pd.Series(["the cat", "unheard of", "", "!?"], index=list("wxyz"))
    with pytest.warns(QualityWarning, match=r"3 of 4 rows .*rows 1 \(index 'x'\)") as told:
        vectors = embedder.transform(texts)
        embedder.transform(texts)
    assert len(told) == 1
    assert not vectors[1:].any()
    assert sorted(embedder.report_.notes) == [1, 2, 3]
    assert embedder.report_.n_unknown.tolist() == [0, 2, 0, 0]


def test_missing_rows_are_nan_and_their_counts_zero(path):
    embedder = TextEmbedder(path, on_error="nan")
    with pytest.warns(InvalidRowsWarning, match="2 of 3 rows"):
        vectors = embedder.transform([None, "the unheard", 3.5])
    assert np.isnan(vectors[[0, 2]]).all()
    np.testing.assert_allclose(vectors[1], rows("the")[0], atol=1e-6)
    assert embedder.report_.n_unknown.tolist() == [0, 1, 0]
    with pytest.raises(InvalidRowsError, match="row 0: missing"):
        TextEmbedder(path).transform([None])


def test_no_rows_give_no_vectors(embedder):
    assert embedder.transform([]).shape == (0, 6)


def test_nothing_is_cut_unless_a_limit_is_asked_for(path, embedder):
    text = "the " * 3000 + "cat"
    vectors = embedder.transform([text])
    np.testing.assert_allclose(vectors[0], (3000 * VECTORS[0] + VECTORS[1]) / 3001, atol=1e-4)
    assert not len(embedder.report_.truncated)
    short = TextEmbedder(path, max_length=2)
    with pytest.warns(TruncationWarning, match="1 of 2 rows was cut at 2 tokens"):
        vectors = short.transform(["unheard the cat", "the cat"])
    np.testing.assert_allclose(vectors[0], rows("the")[0], atol=1e-6)
    assert short.report_.truncated.tolist() == [0]
    short.set_params(on_truncate="mean_of_chunks")
    np.testing.assert_allclose(
        short.transform(["the cat sat"])[0], rows("the", "cat", "sat").mean(0), atol=1e-6
    )
    with pytest.raises(TruncatedRowsError, match="1 of 1 rows are longer"):
        short.set_params(on_truncate="raise").transform(["the cat sat"])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"pooling": "cls"}, "pooling='cls': static vectors know no order"),
        ({"dtype": "bfloat16"}, "dtype='bfloat16': static vectors are looked up in float32"),
        ({"attention": "echo"}, "attention='echo'"),
        ({"prompt": "query: "}, "prompt='query: '"),
        ({"revision": "main"}, "revision='main': only models on the hub"),
        ({"base_url": "http://x"}, "base_url"),
        ({"n_components": 7}, "n_components=7, but .* gives 6 features"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(path, params, message):
    with pytest.raises(InvalidParameterError, match=message):
        TextEmbedder(path, **params).fit(["a"])


# An estimator as others --------------------------------------------------------------------------


def test_pickles_are_small_and_clones_give_the_same_vectors(path, embedder):
    expected = embedder.fit(["the cat"]).transform(["the cat"])
    data = pickle.dumps(embedder)
    assert len(data) < 2000
    for other in (pickle.loads(data), clone(embedder)):
        np.testing.assert_array_equal(other.transform(["the cat"]), expected)


@pytest.mark.parametrize("cache", ["run", None, "folder", "store"])
def test_no_store_is_asked_or_filled(path, tmp_path, cache):
    store = EmbeddingStore()
    given = {"folder": tmp_path / "cache", "store": store}.get(cache, cache)
    embedder = TextEmbedder(path, cache=given)
    for _ in range(2):
        embedder.transform(["the cat", "the cat"])
        assert embedder.report_.n_encoded == 2
    assert store.info().n_entries == 0


def test_a_grid_search_switches_vectors(path, tmp_path):
    texts = ["the cat", "a dog", "cat sat", "dog on mat"] * 8
    labels = [0, 1, 0, 1] * 8
    useless = write_text(tmp_path / "zeros.txt", vectors=np.zeros_like(VECTORS))
    pipeline = make_pipeline(TextEmbedder(path), LogisticRegression(C=100))
    grid = {"textembedder__model": [path, useless], "textembedder__pooling": ["mean", "max"]}
    search = GridSearchCV(pipeline, grid, cv=3).fit(texts, labels)
    assert search.best_params_["textembedder__model"] == path
    assert search.best_score_ == 1.0


CHECKED = ["the cat", "a dog sat", "naïve", "the", "on a mat", "well-known", "u.s. $ 10,000"]


@pytest.fixture(scope="module")
def checks(path):
    """Return the common checks, on a file of word vectors."""
    return embedder_checks(
        TextEmbedder(path), CHECKED, bad_rows=[3.5, None], set_params={"pooling": "max"}
    )


def test_the_common_contract_is_kept(checks):
    for _, check in checks:
        with contextlib.suppress(SkipTest):  # of targets, which there are none of
            check()


# Words near to others ----------------------------------------------------------------------------


def by_hand(wanted, but=()):
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    scores = unit @ (wanted / np.linalg.norm(wanted))
    order = [WORDS[row] for row in np.argsort(-scores) if WORDS[row] not in but]
    return order, np.sort(scores)


def unit(vector):
    return vector / np.linalg.norm(vector)


def test_words_near_to_a_word_a_text_or_a_vector_are_those_of_numpy(embedder):
    cat, dog, sat = rows("cat", "dog", "sat")
    cases = [
        (("cat",), by_hand(cat, ["cat"])),
        (
            (["Cat", "dog"], "sat"),
            by_hand(unit(cat) + unit(dog) - unit(sat), ["cat", "dog", "sat"]),
        ),
        (("the cat sat",), by_hand(rows("the", "cat", "sat").mean(0))),
        ((cat,), by_hand(cat)),
        (([], ["cat"]), by_hand(-cat, ["cat"])),
    ]
    for given, (expected, _) in cases:
        found = embedder.most_similar(*given, n=100)
        assert [word for word, _ in found] == expected
    (first,) = embedder.most_similar(cat, n=1)
    assert first == ("cat", pytest.approx(1.0, abs=1e-6))


def test_what_has_no_near_words_says_why(embedder, folder):
    with pytest.raises(InvalidInputError, match=r"not in the vocabulary, nor any part.*'unheard'"):
        embedder.most_similar("unheard")
    with pytest.raises(InvalidInputError, match=r"expected a word, a text or a vector, got none"):
        embedder.most_similar()
    with pytest.raises(InvalidInputError, match="vectors of 6 features"):
        embedder.most_similar(np.ones(5))
    with pytest.raises(InvalidInputError, match="expected words, texts or vectors, got None"):
        embedder.most_similar(["cat", None])
    with pytest.raises(InvalidParameterError, match="n=0"):
        embedder.most_similar("cat", n=0)
    with pytest.raises(UnsupportedModelError, match="no vocabulary of words with vectors"):
        TextEmbedder(folder).most_similar("cat")


# Training ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["full", "head"])
def test_word_vectors_can_be_trained(path, method):
    texts, labels = ["the cat", "a dog", "cat sat", "dog on mat"] * 8, [0, 1, 0, 1] * 8
    training = FineTune(method=method, n_epochs=2, learning_rate=0.05, validation_fraction=None)
    embedder = TextEmbedder(path, training=training, cache=None)
    trained = embedder.fit(texts, labels).transform(texts)
    frozen = TextEmbedder(path).transform(texts)
    assert np.abs(trained - frozen).max() > 1e-3
    again = pickle.loads(pickle.dumps(embedder)).transform(texts)
    np.testing.assert_allclose(again, trained, atol=1e-6)
    np.testing.assert_array_equal(TextEmbedder(path).transform(texts), frozen)  # not changed


def test_lora_has_no_layer_to_stand_beside(path):
    with pytest.raises(InvalidParameterError, match="lora"):
        TextEmbedder(path, training=FineTune(method="lora")).fit(
            ["the cat", "a dog"] * 4, [0, 1] * 4
        )
