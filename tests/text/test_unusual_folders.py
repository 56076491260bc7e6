"""Folders as people have them: limits, formats and attention that only the model tells of."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers as tf
from sklearn.base import clone

from skembed import TextEmbedder
from skembed.exceptions import (
    ModelNotFoundError,
    ModelWarning,
    SkembedWarning,
    TruncationWarning,
    UnsupportedModelError,
)
from tests.text.checkpoints import SHORT, write_checkpoint, write_tokenizer
from tests.text.reference import embeddings

N_POSITIONS = 66
LONG = "the quick brown fox jumps " * 40
ENDLESS = int(1e30)

SIZES = {
    "vocab_size": 150,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": N_POSITIONS,
    "pad_token_id": 1,
    "initializer_range": 0.3,
}
_MODULES = {"n_layer": 2, "n_head": 4, "n_embd": 32, "n_positions": N_POSITIONS}
_MPT = {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": N_POSITIONS}
_XGLM = {"d_model": 32, "ffn_dim": 64, "num_layers": 2, "attention_heads": 4}
_LLAMA4 = {
    "num_key_value_heads": 2,
    "head_dim": 8,
    "attention_chunk_size": 16,
    "intermediate_size_mlp": 64,
    "num_local_experts": 2,
    "num_experts_per_tok": 1,
}

# The configuration, and how many of its positions no token takes.
LIMITED = {
    "longformer": (tf.LongformerConfig(**SIZES, attention_window=16), 2),
    "luke": (tf.LukeConfig(**SIZES, entity_vocab_size=9, entity_emb_size=8), 2),
    "esm": (tf.EsmConfig(**SIZES, mask_token_id=4, position_embedding_type="absolute"), 2),
    "ibert": (tf.IBertConfig(**SIZES), 2),
    "xmod": (tf.XmodConfig(**SIZES, languages=["en_XX"], default_language="en_XX"), 2),
    "roberta-prelayernorm": (tf.RobertaPreLayerNormConfig(**SIZES), 2),
    "mpt": (tf.MptConfig(vocab_size=150, **_MPT), 0),
    "llama4": (tf.Llama4TextConfig(**SIZES, **_LLAMA4), 0),
}
IN_FLOAT32 = {
    "fnet": tf.FNetConfig(**SIZES),
    "mra": tf.MraConfig(**SIZES),
    "openai-gpt": tf.OpenAIGPTConfig(vocab_size=150, **_MODULES),
    "xglm": tf.XGLMConfig(vocab_size=150, pad_token_id=1, **_XGLM),
}


def write(folder, config):
    folder.mkdir()
    write_tokenizer(folder, max_length=ENDLESS)
    torch.manual_seed(0)
    tf.AutoModel.from_config(config).save_pretrained(folder)
    return folder


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "bert", num_hidden_layers=1)


@pytest.fixture
def folder(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "model")


@pytest.mark.parametrize("family", LIMITED)
def test_long_texts_are_cut_at_the_positions_of_the_model(tmp_path, family):
    config, n_unused = LIMITED[family]
    path, limit = write(tmp_path / family, config), N_POSITIONS - n_unused
    embedder = TextEmbedder(path, dtype="float32", pooling="mean", cache=None)
    with pytest.warns(TruncationWarning, match=f"cut at {limit} tokens"):
        vectors = embedder.transform([LONG, *SHORT])
    expected = np.vstack([embeddings(path, [text], max_length=limit) for text in [LONG, *SHORT]])
    np.testing.assert_allclose(vectors, expected, atol=1e-4 * abs(expected).max())


@pytest.mark.parametrize("family", IN_FLOAT32)
def test_families_that_fail_in_bfloat16_run_in_float32_with_a_word(tmp_path, family):
    path = write(tmp_path / family, IN_FLOAT32[family])
    embedder = TextEmbedder(path, pooling="last_token")
    exact = TextEmbedder(path, pooling="last_token", dtype="float32")
    if TextEmbedder().fit([]).dtype_ == "float32":
        vectors = embedder.transform(SHORT)
    else:
        with pytest.warns(ModelWarning, match="does not run in bfloat16 .*It runs in float32"):
            vectors = embedder.transform(SHORT)
        with pytest.raises(UnsupportedModelError, match="try dtype='float32'"):
            TextEmbedder(path, pooling="last_token", dtype="bfloat16").transform(SHORT)
    np.testing.assert_array_equal(vectors, exact.transform(SHORT))
    assert embedder.dtype_ == "float32"
    assert exact.report_.n_encoded == 0
    clone(embedder).warm_up().transform(SHORT)


def test_a_tokenizer_with_more_tokens_than_the_model_is_named_at_fit(folder):
    edit(folder / "config.json", vocab_size=90)
    with pytest.raises(UnsupportedModelError, match="number 99, but the model knows 90"):
        TextEmbedder(folder, on_error="nan").fit(["a"])


def test_an_end_of_text_token_that_only_the_settings_name_is_there(folder):
    edit(folder / "tokenizer.json", post_processor=None)
    edit(folder / "tokenizer_config.json", add_eos_token=True, eos_token="[SEP]")
    tokens = TextEmbedder(folder).fit(["a"]).encoder_.backbone.tokens
    assert (tokens.before, tokens.after) == ([], [3])


def test_a_model_that_judges_texts_is_pooled_with_a_word(folder):
    edit(folder / "config.json", architectures=["BertForSequenceClassification"])
    with pytest.warns(SkembedWarning, match=r"compare texts .*Use an embedding model, or set pool"):
        TextEmbedder(folder).fit(["a"])
    TextEmbedder(folder, pooling="mean").fit(["a"])


def test_an_adapter_alone_is_named(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match="a LoRA adapter: merge it into its base model"):
        TextEmbedder(tmp_path).fit(["a"])


def test_links_to_nothing_are_named(folder):
    (folder / "extra.json").symlink_to("nowhere")
    with pytest.raises(UnsupportedModelError, match=r"extra\.json is a link to a file that is not"):
        TextEmbedder(folder).fit(["a"])
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("nowhere")
    with pytest.raises(ModelNotFoundError, match=r"config\.json \(a broken link\)"):
        TextEmbedder(folder).fit(["a"])
