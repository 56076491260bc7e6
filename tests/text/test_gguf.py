"""Decoders in a GGUF file, against transformers' own unpacking of it."""

import pickle

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from sklearn.base import clone
from tokenizers import pre_tokenizers
from transformers import AutoModel, AutoTokenizer

from skembed import FineTune, ImageEmbedder, TextEmbedder
from skembed.exceptions import (
    InvalidParameterError,
    MissingDependencyError,
    ModelNotFoundError,
    ModelWarning,
    UnsupportedModelError,
)
from tests.materials import material

ROWS = ["gradient descent", "a kernel density estimate with a gaussian kernel", "x", "naïve 朴素"]
WIDTH, N_HEADS, N_LAYERS = 32, 4, 2


def write_gguf(path, seed=0, **said):
    """Write a random Llama as llama.cpp's converter does, with a tokenizer of bytes."""
    random = np.random.default_rng(seed)
    writer = GGUFWriter(path, "llama")
    writer.add_name(path.stem)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(N_LAYERS)
    writer.add_feed_forward_length(64)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(WIDTH // N_HEADS)
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<s>", "</s>", "gr"]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 256 + [3, 3, 1])
    writer.add_token_merges(["g r"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    for name, value in said.items():
        writer.add_uint32(f"llama.{name}", value)

    def add(name, *shape):
        values = random.normal(size=shape, scale=0.3) if len(shape) > 1 else np.ones(shape)
        writer.add_tensor(name, values.astype(np.float32))

    add("token_embd.weight", len(tokens), WIDTH)
    add("output_norm.weight", WIDTH)
    for i in range(N_LAYERS):
        for name, *shape in (
            *(("attn_norm", WIDTH), ("ffn_norm", WIDTH)),
            *(("attn_q", WIDTH, WIDTH), ("attn_output", WIDTH, WIDTH)),
            *(("attn_k", WIDTH // 2, WIDTH), ("attn_v", WIDTH // 2, WIDTH)),
            *(("ffn_gate", 64, WIDTH), ("ffn_up", 64, WIDTH), ("ffn_down", WIDTH, 64)),
        ):
            add(f"blk.{i}.{name}.weight", *shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def plain(path):
    """Return the tokenizer and a function from token ids to states, of transformers alone."""
    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    model = AutoModel.from_pretrained(**where, dtype=torch.float32).eval()

    @torch.inference_mode()
    def states_of(ids):
        return model(torch.tensor([ids])).last_hidden_state[0].double().numpy()

    return AutoTokenizer.from_pretrained(**where), states_of


def ours(model, rows=ROWS, **params):
    params = {"dtype": "float32", "cache": None, "pooling": "last_token"} | params
    return TextEmbedder(model, **params).fit_transform(rows)


def check_against_plain(path, rows, atol):
    tokenizer, states_of = plain(path)
    states = [states_of(tokenizer(row)["input_ids"]) for row in rows]
    last = ours(path, rows)
    np.testing.assert_allclose(last, [each[-1] for each in states], atol=atol, rtol=1e-5)
    weights = [np.arange(1, len(each) + 1)[:, None] for each in states]
    expected = [(w * each).sum(0) / w.sum() for w, each in zip(weights, states, strict=True)]
    found = ours(path, rows, pooling="weighted_mean")
    np.testing.assert_allclose(found, expected, atol=atol, rtol=1e-5)
    pieces = ("Rewrite the following paragraph:", "\nThe rewritten paragraph:")
    echo = ours(path, rows, attention="echo", pooling="auto")
    for row, vector in zip(rows, echo, strict=True):
        # Both copies follow a colon and a space; the parts are tokenised apart.
        first, second, text = (
            tokenizer(part, add_special_tokens=False)["input_ids"] for part in (*pieces, f" {row}")
        )
        states = states_of([*first, *text, *second, *text])
        np.testing.assert_allclose(vector, states[-len(text) :].mean(0), atol=atol, rtol=1e-5)
    alone = np.vstack([ours(path, [row]) for row in rows])
    np.testing.assert_allclose(alone, last, atol=atol, rtol=0)


def test_vectors_equal_the_plain_forward_pass(gguf):
    check_against_plain(gguf, ROWS, atol=1e-5)


@pytest.mark.slow
def test_smollm2_equals_the_plain_forward_pass():
    path = material("smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"
    check_against_plain(path, ["The cat sleeps on the mat.", *ROWS], atol=1e-4)


def test_a_file_is_read_alone_whatever_lies_beside_it(gguf, tmp_path):
    expected = ours(gguf)
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "tiny.gguf").write_bytes(gguf.read_bytes())
    (folder / "tokenizer_config.json").write_text('{"add_bos_token": true, "bos_token": "a"}')
    (folder / "adapter_config.json").write_text("{}")
    np.testing.assert_allclose(ours(folder), expected, atol=1e-6)
    np.testing.assert_allclose(ours(str(folder / "tiny.gguf")), expected, atol=1e-6)


def test_a_folder_of_several_files_asks_for_one(gguf, tmp_path):
    for name in ("a.gguf", "b.GGUF"):
        (tmp_path / name).write_bytes(gguf.read_bytes())
    with pytest.raises(ModelNotFoundError, match=r"2 GGUF files \(a.gguf, b.GGUF\). Pass the path"):
        ours(tmp_path)


def test_what_is_no_file_of_the_kind_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"There is no .*x.gguf, which would be a GGUF"):
        ours("x.gguf")
    (tmp_path / "x.gguf").write_bytes(b"GG")
    with pytest.raises(ModelNotFoundError, match=r"'x.gguf' is not a GGUF file, though"):
        ours("x.gguf")
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(50))
    with pytest.raises(UnsupportedModelError, match=r"x.gguf"):
        ours("x.gguf")
    with pytest.raises(ModelNotFoundError, match="TextEmbedder reads such a file"):
        ImageEmbedder("x.gguf").fit([])


def test_the_pooling_that_a_file_names_is_its_own(gguf, tmp_path):
    tuned = write_gguf(tmp_path / "tuned.gguf", pooling_type=1)
    np.testing.assert_allclose(ours(tuned, pooling="auto"), ours(tuned, pooling="mean"), atol=1e-6)
    with pytest.warns(ModelWarning, match="made to write texts"):
        found = ours(gguf, pooling="auto")
    np.testing.assert_allclose(found, ours(gguf), atol=1e-6)


def test_the_file_is_the_model_in_clones_pickles_and_the_store(gguf, tmp_path):
    cache = tmp_path / "vectors"
    params = {"pooling": "last_token", "dtype": "float32", "cache": cache}
    embedder = TextEmbedder(gguf, **params)
    expected = embedder.fit_transform(ROWS)
    copy = pickle.loads(pickle.dumps(clone(embedder)))
    np.testing.assert_allclose(copy.fit_transform(ROWS), expected, atol=1e-6)
    assert copy.report_.n_encoded == 0
    other = TextEmbedder(write_gguf(tmp_path / "tiny.gguf", seed=1), **params)
    assert abs(other.fit_transform(ROWS) - expected).max() > 0.01
    assert other.report_.n_encoded == len(ROWS)


def test_parameters_that_mean_nothing_for_a_file_are_refused(gguf):
    for name, value, why in (
        ("revision", "main", "only models on the hub"),
        ("trust_remote_code", True, "holds no code"),
        ("dtype", "int4", "is read in another way"),
        ("device", "balanced", "is read in another way"),
    ):
        with pytest.raises(InvalidParameterError, match=why):
            ours(gguf, **{name: value})


def test_a_missing_package_is_named_with_its_extra(gguf, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    path = write_copy(gguf, tmp_path / "other.gguf")
    with pytest.raises(MissingDependencyError, match=r"other.gguf needs gguf.*skembed\[gguf\]"):
        ours(path)


def write_copy(gguf, path):
    """Copy a file and add a byte: another content, of which nothing is remembered."""
    path.write_bytes(gguf.read_bytes() + b"\0")
    return path


def test_a_file_can_be_trained_from_and_is_exported_as_a_folder(gguf, tmp_path):
    embedder = TextEmbedder(
        gguf,
        pooling="last_token",
        dtype="float32",
        training=FineTune("lora", n_epochs=1, random_state=0),
    )
    expected = embedder.fit_transform(["a", "b"] * 4, [0, 1] * 4)[:2]
    embedder.export(tmp_path / "exported")
    found = ours(tmp_path / "exported", ["a", "b"], pooling="auto")
    np.testing.assert_allclose(found, expected, atol=1e-5)
