"""Models that are large: told and refused before they are read, spread over devices, in 4 bits."""

import numpy as np
import pytest
from transformers import AutoModel

from skembed import FineTune, ImageEmbedder, TextEmbedder
from skembed.exceptions import InvalidParameterError, MemoryWarning, UnsupportedModelError
from skembed.text import _large
from tests.text.checkpoints import TEXTS, write_checkpoint

ROWS = [text for text in TEXTS if text]
# Blocks of 64 numbers share a scale; on some processors, rows are taken 32 at a time.
WIDE = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("large") / "mistral", "mistral", **WIDE)


def ours(folder, **params):
    params = {"pooling": "mean", "on_truncate": "ignore", "cache": None, "device": "cpu"} | params
    return TextEmbedder(folder, **params)


def n_bytes(folder, each=4):
    model = AutoModel.from_pretrained(folder)
    return each * sum(parameter.numel() for parameter in model.parameters())


def test_a_model_beyond_the_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    folder = write_checkpoint(tmp_path / "mistral", "mistral")
    size = n_bytes(folder)
    monkeypatch.setattr(_large, "available_memory", lambda: size - 1)
    monkeypatch.setattr(_large, "_gib", "{} bytes".format)
    embedder = ours(folder, dtype="float32").fit(ROWS)
    message = (
        rf"does not fit: its weights take {size} bytes in float32, and device 'cpu' has {size - 1} "
        r"bytes free.*dtype='bfloat16'.*dtype='int4'.*smaller model"
    )
    with pytest.raises(UnsupportedModelError, match=message):
        embedder.transform(ROWS)


def test_a_model_beyond_half_of_the_memory_is_told_of(tmp_path, monkeypatch):
    folder = write_checkpoint(tmp_path / "mistral", "mistral")
    monkeypatch.setattr(_large, "available_memory", lambda: 2 * n_bytes(folder) - 1)
    with pytest.warns(MemoryWarning, match=r"GiB in float32, and device 'cpu' has .* GiB free"):
        ours(folder, dtype="float32").fit_transform(ROWS)


def test_nothing_is_said_where_there_is_room_or_nobody_knows(tmp_path, monkeypatch):
    for i, room in enumerate((1 << 40, None)):
        folder = write_checkpoint(tmp_path / f"mistral{i}", "mistral")
        monkeypatch.setattr(_large, "available_memory", lambda room=room: room)
        ours(folder, dtype="float32").fit_transform(ROWS)


def test_four_bits_stay_near_float32_and_rows_do_not_depend_on_each_other(folder):
    exact = ours(folder, dtype="float32").fit_transform(ROWS)
    embedder = ours(folder, dtype="int4")
    fast = embedder.fit_transform(ROWS)
    cosine = (exact * fast).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(fast, axis=1)
    assert cosine.min() > 0.8
    assert abs(exact - fast).max() > 1e-3
    assert embedder.dtype_ == "int4"
    alone = np.vstack([embedder.transform([row]) for row in ROWS])
    np.testing.assert_allclose(alone, fast, atol=0.02 * abs(fast).max(), rtol=0)


def test_four_bits_take_a_fraction_of_the_memory(folder):
    backbone = ours(folder, dtype="int4").fit(ROWS).encoder_.backbone
    assert backbone.n_bytes(_large.INT4) < 0.35 * n_bytes(folder)


def test_a_model_spread_over_what_there_is_gives_the_same_vectors(folder):
    embedder = ours(folder, device="balanced", dtype="float32")
    found = embedder.fit_transform(ROWS)
    expected = ours(folder, dtype="float32").fit_transform(ROWS)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    assert embedder.device_ == "balanced"
    alone = np.vstack([embedder.transform([row]) for row in ROWS])
    np.testing.assert_allclose(alone, found, atol=1e-5, rtol=0)


@pytest.mark.parametrize("large", [{"device": "balanced"}, {"dtype": "int4"}])
def test_what_is_spread_or_quantised_is_not_trained(folder, large):
    embedder = ours(folder, training=FineTune("lora"), **large)
    with pytest.raises(InvalidParameterError, match="cannot be trained here"):
        embedder.fit(["a", "b"] * 4, [0, 1] * 4)


def test_other_models_and_embedders_are_not_spread(tmp_path):
    with pytest.raises(InvalidParameterError, match="only TextEmbedder spreads a model"):
        ImageEmbedder("resnet18", weights=None, device="balanced").fit([])
    with pytest.raises(InvalidParameterError, match="alone, not in a list"):
        ours(write_checkpoint(tmp_path / "mistral", "mistral"), device=["balanced"]).fit([])
    with pytest.raises(InvalidParameterError, match="dtype='int4'"):
        ImageEmbedder("resnet18", weights=None, dtype="int4").fit([])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_the_gpu_runs_what_bitsandbytes_has_quantised(folder, dtype):
    exact = ours(folder, dtype="float32").fit_transform(ROWS)
    fast = ours(folder, dtype=dtype, device="cuda").fit_transform(ROWS)
    cosine = (exact * fast).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(fast, axis=1)
    assert cosine.min() > 0.8


@pytest.mark.gpu
def test_a_model_spread_over_gpus_gives_the_same_vectors(folder):
    found = ours(folder, device="balanced", dtype="float32").fit_transform(ROWS)
    expected = ours(folder, dtype="float32").fit_transform(ROWS)
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
