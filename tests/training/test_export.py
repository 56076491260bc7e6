"""Exported folders: their own libraries give the same vectors, by the code on the card."""

import re
from importlib.metadata import version

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling
from sklearn.exceptions import NotFittedError
from torch import nn
from torchaudio import pipelines
from torchvision.models import MobileNet_V2_Weights, mobilenet_v2
from transformers import AutoModel

from skembed import AudioEmbedder, FineTune, ImageEmbedder, TextEmbedder, unload_models
from skembed.exceptions import InvalidParameterError, UnsupportedModelError
from skembed.image import _torchvision
from tests.audio import checkpoints as sound_checkpoints
from tests.audio import networks as sound_networks
from tests.audio.test_torchaudio import SMALL
from tests.image import checkpoints as image_checkpoints
from tests.image import networks as image_networks
from tests.image.timm_folders import write_folder
from tests.text import checkpoints as text_checkpoints
from tests.text.test_towers import LIMIT, write_tower

FLOAT32 = {"dtype": "float32", "cache": None}
TEXTS = [text for text in text_checkpoints.TEXTS if text]
METHODS = [None, "head", "lora", "full"]
CLASSES = ["a", "b"]


def fitted(embedder, rows):
    return embedder.fit(rows, (CLASSES * len(rows))[: len(rows)])


def training(method, **changes):
    if method is None:
        return None
    options = {"n_epochs": 1, "batch_size": 4, "learning_rate": 0.01}
    options |= {"validation_fraction": None, "dtype": "float32"}
    return FineTune(method, **options, **changes)


def vectors_of_card(folder, monkeypatch, **rows):
    """Run the Python on a folder's card, and return the vectors that it makes."""
    monkeypatch.chdir(folder)
    card = (folder / "README.md").read_text(encoding="utf-8")
    names = dict(rows)
    exec(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1], names)
    return names["vectors"].numpy()


def embedder_of_card(folder, monkeypatch, **names):
    """Return the embedder that a folder's card makes."""
    monkeypatch.chdir(folder)
    card = (folder / "README.md").read_text(encoding="utf-8")
    exec(re.findall(r"```python\n(.*?)```", card, re.DOTALL)[1], names)
    return names["embedder"].set_params(**FLOAT32)


def check(embedder, rows, tmp_path, monkeypatch, name, near=1e-5, **names):
    """Check that a card's code, and the embedder it names, give an embedder's vectors."""
    expected = embedder.transform(rows)
    folder = embedder.export(tmp_path / "exported")
    found = vectors_of_card(folder, monkeypatch, **{name: rows}, **names)
    near *= max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found, expected, rtol=0, atol=near)
    if not (folder / "projection.safetensors").exists():
        again = embedder_of_card(folder, monkeypatch, **names)
        np.testing.assert_allclose(again.transform(rows), expected, rtol=0, atol=near)
    return folder


# Texts ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.* made to write texts")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_sentence_transformers_agrees_on_texts(family, method, tmp_path, monkeypatch):
    model = text_checkpoints.write_checkpoint(tmp_path / family, family)
    embedder = TextEmbedder(model, training=training(method), normalize=True, **FLOAT32)
    check(fitted(embedder, TEXTS), TEXTS, tmp_path, monkeypatch, "texts")


@pytest.mark.parametrize("family", sorted(set(text_checkpoints.FAMILIES) - {"bert", "llama"}))
def test_sentence_transformers_agrees_on_every_family(family, tmp_path, monkeypatch):
    model = text_checkpoints.write_checkpoint(tmp_path / family, family)
    embedder = TextEmbedder(model, training=training("full"), **FLOAT32)
    check(fitted(embedder, TEXTS), TEXTS, tmp_path, monkeypatch, "texts")


@pytest.mark.parametrize(
    "options",
    [
        {"n_components": 7},
        {"n_components": 7, "normalize": True},
        {"prompt": "fit a curve: ", "max_length": 12, "on_truncate": "ignore"},
        {"pooling": "weighted_mean"},
        {"pooling": "cls", "normalize": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("method", [None, "head"])
def test_settings_of_texts_are_in_the_folder(options, method, tmp_path, monkeypatch):
    model = text_checkpoints.write_checkpoint(tmp_path / "bert")
    embedder = TextEmbedder(model, training=training(method), **options, **FLOAT32)
    folder = check(fitted(embedder, TEXTS), TEXTS, tmp_path, monkeypatch, "texts")
    options = {"on_truncate": "ignore", **FLOAT32}
    found = TextEmbedder(folder, **options).fit_transform(TEXTS)
    np.testing.assert_allclose(found, embedder.transform(TEXTS), rtol=0, atol=1e-5)


def test_automodel_loads_the_trained_weights(tmp_path):
    model = text_checkpoints.write_checkpoint(tmp_path / "bert")
    embedder = fitted(TextEmbedder(model, training=training("full"), **FLOAT32), TEXTS)
    loaded = AutoModel.from_pretrained(embedder.export(tmp_path / "exported"))
    state = {f"core.model.{name}": value for name, value in loaded.state_dict().items()}
    trained = embedder.trained_.arrays
    assert len(trained) > 40
    for name, array in trained.items():
        np.testing.assert_array_equal(state[name].numpy(), array)


@pytest.mark.parametrize("method", [None, "full"])
def test_a_trained_head_of_the_checkpoint_is_written(method, tmp_path, monkeypatch):
    model = text_checkpoints.write_checkpoint(tmp_path / "bert")
    parts = [Transformer(str(model)), Pooling(32, "cls"), Dense(32, 8), LayerNorm(8), Normalize()]
    SentenceTransformer(modules=parts, device="cpu").save_pretrained(str(tmp_path / "whole"))
    embedder = TextEmbedder(tmp_path / "whole", training=training(method), **FLOAT32)
    check(fitted(embedder, TEXTS), TEXTS, tmp_path, monkeypatch, "texts")


def test_a_sentence_transformer_in_memory_is_written(tmp_path, monkeypatch):
    model = text_checkpoints.write_checkpoint(tmp_path / "bert")
    parts = [Transformer(str(model)), Pooling(32, "max"), Dense(32, 8)]
    model = SentenceTransformer(modules=parts, device="cpu")
    embedder = TextEmbedder(model, training=training("full"), **FLOAT32)
    check(fitted(embedder, TEXTS), TEXTS, tmp_path, monkeypatch, "texts")


@pytest.mark.parametrize("options", [{}, {"pooling": "mean"}], ids=str)
def test_the_texts_part_of_clip_ends_in_a_dense_module(options, tmp_path, monkeypatch):
    model = write_tower(tmp_path / "clip", "clip")
    rows = [text for text in TEXTS if len(text) < LIMIT]
    embedder = TextEmbedder(model, training=training("full"), **options, **FLOAT32)
    check(fitted(embedder, rows), rows, tmp_path, monkeypatch, "texts")


def test_a_text_model_that_reads_padding_is_refused(tmp_path):
    model = write_tower(tmp_path / "siglip", "siglip")
    with pytest.raises(UnsupportedModelError, match="reads padding as it reads words"):
        TextEmbedder(model, **FLOAT32).export(tmp_path / "exported")
    assert [path.name for path in tmp_path.iterdir()] == ["siglip"]


# Pictures -------------------------------------------------------------------------------

IMAGES = [Image.fromarray(each) for each in image_networks.pictures(4, sizes=((60, 90), (91, 47)))]


@pytest.mark.parametrize("family", ["vit", "resnet", "clip", "siglip", "vit-mae", "chinese-clip"])
def test_transformers_agrees_on_pictures(family, tmp_path, monkeypatch):
    folder = image_checkpoints.write_checkpoint(tmp_path / family, family)
    embedder = ImageEmbedder(folder, training=training("full"), **FLOAT32)
    check(fitted(embedder, IMAGES), IMAGES, tmp_path, monkeypatch, "images")


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("head", {"pooling": "mean", "normalize": True, "n_components": 5}),
        ("lora", {"pooling": "cls+mean"}),
        ("full", {"layer": 1, "pooling": "max"}),
        (None, {"layer": "layernorm", "pooling": "cls"}),
    ],
    ids=str,
)
def test_the_card_pools_cuts_projects_and_scales(method, options, tmp_path, monkeypatch):
    folder = image_checkpoints.write_checkpoint(tmp_path / "vit", "vit")
    embedder = ImageEmbedder(folder, training=training(method), **options, **FLOAT32)
    folder = check(fitted(embedder, IMAGES), IMAGES, tmp_path, monkeypatch, "images")
    assert (folder / "projection.safetensors").exists() == (method == "head")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("squeezenet1_1", {}),
        ("resnet18", {}),
        ("resnet18", {"layer": "layer2"}),
        ("mnasnet0_5", {}),
        ("googlenet", {}),
    ],
    ids=str,
)
def test_torchvision_agrees(name, options, tmp_path, monkeypatch):
    embedder = ImageEmbedder(name, weights=None, **options, **FLOAT32)
    check(embedder, IMAGES, tmp_path, monkeypatch, "images")


def test_torchvision_agrees_after_training(tmp_path, monkeypatch):
    embedder = ImageEmbedder("squeezenet1_1", weights=None, training=training("full"), **FLOAT32)
    before = ImageEmbedder("squeezenet1_1", weights=None, **FLOAT32).transform(IMAGES)
    folder = check(fitted(embedder, IMAGES), IMAGES, tmp_path, monkeypatch, "images")
    assert np.abs(embedder.transform(IMAGES) - before).max() > 1e-3
    assert all(name.startswith("features.") for name in load_file(folder / "model.safetensors"))


def test_exported_weights_keep_the_preset_of_those_they_were_trained_from(tmp_path, monkeypatch):
    member = MobileNet_V2_Weights.IMAGENET1K_V1
    monkeypatch.setattr(_torchvision, "find_checkpoint", lambda url: tmp_path / "published.pth")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(mobilenet_v2().state_dict(), tmp_path / "published.pth")
    embedder = ImageEmbedder("mobilenet_v2", weights=member.name, layer="features.1", **FLOAT32)
    expected = embedder.transform(IMAGES)
    weights = embedder.export(tmp_path / "exported") / "model.safetensors"
    other = ImageEmbedder("mobilenet_v2", weights=weights, layer="features.1", **FLOAT32)
    np.testing.assert_allclose(other.transform(IMAGES), expected, rtol=0, atol=1e-5)
    default = ImageEmbedder("mobilenet_v2", weights="DEFAULT", layer="features.1", **FLOAT32)
    assert np.abs(default.transform(IMAGES) - expected).max() > 1e-3


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {"pooling": "mean"}),
        ("convnext_atto", {"layer": "stages.1"}),
        ("resnet10t", {}),
    ],
    ids=str,
)
def test_timm_agrees(name, options, tmp_path, monkeypatch):
    write_folder(tmp_path / name, name)
    embedder = ImageEmbedder(tmp_path / name, training=training("full"), **options, **FLOAT32)
    check(fitted(embedder, IMAGES), IMAGES, tmp_path, monkeypatch, "images")


# Sounds ---------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["wav2vec2", "wav2vec2-ctc", "sew", "whisper", "clap", "ast"])
def test_transformers_agrees_on_sounds(family, tmp_path, monkeypatch):
    folder = sound_checkpoints.write_checkpoint(tmp_path / family, family)
    rate, rows = sound_checkpoints.rate_of(folder), sound_checkpoints.sounds(folder)
    options = {"sampling_rate": rate, **FLOAT32}
    embedder = AudioEmbedder(folder, training=training("full"), **options)
    check(fitted(embedder, rows), rows, tmp_path, monkeypatch, "clips")


@pytest.mark.parametrize("layer", [None, 0, 2])
@pytest.mark.parametrize("name", ["WAV2VEC2_LARGE_LV60K", "WAVLM_BASE_PLUS"])
def test_torchaudio_agrees(name, layer, tmp_path, monkeypatch):
    unload_models()  # backbones of the bundles as they are
    bundle = getattr(pipelines, name)
    monkeypatch.setattr(bundle, "_params", {**bundle._params, **SMALL})
    rows = sound_checkpoints.clips(0.7, 1.1, 0.7, 0.4)
    options = {"weights": None, "layer": layer, "pooling": "mean+std", "sampling_rate": 16_000}
    embedder = AudioEmbedder(name, training=training("full"), **options, **FLOAT32)
    check(fitted(embedder, rows), rows, tmp_path, monkeypatch, "clips")
    unload_models()  # those of the small bundle


# Modules of the user --------------------------------------------------------------------


class Words(nn.Module):
    """States of tokens, by themselves."""

    def __init__(self):
        super().__init__()
        self.states = nn.Embedding(150, 6)

    def forward(self, input_ids):
        return self.states(input_ids)


def own_modules(folder):
    """Yield each room's embedder of a module of the user's, its module, and rows."""
    options = {"training": training("full"), **FLOAT32}
    tokenizer = text_checkpoints.write_tokenizer(folder)
    words, pictures, sounds = Words(), image_networks.TinyNetwork(), sound_networks.TinyNetwork()
    prepare = image_networks.to_small_pixels
    return {
        "text": (TextEmbedder(words, tokenizer=tokenizer, **options), words, TEXTS),
        "image": (ImageEmbedder(pictures, preprocess=prepare, **options), pictures, IMAGES),
        "audio": (
            AudioEmbedder(sounds, layer="norm", sampling_rate=16_000, **options),
            sounds,
            sound_networks.clips(4),
        ),
    }


@pytest.mark.parametrize("room", ["text", "image", "audio"])
def test_a_module_of_the_users_loads_its_state_dict_by_its_own_names(room, tmp_path):
    embedder, module, rows = own_modules(tmp_path / "tokenizer")[room]
    before = {name: value.clone() for name, value in module.state_dict().items()}
    expected = fitted(embedder, rows).transform(rows)
    folder = embedder.export(tmp_path / "exported")
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    module.load_state_dict(load_file(folder / "model.safetensors"))
    again = embedder.set_params(model=module, training=None)
    np.testing.assert_allclose(again.transform(rows), expected, rtol=0, atol=1e-5)


# Folders --------------------------------------------------------------------------------


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InvalidParameterError, match=r"empty folder, but it holds notes\.txt"):
        TextEmbedder(**FLOAT32).export(tmp_path)
    with pytest.raises(InvalidParameterError, match="there is a file of this name"):
        TextEmbedder(**FLOAT32).export(tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_export_that_fails_leaves_nothing(tmp_path, monkeypatch):
    model = text_checkpoints.write_checkpoint(tmp_path / "bert")

    def fail(*args):
        raise OSError("the disk is full")

    monkeypatch.setattr("skembed.text._export.write_state", fail)
    with pytest.raises(OSError, match="the disk is full"):
        fitted(TextEmbedder(model, training=training("head"), **FLOAT32), TEXTS).export(
            tmp_path / "exported"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["bert"]


def test_an_empty_folder_is_taken(tmp_path):
    model = text_checkpoints.write_checkpoint(tmp_path / "bert")
    (tmp_path / "exported").mkdir()
    folder = TextEmbedder(model, **FLOAT32).export(str(tmp_path / "exported"))
    assert (folder / "modules.json").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bert", "exported"]


def test_an_embedder_that_is_to_be_trained_is_fitted_first(tmp_path):
    with pytest.raises(NotFittedError, match=r"has not been fitted; call fit\(X, y\) first"):
        TextEmbedder(training=training("full")).export(tmp_path / "exported")


def test_a_baseline_has_nothing_to_export(tmp_path):
    with pytest.raises(UnsupportedModelError, match="logmel has no weights"):
        AudioEmbedder("logmel").export(tmp_path / "exported")


def test_the_card_names_what_it_was_made_of(tmp_path):
    model = text_checkpoints.write_checkpoint(tmp_path / "bert")
    embedder = fitted(TextEmbedder(model, training=training("full"), **FLOAT32), TEXTS)
    card = (embedder.export(tmp_path / "exported") / "README.md").read_text()
    assert f"base model: {model}" in card
    assert "trained by `FineTune('full')` for 1 epoch" in card
    assert f"torch {version('torch')}" in card


def test_sentence_transformers_reads_a_default_prompt(tmp_path):
    model = text_checkpoints.write_checkpoint(tmp_path / "bert")
    folder = TextEmbedder(model, prompt="fit a curve: ", **FLOAT32).export(tmp_path / "exported")
    loaded = SentenceTransformer(str(folder))
    assert loaded.prompts[loaded.default_prompt_name] == "fit a curve: "
