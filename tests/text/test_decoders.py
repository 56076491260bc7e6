"""Decoders of every family against the plain forward pass of transformers."""

import warnings

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

from skembed import FineTune, TextEmbedder
from skembed.exceptions import InvalidParameterError, ModelWarning, UnsupportedModelError
from tests.text.checkpoints import DECODERS, TEXTS, write_checkpoint
from tests.text.reference import hidden_states, pooled

ROWS = [text for text in TEXTS if text]
# Whose code takes a mask of its caller's, which is the reference.
OPEN = ["gpt2", "gptj", "gpt_neox", "mistral", "mixtral", "qwen2", "gemma2", "gemma3", "phi"]
FIRST, SECOND = "Rewrite the following paragraph:", "\nThe rewritten paragraph:"


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """Return the checkpoint of a family, made once for all tests."""
    made = {}

    def find(family):
        if family not in made:
            place = tmp_path_factory.mktemp("decoders") / family
            made[family] = write_checkpoint(place, family)
        return made[family]

    return find


def ours(folder, rows=ROWS, **params):
    params = {"dtype": "float32", "on_truncate": "ignore", "cache": None} | params
    return TextEmbedder(folder, **params).fit_transform(rows)


def alone(folder, **params):
    return np.vstack([ours(folder, [row], **params) for row in ROWS])


@torch.inference_mode()
def states_of(folder, ids, **mask):
    """Return the states of one row of token ids, shape (tokens, d), by transformers alone."""
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval()(torch.tensor([ids]), **mask).last_hidden_state[0].double().numpy()


def tokens_of(folder, text):
    return AutoTokenizer.from_pretrained(folder)(text, truncation=True, max_length=128)["input_ids"]


@pytest.mark.parametrize("family", DECODERS)
def test_vectors_equal_the_plain_padded_forward_pass(family, folder_of):
    folder = folder_of(family)
    states = hidden_states(folder, ROWS)
    for pooling in ("mean", "weighted_mean", "last_token"):
        vectors = ours(folder, pooling=pooling)
        expected = np.stack([pooled(each, pooling) for each in states])
        np.testing.assert_allclose(vectors, expected, atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(alone(folder, pooling=pooling), vectors, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", DECODERS)
def test_the_expected_layout_is_proven_and_used(family, folder_of):
    fitted = TextEmbedder(folder_of(family), dtype="float32").fit(ROWS)
    assert fitted.encoder_.policy.layout == DECODERS[family][2]


@pytest.mark.parametrize("family", OPEN)
def test_bidirectional_attention_is_that_of_a_mask_that_hides_nothing(family, folder_of):
    folder = folder_of(family)
    vectors = ours(folder, attention="bidirectional", pooling="mean")
    for row, vector in zip(ROWS, vectors, strict=True):
        ids = tokens_of(folder, row)
        nothing_hidden = torch.zeros(1, 1, len(ids), len(ids))
        states = states_of(folder, ids, attention_mask=nothing_hidden)
        np.testing.assert_allclose(vector, states.mean(0), atol=1e-5, rtol=1e-5)
    assert abs(vectors - ours(folder, pooling="mean")).max() > 0.01
    together = alone(folder, attention="bidirectional", pooling="mean")
    np.testing.assert_allclose(together, vectors, atol=1e-5, rtol=0)


def test_code_that_hides_later_tokens_whatever_it_is_told_is_refused(folder_of):
    with pytest.raises(UnsupportedModelError, match=r"'bidirectional': the code of .*GPTNeoModel"):
        ours(folder_of("gpt_neo"), attention="bidirectional")


@pytest.mark.parametrize("family", ["gpt2", "mistral", "qwen2", "gemma2", "gemma3"])
@pytest.mark.parametrize("pooling", ["auto", "last_token", "weighted_mean"])
def test_echo_pools_the_second_copy_in_the_template_of_its_paper(family, pooling, folder_of):
    folder = folder_of(family)
    rows = ["gradient descent", "x"]  # which fit twice, be it letter by letter
    vectors = ours(folder, rows, attention="echo", pooling=pooling)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    before, after = [tokenizer.cls_token_id], [tokenizer.sep_token_id]
    for row, vector in zip(rows, vectors, strict=True):
        first, text, second = (
            tokenizer(part, add_special_tokens=False)["input_ids"]
            for part in (FIRST, f" {row}", SECOND)
        )
        states = states_of(folder, [*before, *first, *text, *second, *text, *after])
        copy = states[-len(text) - 1 :]
        mode = "mean" if pooling == "auto" else pooling
        np.testing.assert_allclose(vector, pooled(copy, mode), atol=1e-5, rtol=1e-5)


def test_an_echo_of_a_long_text_is_cut_alike_in_both_copies_or_read_in_chunks(folder_of):
    folder, long = folder_of("mistral"), "kernel density " * 60
    embedder = TextEmbedder(folder, attention="echo", on_truncate="ignore", cache=None)
    embedder.transform([long])
    tokens = embedder.encoder_.backbone.tokens
    (ids,) = tokens.encode([long])
    sequence = tokens.cut(ids)
    start = tokens.start_of(len(sequence))
    n = len(sequence) - start - 1
    first = len(tokens.before) + len(tokens._prompt_ids)
    assert 127 <= len(sequence) <= 128
    np.testing.assert_array_equal(sequence[start:-1], sequence[first : first + n])
    assert embedder.report_.truncated.tolist() == [0]
    assert embedder.report_.n_tokens[0] == tokens.size(ids) > 240
    chunks, n_tokens = tokens.chunks(ids), len(ids) - len(tokens._prompt_ids)
    assert sum((len(each) - tokens._n_around) // 2 for each in chunks) == n_tokens
    one = ours(folder, [long], attention="echo", on_truncate="mean_of_chunks")
    assert abs(one - ours(folder, [long], attention="echo")).max() > 1e-3
    with pytest.raises(InvalidParameterError, match="reads it twice and puts"):
        ours(folder, attention="echo", max_length=30)


def test_a_prompt_stands_once_before_an_echo(folder_of):
    folder = folder_of("mistral")
    fitted = TextEmbedder(folder, attention="echo", prompt="the fox: ").fit(ROWS)
    tokens = fitted.encoder_.backbone.tokens
    (ids,) = tokens.encode(["a curve"])
    found = AutoTokenizer.from_pretrained(folder).convert_ids_to_tokens(tokens.cut(ids).tolist())
    assert found[:3] == ["[CLS]", "the", "fox"]
    assert found.count("fox") == 1
    assert found.count("curve") == 2


def test_what_a_decoder_can_be_asked_is_refused_of_others(tmp_path, folder_of):
    folder = write_checkpoint(tmp_path / "bert")
    for attention in ("echo", "bidirectional"):
        with pytest.raises(InvalidParameterError, match=r"is for decoders.*no decoder \(bert\)"):
            ours(folder, attention=attention)
        with pytest.raises(InvalidParameterError, match="only a model of transformers can attend"):
            module = torch.nn.Embedding(150, 8)
            tokenizer = AutoTokenizer.from_pretrained(folder)
            ours(module, tokenizer=tokenizer, attention=attention)


def test_a_decoder_whose_files_say_that_it_sees_all_is_pooled_as_such(tmp_path):
    folder = write_checkpoint(tmp_path / "llama", "llama", is_causal=False)
    expected = np.stack([each.mean(0) for each in hidden_states(folder, ROWS)])
    np.testing.assert_allclose(ours(folder), expected, atol=1e-5, rtol=0)
    with pytest.raises(InvalidParameterError, match="a decoder whose files say so"):
        ours(folder, attention="echo")


def test_a_module_in_memory_attends_as_its_folder(folder_of):
    folder = folder_of("mistral")
    module = AutoModel.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for attention in ("bidirectional", "echo"):
        expected = ours(folder, ROWS[:3], attention=attention)
        found = ours(module, ROWS[:3], tokenizer=tokenizer, attention=attention, max_length=128)
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert getattr(module.config, "is_causal", None) is not False


def test_a_plain_decoder_is_told_of_once_and_not_when_it_is_meant(folder_of):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(2):
            ours(folder_of("qwen2"))
    (warning,) = seen
    assert warning.category is ModelWarning
    assert "made to write texts, not to embed them" in str(warning.message)
    for meant in ({"pooling": "last_token"}, {"attention": "echo"}, {"attention": "bidirectional"}):
        ours(folder_of("qwen3"), ROWS[:3], **meant)


def test_a_decoder_learns_with_lora_in_every_kind_of_attention(folder_of):
    rows = ["gradient descent", "the lazy dog"] * 8
    for attention in ("auto", "bidirectional", "echo"):
        embedder = TextEmbedder(
            folder_of("mistral"),
            dtype="float32",
            attention=attention,
            training=FineTune("lora", n_epochs=2, random_state=0),
        )
        embedder.fit(rows, [0, 1] * 8)
        assert embedder.history_["loss"][2] < embedder.history_["loss"][1]
        assert np.isfinite(embedder.transform(rows[:2])).all()


def test_a_bidirectional_decoder_is_exported_as_what_it_is(tmp_path, folder_of):
    training = FineTune("lora", n_epochs=1, random_state=0)
    embedder = TextEmbedder(
        folder_of("qwen2"), dtype="float32", attention="bidirectional", training=training
    )
    embedder.fit(["gradient descent", "the lazy dog"] * 4, [0, 1] * 4)
    embedder.export(tmp_path / "exported")
    model = SentenceTransformer(str(tmp_path / "exported"), device="cpu")
    found = model.encode(ROWS[:3], convert_to_numpy=True)
    np.testing.assert_allclose(found, embedder.transform(ROWS[:3]), atol=1e-5)
    echo = embedder.set_params(attention="echo").fit(["a dog", "a fox"] * 4, [0, 1] * 4)
    with pytest.raises(UnsupportedModelError, match="reads each text twice"):
        echo.export(tmp_path / "echo")
