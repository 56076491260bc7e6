"""ELMo against its equations in NumPy, one text at a time."""

import json
import pickle

import h5py
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skembed import EmbeddingStore, FineTune, TextEmbedder
from skembed.exceptions import (
    InvalidParameterError,
    InvalidRowsError,
    InvalidRowsWarning,
    TruncatedRowsError,
    TruncationWarning,
)
from skembed.text._settings import POOLINGS
from skembed.training._depth import Lowest
from tests.text.elmo_files import layers_of, make_options, make_weights, states_of, write_elmo
from tests.text.reference import pooled

WORDS = {
    "hello": ["hello"],
    "The quick, brown fox don't jump!": [
        *("The", "quick", ",", "brown", "fox", "don", "'t", "jump", "!")
    ],
    "Émile читает 本 😀": ["Émile", "читает", "本", "😀"],
    f"a {'long' * 12} word": ["a", "long" * 12, "word"],
    " well-known  U.S. sums: 1,000.50 'x'\n": [
        *("well-known", "U.S", ".", "sums", ":", "1,000.50", "'", "x", "'")
    ],
    "a b c d e f g h i j k l m n o p": list("abcdefghijklmnop"),
}
TEXTS = list(WORDS)

MODELS = {
    "as published": {},
    "tanh, one highway, one layer": {
        "n_layers": 1,
        "char_cnn": {"activation": "tanh", "n_highway": 1},
    },
    "no clipping, three layers": {"n_layers": 3, "cell_clip": None, "proj_clip": 0},
    "tight clipping": {"cell_clip": 0.5, "proj_clip": 0.25},
    "short words, wide filters": {
        "char_cnn": {"max_characters_per_token": 49, "filters": [[7, 5], [30, 4]]}
    },
    "a mix of its own": {"more": {"scalar_mix_parameters": [0.5, -1.0, 2.0]}},
}


@pytest.fixture(scope="module")
def options():
    return make_options()


@pytest.fixture(scope="module")
def weights(options):
    return make_weights(options)


@pytest.fixture(scope="module")
def folder(options, weights, tmp_path_factory):
    place = tmp_path_factory.mktemp("elmo") / "tiny"
    return write_elmo(place, options, weights, prefix="elmo_tiny_")


def embedder(folder, **params):
    return TextEmbedder(folder, **{"dtype": "float32", "cache": None} | params)


def expected_vectors(options, weights, texts=TEXTS, pooling="mean"):
    return np.stack([pooled(states_of(WORDS[text], options, weights), pooling) for text in texts])


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
def test_vectors_equal_the_equations(tmp_path, changes):
    options = make_options(**changes)
    weights = make_weights(options)
    vectors = embedder(write_elmo(tmp_path / "elmo", options, weights)).transform(TEXTS[:2])
    np.testing.assert_allclose(
        vectors, expected_vectors(options, weights, TEXTS[:2]), atol=2e-5, rtol=0
    )


@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_pooling_is_over_the_words_alone(folder, options, weights, pooling):
    vectors = embedder(folder, pooling=pooling).transform(TEXTS)
    expected = expected_vectors(options, weights, pooling=pooling)
    np.testing.assert_allclose(vectors, expected, atol=2e-5, rtol=1e-5)


def test_a_row_depends_on_no_neighbour_and_on_no_earlier_batch(folder):
    fitted = embedder(folder).fit(TEXTS)
    together = fitted.transform(TEXTS)
    alone = np.vstack([fitted.transform([text]) for text in TEXTS])
    backwards = embedder(folder, batch_size=2).transform(TEXTS[::-1])[::-1]
    np.testing.assert_allclose(alone, together, atol=1e-5, rtol=0)
    np.testing.assert_allclose(backwards, together, atol=1e-5, rtol=0)
    np.testing.assert_array_equal(fitted.transform(TEXTS), together)


def test_every_layer_and_both_directions_count(options, weights):
    layers = layers_of(WORDS[TEXTS[1]], options, weights)
    assert np.abs(layers).max((1, 2)).min() > 0.5
    changed = layers_of([*WORDS[TEXTS[1]][:-1], "?"], options, weights)
    d = options["lstm"]["projection_dim"]
    assert np.array_equal(changed[1:, 0, :d], layers[1:, 0, :d])
    assert abs(changed[1:, 0, d:] - layers[1:, 0, d:]).max() > 1e-3


def test_words_beyond_48_bytes_are_cut_and_the_user_is_told(folder, options, weights):
    word = "ж" * 40
    with pytest.warns(TruncationWarning, match=r"tiny reads 48 bytes of a word .* 'жжж"):
        (vector,) = embedder(folder).transform([f"a {word}"])
    expected = states_of(["a", word], options, weights).mean(0)
    np.testing.assert_allclose(vector, expected, atol=2e-5, rtol=0)
    np.testing.assert_array_equal(vector, embedder(folder).transform([f"a {word[:24]}"])[0])


def test_texts_are_cut_at_max_length_and_read_in_chunks(folder, options, weights):
    text = TEXTS[-1]
    first, rest = WORDS[text][:10], WORDS[text][10:]
    parts = [states_of(words, options, weights).mean(0) for words in (first, rest)]
    with pytest.warns(TruncationWarning, match="1 of 1 rows was cut at 12 tokens"):
        cut = embedder(folder, max_length=12).transform([text])
    np.testing.assert_allclose(cut[0], parts[0], atol=2e-5, rtol=0)
    in_chunks = embedder(folder, max_length=12, on_truncate="mean_of_chunks").transform([text])
    weighted = np.average(parts, axis=0, weights=[12, 8])
    np.testing.assert_allclose(in_chunks[0], weighted, atol=2e-5, rtol=0)
    with pytest.raises(TruncatedRowsError, match="18 tokens"):
        embedder(folder, max_length=12, on_truncate="raise").transform([text])
    with pytest.raises(InvalidParameterError, match="max_length=2 leaves no room"):
        embedder(folder, max_length=2).fit([text])


def test_a_text_without_words_is_a_bad_row(folder):
    rows = pd.Series(["a word", "  \n", None, "another"], index=[7, 3, 5, 1])
    with pytest.raises(InvalidRowsError, match="no tokens"):
        embedder(folder).transform(["", "a"])
    with pytest.warns(InvalidRowsWarning, match="2 of 4 rows"):
        vectors = embedder(folder, on_error="nan").transform(rows)
    np.testing.assert_array_equal(np.isnan(vectors).any(1), [False, True, True, False])


def test_it_takes_any_float_format_on_a_cpu_as_float32(folder):
    exact = embedder(folder, device="cpu").transform(TEXTS)
    other = embedder(folder, dtype="bfloat16", device="cpu").fit(TEXTS)
    np.testing.assert_array_equal(other.transform(TEXTS), exact)
    assert other.dtype_ == "float32"


def test_clones_pickles_and_caches_serve_the_same_vectors(folder, tmp_path):
    fitted = embedder(folder, cache=EmbeddingStore(tmp_path / "store")).fit(TEXTS)
    vectors = fitted.transform(TEXTS)
    for other in (clone(fitted), pickle.loads(pickle.dumps(fitted))):
        np.testing.assert_array_equal(other.transform(TEXTS), vectors)
        assert other.report_.n_encoded == 0


def test_the_model_is_a_hyper_parameter(folder, options, tmp_path):
    other = write_elmo(tmp_path / "other", options, make_weights(options, seed=1))
    pipe = make_pipeline(TextEmbedder(dtype="float32"), LogisticRegression())
    grid = {"textembedder__model": [str(folder), str(other)]}
    rows, labels = TEXTS * 2, [0, 1] * len(TEXTS)
    search = GridSearchCV(pipe, grid, cv=2, error_score="raise").fit(rows, labels)
    assert search.cv_results_["mean_test_score"].shape == (2,)
    first, second = (embedder(each).transform(TEXTS) for each in (folder, other))
    assert abs(first - second).max() > 0.1


def test_files_that_change_give_other_vectors(options, weights, tmp_path):
    store = EmbeddingStore()
    place = write_elmo(tmp_path / "elmo", options, weights)
    embed = TextEmbedder(place, dtype="float32", cache=store)
    before = embed.transform(TEXTS)
    mixed = options | {"scalar_mix_parameters": [0.0, 5.0, 0.0]}
    write_elmo(place, mixed, weights)
    after = embed.transform(TEXTS)
    np.testing.assert_allclose(after, expected_vectors(mixed, weights), atol=2e-5, rtol=0)
    assert abs(after - before).max() > 0.1


# Training -----------------------------------------------------------------------------------


def strategy(method, **changes):
    options = {"n_epochs": 2, "learning_rate": 0.01, "batch_size": 4, "validation_fraction": None}
    return FineTune(method, **options | changes)


LABELS = [0, 1] * 3


@pytest.mark.parametrize("method", ["head", "lora", "full"])
def test_what_was_trained_is_exported_in_the_published_layout(folder, tmp_path, method):
    fitted = embedder(folder, training=strategy(method)).fit(TEXTS, LABELS)
    vectors = fitted.transform(TEXTS)
    assert abs(vectors - embedder(folder).transform(TEXTS)).max() > 1e-3
    exported = fitted.export(tmp_path / "exported")
    options, weights = read_back(exported)
    expected = expected_vectors(options, weights)
    if method == "head":
        head = fitted.encoder_.backbone.projection
        expected = expected @ head.weight.T + head.bias
    np.testing.assert_allclose(vectors, expected, atol=5e-5, rtol=0)
    if method != "head":
        np.testing.assert_allclose(embedder(exported).transform(TEXTS), vectors, atol=1e-5, rtol=0)


def read_back(folder):
    weights = {}
    with h5py.File(folder / "weights.hdf5", "r") as file:
        file.visititems(
            lambda name, found: weights.update(
                {name: found[...]} if isinstance(found, h5py.Dataset) else {}
            )
        )
    return json.loads((folder / "options.json").read_text()), weights


def test_an_export_without_training_is_the_published_model(folder, options, weights, tmp_path):
    found, arrays = read_back(embedder(folder).export(tmp_path / "exported"))
    assert found == options | {"scalar_mix_parameters": [0.0, 0.0, 0.0]}
    assert arrays.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_allclose(arrays[name], value, atol=1e-6, rtol=0)


def test_the_mix_of_the_layers_is_trained(folder, tmp_path):
    fitted = embedder(folder, training=strategy("full")).fit(TEXTS, LABELS)
    options, _ = read_back(fitted.export(tmp_path / "exported"))
    assert np.ptp(options["scalar_mix_parameters"]) > 1e-3


@pytest.mark.parametrize("freeze", [1, 2])
def test_the_lowest_layers_can_stay_as_they_are(folder, weights, tmp_path, freeze):
    fitted = embedder(folder, training=strategy("full", freeze=freeze)).fit(TEXTS, LABELS)
    _, arrays = read_back(fitted.export(tmp_path / "exported"))
    changed = {n for n, value in weights.items() if abs(arrays[n] - value).max() > 1e-6}
    of_layers = {n for n in weights if any(f"Cell{i}/" in n for i in range(freeze - 1, 2))}
    assert changed == of_layers


def test_frozen_layers_that_run_once_train_as_those_that_run_in_each_epoch(folder, monkeypatch):
    def trained():
        fitted = embedder(folder, training=strategy("full", freeze=2)).fit(TEXTS, LABELS)
        return fitted.transform(TEXTS)

    kept, keep = [], Lowest.keep

    def spy(self, *args):
        kept.append(keep(self, *args))
        return kept[-1]

    monkeypatch.setattr(Lowest, "keep", spy)
    once = trained()
    assert kept and all(kept)
    monkeypatch.setattr(Lowest, "keep", lambda *args: False)
    np.testing.assert_allclose(trained(), once, atol=1e-4, rtol=0)
