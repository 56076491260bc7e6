"""OpenAI's GPT and GPT-2, with tokenizers in their published files, against one text at a time."""

import json

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from skembed import FineTune, TextEmbedder
from skembed.exceptions import ModelWarning
from tests.text.reference import pooled

TEXTS = [
    "the Running man, the end.",
    "x",
    "The quick brown fox jumps over the lazy dog, in the morning and in the evening",
    "Émile's thing",
]
SIZES = {"n_positions": 120, "n_embd": 32, "n_layer": 3, "n_head": 4, "initializer_range": 0.3}
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,'-"


def write_words(folder, vocabulary, merges):
    folder.mkdir()
    vocabulary = [*vocabulary, *(merge.replace(" ", "") for merge in merges)]
    numbered = {token: i for i, token in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(numbered))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    return len(vocabulary)


def write_gpt(folder):
    """Write a checkpoint whose tokens end words with "</w>"; it has no token that ends texts."""
    ends = [f"{letter}</w>" for letter in LETTERS]
    merges = ["t h", "th e</w>", "a n", "i n", "in g</w>"]
    n_tokens = write_words(folder, ["<unk>", *LETTERS, *ends], merges)
    torch.manual_seed(0)
    OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=n_tokens, **SIZES)).save_pretrained(folder)
    return folder


def write_gpt2(folder):
    """Write a checkpoint whose tokens are of bytes, and begin words with a space."""
    merges = ["t h", "Ġ th", "Ġth e", "i n", "in g"]
    letters = ["<|endoftext|>", *bytes_to_unicode().values()]
    n_tokens = write_words(folder, letters, merges)
    config = GPT2Config(vocab_size=n_tokens, bos_token_id=0, eos_token_id=0, **SIZES)
    torch.manual_seed(0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


WRITERS = {"openai-gpt": write_gpt, "gpt2": write_gpt2}


@pytest.fixture(scope="module", params=WRITERS)
def folder(request, tmp_path_factory):
    with torch.random.fork_rng(devices=[]):
        return WRITERS[request.param](tmp_path_factory.mktemp("gpt") / request.param)


def embedder(folder, **params):
    params = {"dtype": "float32", "cache": None, "pooling": "last_token"} | params
    return TextEmbedder(folder, **params)


@torch.inference_mode()
def plain_vectors(folder, texts, pooling):
    """Return the vectors of texts, each alone in a forward pass of transformers."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    ids = [torch.tensor([tokenizer(text)["input_ids"]]) for text in texts]
    states = [model.eval()(each).last_hidden_state[0].double().numpy() for each in ids]
    return np.stack([pooled(each, pooling) for each in states])


@pytest.mark.parametrize("pooling", ["last_token", "mean", "weighted_mean"])
def test_vectors_equal_the_forward_pass_of_each_text_alone(folder, pooling):
    vectors = embedder(folder, pooling=pooling).transform(TEXTS)
    expected = plain_vectors(folder, TEXTS, pooling)
    np.testing.assert_allclose(vectors, expected, atol=1e-5, rtol=0)


def test_a_row_does_not_depend_on_its_neighbours(folder):
    fitted = embedder(folder).fit(TEXTS)
    together = fitted.transform(TEXTS)
    alone = np.vstack([fitted.transform([text]) for text in TEXTS])
    pairs = embedder(folder, batch_size=2).transform(TEXTS[::-1])[::-1]
    np.testing.assert_allclose(alone, together, atol=1e-5, rtol=0)
    np.testing.assert_allclose(pairs, together, atol=1e-5, rtol=0)


def test_the_last_token_is_pooled_and_positions_are_the_limit(folder):
    fitted = embedder(folder, pooling="auto").fit(TEXTS)
    last = embedder(folder).transform(TEXTS)
    with pytest.warns(ModelWarning, match="made to write texts"):
        found = fitted.transform(TEXTS)
    np.testing.assert_array_equal(found, last)
    assert fitted.encoder_.limit == SIZES["n_positions"]


def test_gpt_reads_texts_in_lower_case_and_without_accents(tmp_path):
    fitted = embedder(write_gpt(tmp_path / "gpt")).fit(TEXTS)
    upper, lower = fitted.transform(["THE ÉND", "the end"])
    np.testing.assert_array_equal(upper, lower)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_was_trained_is_exported_as_its_own_library_reads_it(folder, tmp_path, method):
    strategy = FineTune(method, n_epochs=1, learning_rate=0.01, validation_fraction=None)
    fitted = embedder(folder, training=strategy, pooling="mean").fit(TEXTS, [0, 1, 0, 1])
    exported = fitted.export(tmp_path / "exported")
    vectors = fitted.transform(TEXTS)
    expected = plain_vectors(exported, TEXTS, "mean")
    np.testing.assert_allclose(vectors, expected, atol=1e-5, rtol=0)
    assert abs(vectors - plain_vectors(folder, TEXTS, "mean")).max() > 1e-3
