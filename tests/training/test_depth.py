"""Frozen blocks: which they are in models of all families, and what they give, computed once."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models
from transformers import BertConfig, BertModel, Wav2Vec2Config, Wav2Vec2Model

from skembed import FineTune, ImageEmbedder, TextEmbedder
from skembed.exceptions import InvalidParameterError
from skembed.training import _loop
from skembed.training._depth import freeze_lowest
from tests.image.checkpoints import write_checkpoint
from tests.image.networks import pictures

PETS = ["a cat", "a kitten that sleeps", "a dog", "a puppy"]
MONEY = ["a bill", "a tax return of last year", "a fee", "a fine"]
X, Y = (PETS + MONEY) * 2, (["pet"] * 4 + ["money"] * 4) * 2


def tiny_vit():
    return models.VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=2)


def tiny_wav2vec2():
    config = Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=24,
        conv_dim=(8, 8),
        conv_kernel=(10, 3),
        conv_stride=(5, 2),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        mask_time_prob=0.0,
        mask_feature_prob=0.0,
    )
    return Wav2Vec2Model(config)


def three_layers():
    return nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))


PICTURE = torch.zeros(2, 3, 32, 32)
FAMILIES = {
    # Makes a model, its input, how many blocks are frozen, and where names of those trained begin.
    "resnet": (models.resnet18, PICTURE, 3, ("layer2.1", "layer3", "layer4", "fc")),
    "vit": (tiny_vit, PICTURE, 2, ("encoder.layers.encoder_layer_2", "encoder.ln", "heads")),
    "squeezenet": (models.squeezenet1_1, PICTURE, 7, ("features.11", "features.12", "classifier")),
    "wav2vec2": (tiny_wav2vec2, torch.zeros(2, 400), 2, ("encoder.layers.2",)),
    "layers": (three_layers, torch.zeros(2, 3), 1, ("2.",)),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_lowest_blocks_and_all_before_them_are_frozen(family):
    make, batch, n, expected = FAMILIES[family]
    model = make().eval()
    freeze_lowest(model, n, lambda: model(batch), "it")
    trained = [name for name, each in model.named_parameters() if each.requires_grad]
    assert trained == [name for name, _ in model.named_parameters() if name.startswith(expected)]


def test_more_blocks_than_there_are_is_an_error():
    model = three_layers()
    with pytest.raises(InvalidParameterError, match=r"freeze=3: it has 2 blocks\. Give at most 2"):
        freeze_lowest(model, 3, lambda: model(torch.zeros(1, 3)), "it")


def test_a_model_that_is_frozen_as_a_whole_is_an_error():
    config = BertConfig(
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=8,
    )
    model = BertModel(config, add_pooling_layer=False).eval()
    with pytest.raises(InvalidParameterError, match="freeze=2 leaves nothing to train: it has 2"):
        freeze_lowest(model, 2, lambda: model(torch.zeros(1, 3, dtype=torch.int64)), "it")


def fit(embedder, rows, y, monkeypatch, *, is_kept):
    """Return an embedder that is fitted with kept states or without them, and how many were."""
    lowest = []
    keep = _loop.Loop._keep_lowest

    def look(loop):
        if is_kept:
            keep(loop)
            lowest.append(loop.lowest)

    with monkeypatch.context() as patch:
        patch.setattr(_loop.Loop, "_keep_lowest", look)
        embedder.fit(rows, y)
    return embedder.trained_.arrays, [each is not None and each.is_kept for each in lowest]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_kept_states_of_texts_change_nothing(method, monkeypatch):
    strategy = FineTune(method, freeze=4, n_epochs=2, batch_size=4, dtype="float32")
    embedder = TextEmbedder(training=strategy)
    kept, were_kept = fit(embedder, X, Y, monkeypatch, is_kept=True)
    assert were_kept and all(were_kept)
    other, _ = fit(embedder, X, Y, monkeypatch, is_kept=False)
    assert kept.keys() == other.keys()
    assert all(".layer.4." in name or ".layer.5." in name for name in kept)
    for name, array in kept.items():
        np.testing.assert_allclose(array, other[name], rtol=0, atol=2e-6)


@pytest.mark.parametrize("family", ["vit", "convnext"])
def test_kept_states_of_pictures_change_no_bit(tmp_path, monkeypatch, family):
    strategy = FineTune(freeze=1, n_epochs=2, batch_size=8, validation_fraction=None)
    folder = write_checkpoint(tmp_path, family)
    embedder = ImageEmbedder(folder, training=strategy, dtype="float32")
    rows = pictures(8)
    kept, were_kept = fit(embedder, rows, [0, 1] * 4, monkeypatch, is_kept=True)
    assert were_kept and all(were_kept)
    other, _ = fit(embedder, rows, [0, 1] * 4, monkeypatch, is_kept=False)
    for name, array in kept.items():
        np.testing.assert_array_equal(array, other[name])


def test_what_cannot_be_left_out_is_run(monkeypatch):
    # Traced models join what their layers give outside of any module.
    embedder = ImageEmbedder(
        "squeezenet1_1",
        weights=None,
        training=FineTune(freeze=7, n_epochs=1, batch_size=8, validation_fraction=None),
    )
    rows = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), dtype=np.uint8)
    kept, were_kept = fit(embedder, rows, [0, 1] * 4, monkeypatch, is_kept=True)
    assert were_kept == [False]
    assert all(".11." in name or ".12." in name for name in kept)


def test_of_random_views_nothing_is_kept(monkeypatch):
    strategy = FineTune(freeze=4, n_epochs=1, augment=True, validation_fraction=None)
    _, were_kept = fit(
        TextEmbedder(training=strategy), X[:4], Y[:2] + Y[4:6], monkeypatch, is_kept=True
    )
    assert were_kept == []


def test_states_beyond_the_bound_are_not_kept(monkeypatch):
    monkeypatch.setattr("skembed.training._depth._MOST_BYTES", 1000)
    strategy = FineTune(freeze=4, n_epochs=1, validation_fraction=None)
    _, were_kept = fit(TextEmbedder(training=strategy), X[:8], Y[:8], monkeypatch, is_kept=True)
    assert were_kept == [False]
