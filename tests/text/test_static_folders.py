"""Folders of static vectors give what model2vec and sentence-transformers give of them."""

import json
import pickle

import numpy as np
import pytest
from model2vec import StaticModel
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense
from tokenizers import Tokenizer, models, pre_tokenizers

from skembed import FineTune, TextEmbedder, WordWeights
from skembed.exceptions import (
    InvalidParameterError,
    QualityWarning,
    TruncationWarning,
    UnsafeModelError,
    UnsupportedModelError,
)
from skembed.text._families import family_of
from tests.hub_cache import lay_out
from tests.text.checkpoints import write_checkpoint
from tests.text.words import WORDS, make_tokenizer, vectors_of, write_static_embedding

TOKENS = ("[UNK]", *WORDS)
TEXTS = ["the cat sat on a mat .", "The dog", "unheard of", "a naïve unheard cat , 朴素", "do n't"]


def write_model2vec(folder, vectors=None, tokenizer=None, **options):
    tokenizer = tokenizer or make_tokenizer()
    vectors = vectors_of(len(TOKENS), seed=30) if vectors is None else vectors
    StaticModel(vectors, tokenizer, **options).save_pretrained(folder)
    return folder


def encoded(folder, texts=TEXTS, **options):
    return StaticModel.from_pretrained(folder).encode(texts, use_multiprocessing=False, **options)


def wordpiece():
    vocabulary = ["[UNK]", "the", "cat", "##s", "##alog", "dog", "."]
    model = models.WordPiece({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def unigram():
    pieces = [("<unk>", 0.0), ("▁the", -1.0), ("▁cat", -2.0), ("s", -3.0), ("▁", -4.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


@pytest.mark.filterwarnings("ignore:.*no word with a vector:skembed.exceptions.QualityWarning")
class TestModel2vec:
    @pytest.mark.parametrize("normalize", [False, True])
    def test_vectors_are_those_of_model2vec(self, tmp_path, normalize):
        folder = write_model2vec(tmp_path / "m", normalize=normalize)
        vectors = TextEmbedder(folder).transform(TEXTS)
        np.testing.assert_allclose(vectors, encoded(folder), atol=1e-6)
        assert not vectors[2].any()

    @pytest.mark.parametrize("make", [wordpiece, unigram])
    def test_unknown_tokens_are_left_out_whatever_the_tokenizer(self, tmp_path, make):
        tokenizer = make()
        vectors = vectors_of(tokenizer.get_vocab_size(), seed=31)
        folder = write_model2vec(tmp_path / "m", vectors, tokenizer)
        texts = ["the cats", "the zebra cat", "catalog the ."]
        embedder = TextEmbedder(folder)
        np.testing.assert_allclose(embedder.transform(texts), encoded(folder, texts), atol=1e-6)
        assert embedder.report_.n_unknown[1] > 0

    def test_weights_and_shared_vectors_count_as_in_model2vec(self, tmp_path):
        rng = np.random.default_rng(0)
        options = {
            "weights": rng.random(len(TOKENS)).astype(np.float32),
            "token_mapping": rng.integers(0, 5, len(TOKENS)),
        }
        folder = write_model2vec(tmp_path / "m", vectors_of(5), **options)
        np.testing.assert_allclose(
            TextEmbedder(folder).transform(TEXTS), encoded(folder), atol=1e-6
        )

    def test_numbers_of_eight_and_sixteen_bits_are_read(self, tmp_path):
        for dtype in (np.float16, np.int8):
            vectors = (10 * vectors_of(len(TOKENS))).astype(dtype)
            folder = write_model2vec(tmp_path / dtype.__name__, vectors)
            found = TextEmbedder(folder).transform(TEXTS)
            np.testing.assert_allclose(found, encoded(folder), rtol=2e-3, atol=2e-2)

    def test_a_long_text_is_cut_where_model2vec_cuts_it_and_a_warning_says_so(self, tmp_path):
        folder = write_model2vec(tmp_path / "m", max_length=4)
        with pytest.warns(TruncationWarning, match="2 of 5 rows were cut at 4 tokens"):
            vectors = TextEmbedder(folder).transform(TEXTS)
        # Its letters are not cut, which model2vec does before it splits them.
        expected = StaticModel.from_pretrained(folder)
        expected.median_token_length = 1000
        np.testing.assert_allclose(vectors, expected.encode(TEXTS), atol=1e-6)
        whole = TextEmbedder(folder, on_truncate="mean_of_chunks").transform(TEXTS)
        np.testing.assert_allclose(whole, encoded(folder, max_length=None), atol=1e-6)
        longest = TextEmbedder(write_model2vec(tmp_path / "n"))
        with pytest.warns(TruncationWarning, match="cut at 512 tokens"):
            longest.transform(["the " * 513])
        assert longest.report_.n_tokens.tolist() == [513]

    def test_an_older_folder_without_modules_is_known_by_its_configuration(self, tmp_path):
        folder = write_model2vec(tmp_path / "m")
        (folder / "modules.json").unlink()
        np.testing.assert_allclose(
            TextEmbedder(folder).transform(TEXTS), encoded(folder), atol=1e-6
        )


class TestStaticEmbedding:
    @pytest.mark.parametrize("normalize", [False, True])
    def test_vectors_are_those_of_sentence_transformers(self, tmp_path, normalize):
        tokenizer = make_tokenizer()
        folder = write_static_embedding(
            tmp_path / "s", vectors_of(len(TOKENS)), tokenizer, normalize=normalize
        )
        expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
        embedder = TextEmbedder(folder)
        np.testing.assert_allclose(embedder.transform(TEXTS), expected, atol=1e-6)
        assert not embedder.report_.n_unknown.any()  # its unknown token has a vector

    def test_dense_layers_follow(self, tmp_path):
        folder = write_static_embedding(
            tmp_path / "s", vectors_of(22), make_tokenizer(), normalize=True, layers=[Dense(6, 4)]
        )
        expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
        embedder = TextEmbedder(folder)
        np.testing.assert_allclose(embedder.transform(TEXTS), expected, atol=1e-6)
        with pytest.raises(UnsupportedModelError, match="layers after it"):
            embedder.export(tmp_path / "out")

    def test_a_default_prompt_and_a_cut_are_applied_as_there(self, tmp_path):
        settings = {"prompts": {"q": "the dog "}, "default_prompt_name": "q", "truncate_dim": 4}
        folder = write_static_embedding(
            tmp_path / "s", vectors_of(len(TOKENS)), make_tokenizer(), settings=settings
        )
        expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
        np.testing.assert_allclose(TextEmbedder(folder).transform(TEXTS), expected, atol=1e-6)
        bare = TextEmbedder(folder, prompt=None, n_components=6).transform(["cat"])
        np.testing.assert_allclose(bare[0], vectors_of(len(TOKENS))[2], atol=1e-6)
        with pytest.raises(InvalidParameterError, match=r"prompt='quey' looks like a name"):
            TextEmbedder(folder, prompt="quey").fit(["a"])

    def test_a_limit_of_the_tokenizer_holds(self, tmp_path):
        tokenizer = make_tokenizer()
        tokenizer.enable_truncation(3)
        folder = write_static_embedding(tmp_path / "s", vectors_of(len(TOKENS)), tokenizer)
        expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
        embedder = TextEmbedder(folder)
        with pytest.warns(TruncationWarning, match="cut at 3 tokens"):
            vectors = embedder.transform(TEXTS)
        np.testing.assert_allclose(vectors, expected, atol=1e-6)

    def test_folders_that_cannot_be_read_say_why(self, tmp_path):
        folder = write_static_embedding(tmp_path / "s", vectors_of(22), make_tokenizer())
        listed = json.loads((folder / "modules.json").read_text())
        listed.append({"idx": 1, "name": "1", "path": "", "type": "mine.Layer"})
        (folder / "modules.json").write_text(json.dumps(listed))
        with pytest.raises(UnsafeModelError, match=r"lists the module mine\.Layer"):
            TextEmbedder(folder).fit(["a"])
        other = write_static_embedding(tmp_path / "o", vectors_of(22), make_tokenizer())
        make_tokenizer((*TOKENS, "more")).save(str(other / "tokenizer.json"))
        with pytest.raises(
            UnsupportedModelError, match="has 23 tokens, but there are vectors of 22"
        ):
            TextEmbedder(other).fit(["a"])
        (other / "tokenizer.json").write_text("{}")
        with pytest.raises(UnsupportedModelError, match=r"tokenizer in .* cannot be read"):
            TextEmbedder(other).fit(["a"])


@pytest.mark.filterwarnings("ignore:.*no word with a vector:skembed.exceptions.QualityWarning")
class TestExport:
    @pytest.mark.parametrize("normalize", [False, True])
    def test_a_trained_projection_is_folded_into_the_table(self, tmp_path, normalize):
        folder = write_model2vec(tmp_path / "m")
        training = FineTune(method="head", n_epochs=2, validation_fraction=None)
        embedder = TextEmbedder(folder, training=training, normalize=normalize, n_components=4)
        texts = [TEXTS[i] for i in (0, 1, 3, 4)]
        embedder.fit(texts * 4, [0, 1, 0, 1] * 4)
        exported = embedder.export(tmp_path / "out")
        expected = embedder.transform(texts)
        np.testing.assert_allclose(encoded(exported, texts), expected, atol=1e-5)
        np.testing.assert_allclose(TextEmbedder(exported).transform(texts), expected, atol=1e-5)

    def test_sif_is_folded_into_a_static_embedding(self, tmp_path):
        folder = write_static_embedding(tmp_path / "s", vectors_of(22), make_tokenizer())
        embedder = TextEmbedder(folder, training=WordWeights()).fit(TEXTS)
        exported = embedder.export(tmp_path / "out")
        found = SentenceTransformer(str(exported), device="cpu").encode(TEXTS)
        np.testing.assert_allclose(found, embedder.transform(TEXTS), atol=1e-5)

    def test_what_the_format_has_no_place_for_is_refused(self, tmp_path):
        folder = write_model2vec(tmp_path / "m")
        with pytest.raises(UnsupportedModelError, match="cannot be exported as it is used"):
            TextEmbedder(folder, pooling="max").export(tmp_path / "out")
        idf = TextEmbedder(folder, training=WordWeights(method="idf")).fit(TEXTS)
        with pytest.raises(UnsupportedModelError, match="without idf weights"):
            idf.export(tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_families_are_told_by_what_lies_there(tmp_path):
    assert family_of(write_model2vec(tmp_path / "m")) == "static"
    assert family_of(write_static_embedding(tmp_path / "s", vectors_of(22), make_tokenizer()))
    others = [write_checkpoint(tmp_path / "bert"), tmp_path / "nowhere", "org/name", 3, None]
    assert {family_of(each) for each in others} == {"transformer"}


@pytest.mark.filterwarnings("ignore:.*no word with a vector:skembed.exceptions.QualityWarning")
@pytest.mark.parametrize("has_torch", [True, False])
def test_a_model_of_the_hub_is_known_by_its_files(tmp_path, monkeypatch, has_torch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("skembed._pretrained._has_torch", lambda: has_torch)
    folder = write_model2vec(lay_out(tmp_path / "hub", f"org/static-{has_torch}"))
    vectors = TextEmbedder(f"org/static-{has_torch}").transform(TEXTS)
    np.testing.assert_allclose(vectors, encoded(folder), atol=1e-6)


def test_tokens_near_to_a_token_are_found_and_pickles_are_references(tmp_path):
    vectors = vectors_of(22, seed=30)
    embedder = TextEmbedder(write_model2vec(tmp_path / "m"))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = unit @ unit[2]
    scores[2] = -2
    ((word, cosine),) = embedder.most_similar("cat", n=1)
    assert (word, cosine) == (TOKENS[scores.argmax()], pytest.approx(scores.max(), abs=1e-6))
    assert len(pickle.dumps(embedder)) < 2000
    with pytest.warns(QualityWarning, match="1 of 1 rows have no word"):
        embedder.transform(["unheard"])
