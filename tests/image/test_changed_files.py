"""Weights that are written anew: never mixed with others, never served the vectors of others."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision import models

from skembed import EmbeddingStore, ImageEmbedder, unload_models
from skembed.exceptions import UnsupportedModelError
from tests.image.checkpoints import settle, stir, write_checkpoint
from tests.image.networks import pictures
from tests.image.timm_folders import write_folder

IMAGES = pictures(3)
FILE = "model.safetensors"


def write_torchvision(folder, seed):
    """Save random weights; return what an embedder of them is made with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = models.squeezenet1_1(weights=None)
        stir(module)
        settle(module, torch.randn(4, 3, 64, 64))
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(module.state_dict(), folder / "weights.pth")
    return {"model": "squeezenet1_1", "weights": folder / "weights.pth"}


def write_transformers(folder, seed):
    write_checkpoint(folder, "vit")
    change_weights(folder / FILE, seed)
    return {"model": folder}


def write_timm(folder, seed):
    pytest.importorskip("timm")
    write_folder(folder, "test_resnet", seed=seed)
    return {"model": folder}


def write_timm_file(folder, seed):
    return {"model": "timm:test_resnet", "weights": write_timm(folder, seed)["model"] / FILE}


WRITERS = (write_torchvision, write_transformers, write_timm, write_timm_file)


def change_weights(path, seed):
    """Change every weight of a file of a model of transformers by its seed."""
    state = load_file(path)
    save_file({k: v * (1 + seed / 10) for k, v in state.items()}, path, metadata={"format": "pt"})


def make(settings, **params):
    return ImageEmbedder(**settings, **{"dtype": "float32", "cache": None, **params})


@pytest.fixture(autouse=True)
def no_models():
    """Let every test load its models itself."""
    unload_models()


class Interrupted(ImageEmbedder):
    """An embedder for which something happens after it has looked at the model's files."""

    happen = None

    def _check_rows(self, X):
        if self.happen is not None:
            self.happen()
        return super()._check_rows(X)


@pytest.mark.parametrize("write", WRITERS)
def test_weights_that_change_before_they_are_loaded_are_refused(tmp_path, write):
    embedder = Interrupted(**write(tmp_path, seed=1), dtype="float32", cache=EmbeddingStore())
    embedder.fit(IMAGES)
    embedder.happen = lambda: write(tmp_path, seed=2)
    with pytest.raises(UnsupportedModelError, match="changed while the model was in use"):
        embedder.transform(IMAGES)
    # Nothing of that call was kept.
    embedder.happen = None
    found = embedder.transform(IMAGES)
    assert embedder.report_.n_encoded == 3
    np.testing.assert_allclose(found, make(write(tmp_path / "b", seed=2)).transform(IMAGES))


@pytest.mark.parametrize("write", WRITERS)
def test_weights_that_change_between_fit_and_transform_are_those_of_transform(tmp_path, write):
    store = EmbeddingStore()
    embedder = make(write(tmp_path, seed=1), cache=store).fit(IMAGES)
    before = embedder.transform(IMAGES)
    write(tmp_path, seed=2)
    after = embedder.transform(IMAGES)
    assert embedder.report_.n_encoded == 3
    assert np.abs(after - before).max() > 0.01
    np.testing.assert_allclose(after, make(write(tmp_path / "b", seed=2)).transform(IMAGES))


@pytest.mark.parametrize("write", WRITERS)
def test_models_that_differ_in_weights_alone_do_not_share_vectors(tmp_path, write):
    store = EmbeddingStore()
    first = make(write(tmp_path / "a", seed=1), cache=store)
    second = make(write(tmp_path / "b", seed=2), cache=store)
    again = make(write(tmp_path / "c", seed=1), cache=store)
    vectors = first.transform(IMAGES)
    others = second.transform(IMAGES)
    assert second.report_.n_encoded == 3
    assert np.abs(vectors - others).max() > 0.01
    # By their content, not by where they are.
    np.testing.assert_array_equal(again.transform(IMAGES), vectors)
    assert again.report_.n_encoded == 0
    assert first.encoder_.digest == again.encoder_.digest != second.encoder_.digest


@pytest.mark.parametrize(
    "change",
    [
        {"mean": [0.4, 0.456, 0.406]},
        {"std": [0.2, 0.224, 0.225]},
        {"interpolation": "bicubic"},
        {"crop_pct": 0.5},
        {"crop_mode": "squash"},
        {"input_size": [3, 96, 96]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_timm_folders_that_prepare_pictures_otherwise_do_not_share_vectors(tmp_path, change):
    store = EmbeddingStore()
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        write_timm(folder, seed=1)
    config = json.loads((folders[1] / "config.json").read_text())
    known = config["pretrained_cfg"]
    assert all(known[name] != value for name, value in change.items())
    known.update(change)
    (folders[1] / "config.json").write_text(json.dumps(config))
    first, second = (make({"model": folder}, cache=store) for folder in folders)
    vectors, others = first.transform(IMAGES), second.transform(IMAGES)
    assert second.report_.n_encoded == 3
    assert first.encoder_.digest != second.encoder_.digest
    assert np.abs(vectors - others).max() > 1e-3


@pytest.mark.parametrize(
    "change",
    [{"image_mean": [0.4, 0.5, 0.5]}, {"image_std": [0.4, 0.5, 0.5]}, {"resample": 0}],
    ids=lambda change: next(iter(change)),
)
def test_folders_of_transformers_that_prepare_pictures_otherwise_do_not_share_vectors(
    tmp_path, change
):
    store = EmbeddingStore()
    first, second = (write_checkpoint(tmp_path / name, "vit") for name in "ab")
    settings = json.loads((second / "preprocessor_config.json").read_text())
    (second / "preprocessor_config.json").write_text(json.dumps({**settings, **change}))
    first, second = (make({"model": folder}, cache=store) for folder in (first, second))
    vectors, others = first.transform(IMAGES), second.transform(IMAGES)
    assert second.report_.n_encoded == 3
    assert first.encoder_.digest != second.encoder_.digest
    assert np.abs(vectors - others).max() > 1e-3
