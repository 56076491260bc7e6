"""The model before it is frozen: plain, trainable, the caller's own; one fast core for many."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from skembed import TextEmbedder, unload_models
from skembed.acceleration._linear import PackedLinear
from skembed.acceleration._tokens import FastTransformer
from skembed.exceptions import InvalidInputError
from skembed.modules import TokenTransformer
from skembed.text._models import DEFAULT_MODEL
from tests.text.checkpoints import TEXTS, write_checkpoint
from tests.text.test_towers import write_tower

# What the warning is about, of a Llama, is tested with the decoders.
pytestmark = pytest.mark.filterwarnings("ignore:.* made to write texts")


def backbone_of(model, **params):
    params = {"dtype": "float32", "on_truncate": "ignore", "cache": None} | params
    return TextEmbedder(model, **params).fit(["a"]).encoder_.backbone


def batch_of(backbone, texts=TEXTS):
    parts = sorted((backbone.prepare(text) for text in texts), key=len, reverse=True)
    return backbone.collate(parts)


def parameters_of(module):
    return {parameter.data_ptr() for parameter in module.parameters()}


@pytest.fixture(scope="module", params=["bert", "llama", "clip", "siglip"])
def backbone(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / request.param
    write = write_tower if request.param in ("clip", "siglip") else write_checkpoint
    return backbone_of(write(folder, request.param))


@pytest.fixture
def dropping(tmp_path):
    return backbone_of(write_checkpoint(tmp_path / "bert", hidden_dropout_prob=0.5))


def test_the_module_gives_the_encoders_vectors(backbone):
    module = backbone.load()
    parts = sorted((backbone.prepare(text) for text in TEXTS), key=len, reverse=True)
    with torch.no_grad():
        plain = module(backbone.collate(parts))
    embedder = TextEmbedder(
        backbone.source.folder, dtype="float32", on_truncate="ignore", cache=None
    )
    by_length = sorted(TEXTS, key=lambda text: len(backbone.prepare(text)), reverse=True)
    assert plain.dtype == torch.float32
    assert plain.shape == (len(TEXTS), backbone.width)
    np.testing.assert_allclose(plain.numpy(), embedder.transform(by_length), atol=1e-5, rtol=1e-5)


def test_the_default_models_module_gives_its_vectors():
    backbone = backbone_of(DEFAULT_MODEL)
    module = backbone.load()
    with torch.no_grad():
        plain = module(backbone.collate([backbone.prepare("gradient descent")]))
    vectors = TextEmbedder(dtype="float32", cache=None).transform(["gradient descent"])
    assert backbone.normalizes
    np.testing.assert_allclose(
        torch.nn.functional.normalize(plain).numpy(), vectors, atol=1e-5, rtol=0
    )


def test_gradients_reach_every_parameter(backbone):
    module = backbone.load()
    module(batch_of(backbone)).square().sum().backward()
    without = [name for name, each in module.named_parameters() if each.grad is None]
    assert without == []
    assert sum(float(each.grad.abs().sum()) for each in module.parameters()) > 0


def test_dropout_is_active_in_training_and_evaluation_is_exact(dropping):
    module, batch = dropping.load(), batch_of(dropping)
    with torch.no_grad():
        np.testing.assert_array_equal(module(batch), module(batch))
        module.train()
        assert abs(module(batch) - module(batch)).max() > 1e-3


def test_what_is_loaded_is_the_callers_own(backbone):
    first, second = backbone.load(), backbone.load()
    assert not parameters_of(first) & parameters_of(second)
    for parameter in first.parameters():
        parameter.data.zero_()
    assert any(parameter.abs().sum() > 0 for parameter in second.parameters())
    vectors = TextEmbedder(backbone.source.folder, dtype="float32", cache=None).transform(["a"])
    assert abs(vectors).max() > 0


def test_nothing_in_it_is_packed(backbone):
    TextEmbedder(backbone.source.folder, dtype="bfloat16", cache=None).transform(["a"])
    module = backbone.load()
    assert type(module.core) is TokenTransformer
    assert not [m for m in module.modules() if isinstance(m, (PackedLinear, FastTransformer))]
    assert module.core.model.config._attn_implementation in ("sdpa", "eager")
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert not module.training


def test_around_a_fast_core_no_weights_of_the_transformer_are_read(dropping, monkeypatch):
    core = dropping.load().core
    monkeypatch.setattr("skembed.text._transformers.load_pretrained", None)
    assert dropping.load(core=core).core is core


def test_poolings_share_one_core(tmp_path):
    folder = write_checkpoint(tmp_path / "bert")
    encoders = [
        TextEmbedder(folder, pooling=pooling, prompt=prompt, n_components=n).fit(["a"]).encoder_
        for pooling, prompt, n in [("mean", None, None), ("cls", None, 8), ("max", "find: ", None)]
    ]
    assert len({encoder.digest for encoder in encoders}) == 3
    assert len({id(encoder.core()) for encoder in encoders}) == 1


def test_the_same_backbone_is_found_until_the_files_change(tmp_path):
    folder = write_checkpoint(tmp_path / "bert")
    found = backbone_of(folder)
    for params in ({}, {"n_components": 3}, {"normalize": True}, {"dtype": "bfloat16"}):
        assert backbone_of(folder, **params) is found
    assert backbone_of(folder, on_truncate="mean_of_chunks") is found
    assert backbone_of(folder, pooling="cls") is not found
    assert backbone_of(shutil.copytree(folder, tmp_path / "copy")).digest == found.digest
    weights = load_file(folder / "model.safetensors")
    changed = {name: 2 * value for name, value in weights.items()}
    save_file(changed, folder / "model.safetensors", {"format": "pt"})
    assert backbone_of(folder) is not found
    assert backbone_of(folder).digest != found.digest


def test_training_cuts_long_texts_at_random_places(tmp_path):
    backbone = backbone_of(write_checkpoint(tmp_path / "bert"), max_length=9, prompt="a kernel ")
    text = TEXTS[4]
    whole = backbone_of(backbone.source.folder, prompt="a kernel ").prepare(text)[1:-1].tolist()
    n_prompt = len(backbone_of(backbone.source.folder).prepare("a kernel")) - 2
    rng = np.random.default_rng(0)
    cuts = [backbone.prepare(text, rng) for _ in range(40)]
    inner = whole[n_prompt:]
    n_kept = 7 - n_prompt
    windows = [inner[start : start + n_kept] for start in range(len(inner) - n_kept + 1)]
    for ids in cuts:
        assert ids[[0, -1]].tolist() == [2, 3]
        assert ids[1 : 1 + n_prompt].tolist() == whole[:n_prompt]
        assert ids[1 + n_prompt : -1].tolist() in windows
    assert len({tuple(ids) for ids in cuts}) > 5
    np.testing.assert_array_equal(backbone.prepare("x", rng), backbone.prepare("x"))


def test_a_text_of_no_tokens_is_refused(tmp_path):
    backbone = backbone_of(write_checkpoint(tmp_path / "bert"))
    backbone.tokens.before = backbone.tokens.after = []
    with pytest.raises(InvalidInputError, match="no tokens"):
        backbone.prepare("")


def test_autocast_of_the_caller_does_not_reach_vectors():
    embedder = TextEmbedder(dtype="float32", cache=None)
    expected = embedder.transform(["hello there", "the price is low"])
    unload_models()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = embedder.transform(["hello there", "the price is low"])
    np.testing.assert_array_equal(found, expected)


def test_a_model_counts_once_with_the_modules_around_it():
    unload_models()
    TextEmbedder(cache=None).transform(["hello there"])
    TextEmbedder(cache=None, pooling="cls").transform(["hello there"])
    assert unload_models() == 1
