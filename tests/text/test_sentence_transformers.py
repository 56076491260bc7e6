"""Folders of sentence-transformers, against sentence-transformers itself."""

import json
import shutil

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

from skembed import TextEmbedder
from skembed.exceptions import (
    InvalidParameterError,
    UnsafeModelError,
    UnsupportedModelError,
)
from skembed.weights import resolve_model
from tests.text.checkpoints import TEXTS, write_checkpoint

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
DOCUMENTS = [
    *TEXTS,
    "Naïve Bayes — 朴素贝叶斯 🙂",
    "word " * 700,
    "  leading and trailing space\n\n",
    "[SEP] [MASK] special words [CLS]",
    np.__doc__,
    np.linalg.svd.__doc__,
]


@pytest.fixture(scope="module")
def minilm():
    return resolve_model(MINILM).folder


def reference(folder, texts=DOCUMENTS, **settings):
    model = SentenceTransformer(str(folder), device="cpu")
    return model.encode(list(texts), show_progress_bar=False, **settings)


def ours(folder, texts=DOCUMENTS, **params):
    params = {"dtype": "float32", "on_truncate": "ignore", "cache": None} | params
    return TextEmbedder(folder, **params).transform(texts)


@pytest.fixture
def built(tmp_path):
    """Save a chain of modules with sentence-transformers; return the folder."""

    def build(*modules, **settings):
        checkpoint = write_checkpoint(tmp_path / "checkpoint")
        chain = [Transformer(str(checkpoint)), *modules]
        model = SentenceTransformer(modules=chain, device="cpu", **settings)
        model.save(str(tmp_path / "model"))
        return tmp_path / "model"

    return build


def test_minilm_equals_sentence_transformers(minilm):
    vectors = ours(minilm)
    np.testing.assert_allclose(vectors, reference(minilm), atol=1e-5, rtol=0)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_minilm_in_bfloat16_points_the_same_way(minilm):
    vectors = ours(minilm, dtype="bfloat16")
    assert (vectors * reference(minilm)).sum(1).min() > 0.9995


def test_minilm_in_bfloat16_keeps_its_stated_invariance(minilm):
    together = ours(minilm, dtype="bfloat16")
    alone = np.vstack([ours(minilm, [text], dtype="bfloat16") for text in DOCUMENTS])
    np.testing.assert_allclose(alone, together, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    "mode", ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
)
def test_every_pooling_of_a_folder_is_read(built, mode):
    folder = built(Pooling(32, pooling_mode=mode))
    np.testing.assert_allclose(ours(folder), reference(folder), atol=2e-5, rtol=1e-5)


def test_several_poolings_are_joined_in_order(built):
    folder = built(Pooling(32, pooling_mode=("cls", "max", "mean")))
    vectors = ours(folder)
    assert vectors.shape[1] == 96
    np.testing.assert_allclose(vectors, reference(folder), atol=2e-5, rtol=1e-5)


def test_pooling_flags_of_older_releases_are_read(built):
    folder = built(Pooling(32, pooling_mode="mean"))
    config = {
        "word_embedding_dimension": 32,
        "pooling_mode_cls_token": True,
        "pooling_mode_mean_tokens": False,
        "pooling_mode_max_tokens": True,
    }
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    np.testing.assert_allclose(ours(folder), reference(folder), atol=2e-5, rtol=1e-5)


def test_dense_layers_norms_and_unit_length_follow(built):
    torch.manual_seed(0)
    folder = built(
        Pooling(32),
        Dense(32, 48, activation_function=torch.nn.GELU()),
        LayerNorm(48),
        Dense(48, 16, bias=False, activation_function=torch.nn.Identity()),
        Normalize(),
    )
    np.testing.assert_allclose(ours(folder), reference(folder), atol=1e-5, rtol=0)
    raw = ours(folder, normalize=False)
    np.testing.assert_allclose(
        raw / np.linalg.norm(raw, axis=1, keepdims=True), reference(folder), atol=1e-5, rtol=0
    )


def test_a_default_prompt_is_used_and_can_be_changed(built):
    prompts = {"query": "find: ", "passage": "text: "}
    folder = built(Pooling(32), prompts=prompts, default_prompt_name="query")
    expected = {name: reference(folder, prompt_name=name) for name in prompts}
    for prompt, name in [("auto", "query"), ("passage", "passage"), ("text: ", "passage")]:
        np.testing.assert_allclose(ours(folder, prompt=prompt), expected[name], atol=1e-5, rtol=0)
    with pytest.raises(InvalidParameterError, match=r"'passage', 'query'.*Did you mean 'query'\?"):
        ours(folder, prompt="qury")
    plain = ours(folder, prompt=None)
    np.testing.assert_allclose(plain, reference(folder, prompt=""), atol=1e-5, rtol=0)
    assert abs(plain - expected["query"]).max() > 1e-2


def test_a_prompt_can_be_left_out_of_the_pooling(built):
    folder = built(Pooling(32, include_prompt=False), prompts={"query": "find the text: "})
    expected = reference(folder, prompt_name="query")
    np.testing.assert_allclose(ours(folder, prompt="query"), expected, atol=1e-5, rtol=0)


def test_the_folders_maximum_length_is_kept(built, tmp_path):
    folder = built(Pooling(32))
    config = json.loads((folder / "sentence_bert_config.json").read_text())
    config["max_seq_length"] = 9
    (folder / "sentence_bert_config.json").write_text(json.dumps(config))
    np.testing.assert_allclose(ours(folder), reference(folder), atol=1e-5, rtol=0)
    assert TextEmbedder(folder).fit(["a"]).encoder_.limit == 9


def test_texts_are_cut_on_the_side_that_the_tokenizer_says(built):
    folder = built(Pooling(32))
    for name, change in [
        ("tokenizer_config.json", {"truncation_side": "left"}),
        ("sentence_bert_config.json", {"max_seq_length": 8}),
    ]:
        config = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(config | change))
    np.testing.assert_allclose(ours(folder), reference(folder), atol=1e-5, rtol=0)


def test_texts_are_lower_cased_where_the_folder_says(built):
    folder = built(Pooling(32))
    config = json.loads((folder / "sentence_bert_config.json").read_text())
    (folder / "sentence_bert_config.json").write_text(json.dumps(config | {"do_lower_case": True}))
    texts = ["GAUSSIAN Kernel", "gaussian kernel"]
    vectors = ours(folder, texts)
    np.testing.assert_allclose(vectors, reference(folder, texts), atol=1e-5, rtol=0)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=2e-6, rtol=0)


def test_leading_components_are_renormalised(minilm):
    full, short = ours(minilm), ours(minilm, n_components=64)
    expected = full[:, :64] / np.linalg.norm(full[:, :64], axis=1, keepdims=True)
    assert short.shape[1] == 64
    np.testing.assert_allclose(short, expected, atol=1e-6)


def test_leading_components_are_kept_where_the_folder_says(built):
    folder = built(Pooling(32), truncate_dim=8)
    np.testing.assert_allclose(ours(folder), reference(folder), atol=1e-5, rtol=0)
    assert ours(folder).shape[1] == 8
    assert ours(folder, n_components=20).shape[1] == 20


def test_a_residual_layer_is_refused(built):
    folder = built(Pooling(32), Dense(32, 16))
    path = folder / "2_Dense" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_residual": True}))
    with pytest.raises(UnsupportedModelError, match="use_residual=True"):
        ours(folder)


def test_a_module_of_foreign_code_is_refused(minilm, tmp_path):
    folder = shutil.copytree(minilm, tmp_path / "model")
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "custom_st.Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UnsafeModelError, match=r"custom_st\.Transformer, which is custom code"):
        ours(folder)


def test_a_chain_that_is_not_known_is_refused(minilm, tmp_path):
    folder = shutil.copytree(minilm, tmp_path / "model")
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "sentence_transformers.models.CNN"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UnsupportedModelError, match="chains the modules Transformer, CNN"):
        ours(folder)


def test_an_activation_of_foreign_code_is_refused(built):
    folder = built(Pooling(32), Dense(32, 16))
    path = folder / "2_Dense" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"activation_function": "os.system"}))
    with pytest.raises(UnsafeModelError, match=r"activation os\.system"):
        ours(folder)
