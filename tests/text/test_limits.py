"""Texts longer than the model reads, prompts, and where they meet."""

import warnings
from enum import Enum

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from skembed import EmbeddingStore, TextEmbedder
from skembed.exceptions import (
    InvalidParameterError,
    TruncatedRowsError,
    TruncationWarning,
)
from skembed.text._tokens import TextTokenizer
from tests.text.checkpoints import SHORT, write_checkpoint
from tests.text.reference import embeddings


class TestLongTexts:
    LONG = "gaussian kernel density " * 60

    def test_cut_rows_are_counted_and_named(self, embedder):
        rows = ["x", self.LONG, "gaussian", self.LONG + "estimate"]
        with pytest.warns(TruncationWarning, match=r"2 of 4 rows were cut.*rows 1, 3"):
            embedder.transform(rows)
        assert embedder.report_.truncated.tolist() == [1, 3]
        assert embedder.report_.max_length == 128
        assert embedder.report_.n_tokens[1] > 180

    def test_stored_rows_are_in_the_report_though_their_warning_came_before(self, embedder):
        with pytest.warns(TruncationWarning, match="1 of 1 rows was cut"):
            embedder.transform([self.LONG])
        embedder.transform([self.LONG])
        assert embedder.report_.n_encoded == 0
        assert embedder.report_.truncated.tolist() == [0]

    def test_the_warning_points_at_the_users_line(self, embedder):
        with pytest.warns(TruncationWarning, match="was cut") as caught:
            embedder.transform([self.LONG])
        assert caught[0].filename == __file__

    def test_ignoring_is_silent(self, folder):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            TextEmbedder(folder, on_truncate="ignore").transform([self.LONG])

    def test_refusing_names_the_rows_before_anything_is_encoded(self, folder):
        store = EmbeddingStore()
        embedder = TextEmbedder(folder, on_truncate="raise", cache=store)
        with pytest.raises(TruncatedRowsError, match=r"1 of 3 rows are longer.*\n.*row 1: \d+ tok"):
            embedder.transform(["a", self.LONG, "b"])
        assert store.info().n_entries == 0
        assert embedder.transform(["a", "b"]).shape == (2, 32)

    def test_chunks_are_averaged_by_their_tokens(self, folder):
        embedder = TextEmbedder(
            folder, dtype="float32", max_length=10, on_truncate="mean_of_chunks", cache=None
        )
        words = [
            "fit",
            "a",
            "curve",
            "to",
            "data",
            "with",
            "bounds",
            "on",
            "the",
            "parameters",
            "and",
            "return",
        ]
        vectors = embedder.transform([" ".join(words), "x"])
        n_tokens = embedder.report_.n_tokens
        tokenizer = embedder.encoder_.backbone._tokenizer
        ids = tokenizer(" ".join(words), add_special_tokens=False)["input_ids"]
        assert n_tokens[0] == len(ids) + 2
        pieces = [ids[i : i + 8] for i in range(0, len(ids), 8)]
        exact = TextEmbedder(folder, dtype="float32", cache=None)
        chunks = np.vstack([self._embed_ids(exact, piece) for piece in pieces])
        weights = [len(piece) + 2 for piece in pieces]
        expected = np.average(chunks, axis=0, weights=weights)
        np.testing.assert_allclose(vectors[0], expected, atol=1e-5)

    @staticmethod
    def _embed_ids(embedder, ids):
        encoder = embedder.fit(["a"]).encoder_
        return encoder.encode(encoder.collate([np.array([2, *ids, 3])])).numpy()

    def test_a_cut_row_and_its_chunks_are_stored_apart(self, folder):
        store = EmbeddingStore()
        cut, whole = (
            TextEmbedder(folder, max_length=10, on_truncate=how, cache=store).transform([self.LONG])
            for how in ("ignore", "mean_of_chunks")
        )
        assert store.info().n_entries == 2
        assert abs(cut - whole).max() > 1e-3

    def test_every_chunk_gets_the_prompt(self, folder):
        settings = {"dtype": "float32", "max_length": 12, "cache": None}
        chunked = TextEmbedder(folder, prompt="find: ", on_truncate="mean_of_chunks", **settings)
        (prepared,) = chunked.fit(["a"]).encoder_.prepare(["gaussian kernel density " * 8])
        tokenizer = chunked.encoder_.backbone._tokenizer
        prompt = tokenizer("find: ", add_special_tokens=False)["input_ids"]
        assert len(prepared.parts) > 2
        assert all(part[1 : 1 + len(prompt)].tolist() == prompt for part in prepared.parts)
        assert all(len(part) <= 12 for part in prepared.parts)

    def test_chunks_of_unit_vectors_have_unit_length(self, folder):
        embedder = TextEmbedder(folder, normalize=True, max_length=9, on_truncate="mean_of_chunks")
        vectors = embedder.transform([self.LONG, "x"])
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)

    def test_a_limit_beyond_the_models_positions_is_refused(self, folder):
        with pytest.raises(
            InvalidParameterError, match=r"max_length=131, but .* at most 130 tokens"
        ):
            TextEmbedder(folder, max_length=131).fit(["a"])


class TestLimitsAndPrompts:
    @pytest.mark.parametrize("max_length", [1, 2])
    def test_a_limit_that_leaves_no_room_for_text_is_refused(self, folder, max_length):
        with pytest.raises(InvalidParameterError, match="leaves no room for text"):
            TextEmbedder(folder, max_length=max_length).fit(["a"])

    def test_the_least_limit_reads_one_token(self, folder):
        embedder = TextEmbedder(folder, max_length=3, on_truncate="mean_of_chunks", dtype="float32")
        embedder.transform(["gaussian kernel density"])
        (prepared,) = embedder.encoder_.prepare(["gaussian kernel density"])
        assert {len(part) for part in prepared.parts} == {3}

    def test_a_prompt_that_fills_the_model_is_refused(self, folder):
        prompt = "the quick brown fox jumps over the lazy dog "
        with pytest.raises(InvalidParameterError, match=r"the prompt .* has"):
            TextEmbedder(folder, max_length=8, prompt=prompt).fit(["a"])

    def test_a_mistyped_name_of_a_prompt_is_refused(self, folder):
        with pytest.raises(InvalidParameterError, match=r"looks like a name.*it has none"):
            TextEmbedder(folder, prompt="search-qurey").fit(["a"])

    @pytest.mark.parametrize(
        "change",
        [
            {"pooling": np.array(["cls"])[0]},
            {"n_components": np.arange(9)[8], "normalize": np.bool_(True)},
            {"max_length": np.int32(9), "batch_size": np.int64(2)},
            {"dtype": np.str_("float32"), "prompt": np.str_("find: ")},
        ],
    )
    def test_numpys_own_scalars_are_parameters_too(self, folder, change):
        plain = {name: value.item() for name, value in change.items()}
        settings = {"on_truncate": "ignore", "cache": None}
        expected = TextEmbedder(folder, **settings | plain).transform(SHORT)
        vectors = TextEmbedder(folder, **settings | change).transform(SHORT)
        np.testing.assert_array_equal(vectors, expected)

    def test_a_string_enum_counts_by_its_text(self, folder):
        class Word(str, Enum):
            POOLING = "cls"
            ROW = "gradient descent"

        settings = {"dtype": "float32", "cache": None}
        expected = TextEmbedder(folder, pooling="cls", **settings).transform(["gradient descent"])
        vectors = TextEmbedder(folder, pooling=Word.POOLING, **settings).transform([Word.ROW])
        np.testing.assert_array_equal(vectors, expected)


def test_a_long_row_does_not_change_how_positions_of_its_neighbours_turn(tmp_path):
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [1.0, 2.0, 5.0, 9.0],
        "original_max_position_embeddings": 24,
    }
    folder = write_checkpoint(tmp_path / "llama", "llama", rope_parameters=rope)
    params = {"dtype": "float32", "cache": None, "on_truncate": "ignore"}
    embedder = TextEmbedder(folder, pooling="last_token", **params)
    short, long = "nearest neighbours in a metric space", "gaussian kernel " * 20
    np.testing.assert_allclose(
        embedder.transform([short, long])[:1], embedder.transform([short]), atol=1e-5
    )
    np.testing.assert_allclose(
        embedder.transform([short]), embeddings(folder, [short], "last_token"), atol=1e-5
    )
    assert embedder.encoder_.limit == 24


def test_chunks_lose_no_token_where_the_prompt_merges_with_the_text():
    # Byte-level BPE: the prompt's last space belongs to the first word of the text.
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    text = "brown fox jumps over the lazy dog"
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator([f"query: {text}"] * 9, trainer)
    tokens = TextTokenizer(
        PreTrainedTokenizerFast(tokenizer_object=bpe), "bpe", prompt="query: ", max_length=5
    )
    (ids,) = tokens.encode([text])
    chunks = tokens.chunks(ids)
    whole = bpe.encode(f"query: {text}").ids
    prompt = chunks[0][:2].tolist()
    assert prompt == whole[:2]
    assert all(chunk[:2].tolist() == prompt for chunk in chunks)
    assert [token for chunk in chunks for token in chunk[2:].tolist()] == whole[2:]
