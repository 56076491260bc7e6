"""Files of a model that are overwritten, cut short or replaced, after loading and during it."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torchvision.models import shufflenet_v2_x0_5
from transformers import AutoModel

from skembed import AudioEmbedder, EmbeddingStore, ImageEmbedder, TextEmbedder
from skembed.exceptions import UnsupportedModelError
from skembed.weights import _load, _pretrained, unload_models
from tests.audio.checkpoints import write_checkpoint as write_audio
from tests.image.checkpoints import write_checkpoint as write_image
from tests.text.checkpoints import SHORT, write_checkpoint


@pytest.fixture(params=["safetensors", "shards", "zip", "pickle"])
def folder(request, tmp_path):
    """A model of texts with its weights in one of the formats."""
    path = write_checkpoint(tmp_path / "model", num_hidden_layers=1)
    weights = path / "model.safetensors"
    if request.param == "shards":
        model = AutoModel.from_pretrained(path)
        model.save_pretrained(path, max_shard_size="20KB")
    elif request.param != "safetensors":
        is_zip = request.param == "zip"
        state = {name: value.clone() for name, value in load_file(weights).items()}
        torch.save(state, path / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)
    if request.param != "safetensors":
        weights.unlink()
    return path


def embed(folder, cache=None):
    return TextEmbedder(folder, dtype="float32", cache=cache).transform(SHORT)


def rewrite(path):
    data = bytearray(path.read_bytes())
    with path.open("r+b") as file:  # the same inode, as `cp` does
        file.write(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def replace(path):
    other = path.with_name("other")
    other.write_bytes(path.read_bytes()[:-8] + bytes(8))
    other.replace(path)


DAMAGES = [rewrite, truncate, replace]


def test_files_changed_after_loading_change_no_vector(folder, tmp_path):
    untouched = shutil.copytree(folder, tmp_path / "untouched")
    unload_models()
    expected = embed(folder)
    for damage in DAMAGES:
        for path in [*folder.glob("*.safetensors"), *folder.glob("*.bin")]:
            damage(path)
        np.testing.assert_array_equal(embed(untouched), expected)  # of one content: one copy


@pytest.mark.parametrize(
    "damage, is_restored", [*((each, False) for each in DAMAGES), (rewrite, True)]
)
def test_files_changed_during_loading_are_refused_and_nothing_is_stored(
    folder, monkeypatch, damage, is_restored
):
    expected, store = embed(folder), EmbeddingStore()
    unload_models()
    originals = {path: path.read_bytes() for path in folder.iterdir()}

    def load_state(path, *wanted):
        damage(path)
        try:
            return _load.load_state(path, *wanted)
        finally:
            if is_restored:
                path.write_bytes(originals[path])

    with monkeypatch.context() as patched:
        patched.setattr(_pretrained, "load_state", load_state)
        with pytest.raises(UnsupportedModelError, match=r"changed while.*Call again"):
            embed(folder, store)
    for path, data in originals.items():
        path.write_bytes(data)
    np.testing.assert_allclose(embed(folder, store), expected, atol=1e-6)


def make_texts(folder):
    return TextEmbedder(write_checkpoint(folder / "model")), ["a text"]


def make_pictures(folder):
    return ImageEmbedder(write_image(folder / "model", "vit")), [np.zeros((32, 32, 3), np.uint8)]


def make_named_pictures(folder):
    path = folder / "weights.pth"
    torch.save(shufflenet_v2_x0_5().state_dict(), path)
    model = "shufflenet_v2_x0_5"
    return ImageEmbedder(model, weights=path), [np.zeros((32, 32, 3), np.uint8)]


def make_timm(folder):
    timm = pytest.importorskip("timm")
    path = folder / "weights.pth"
    torch.save(timm.create_model("mobilenetv3_small_050").state_dict(), path)
    embedder = ImageEmbedder("timm:mobilenetv3_small_050", weights=path)
    return embedder, [np.zeros((32, 32, 3), np.uint8)]


def make_sounds(folder):
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    return AudioEmbedder(write_audio(folder / "model", "wav2vec2"), sampling_rate=16_000), [noise]


@pytest.mark.skipif(sys.platform != "linux", reason="asks the system what is mapped")
@pytest.mark.parametrize(
    "make", [make_texts, make_pictures, make_named_pictures, make_timm, make_sounds]
)
def test_no_file_of_a_model_stays_mapped(tmp_path, make):
    embedder, rows = make(tmp_path)
    embedder.set_params(dtype="float32", cache=None).fit_transform(rows)
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
