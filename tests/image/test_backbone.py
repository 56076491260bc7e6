"""What a backbone loads is plain: it trains, and a frozen copy of it gives what it gives."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from skembed import ImageEmbedder
from skembed.image._backbone import ImageSettings
from skembed.image._backbones import find_backbone
from tests.image.checkpoints import write_checkpoint
from tests.image.networks import TinyNetwork, pictures, to_small_pixels

FAMILIES = ("torchvision", "a layer", "timm", "transformers", "own")
ROWS = pictures(3)


@pytest.fixture(scope="module")
def params_of(tmp_path_factory):
    """Return the parameters of an embedder of a family."""
    folder = write_checkpoint(tmp_path_factory.mktemp("models") / "vit", "vit")

    def of(family):
        if family == "timm":
            pytest.importorskip("timm")
        return {
            "torchvision": {"model": "resnet18", "weights": None},
            "a layer": {"model": "resnet18", "weights": None, "layer": "layer2"},
            "timm": {"model": "timm:test_vit", "weights": None},
            "transformers": {"model": folder},
            "own": {"model": TinyNetwork(), "preprocess": to_small_pixels},
        }[family]

    return of


@pytest.fixture
def backbone_of(params_of):
    return lambda family, **more: find_backbone(ImageSettings(**params_of(family), **more))


def batch_of(backbone):
    return backbone.collate([backbone.prepare(Image.fromarray(row)) for row in ROWS])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_plain_module_gives_what_the_fast_one_gives(family, backbone_of, params_of):
    backbone = backbone_of(family)
    module = backbone.load()
    assert not module.training
    kinds = {type(each).__module__ for each in module.modules()}
    assert not any(kind.startswith("skembed.acceleration") for kind in kinds)
    with torch.no_grad():
        expected = module(batch_of(backbone)).numpy()
    assert expected.shape == (3, backbone.width)
    found = ImageEmbedder(**params_of(family), dtype="float32", cache=None).fit_transform(ROWS)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_parameters_that_no_other_module_has(family, backbone_of):
    backbone = backbone_of(family)
    first, second = backbone.load(), backbone.load()
    assert all(each.requires_grad for each in first.parameters())
    first.train()(batch_of(backbone)).square().sum().backward()
    reached = [each for each in first.parameters() if each.grad is not None]
    assert len(reached) > 0.5 * len(list(first.parameters()))
    ids = {id(each) for each in first.parameters()}
    assert not ids & {id(each) for each in second.parameters()}
    assert all(each.grad is None for each in second.parameters())


@pytest.mark.parametrize("settings", [{}, {"layer": "features.7"}])
def test_what_is_random_in_training_is_so_in_training_mode_only(settings):
    backbone = find_backbone(ImageSettings("convnext_tiny", weights=None, **settings))
    module, batch = backbone.load(), batch_of(backbone)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert torch.equal(module(batch), module(batch))
        module.train()
        assert not torch.equal(module(batch), module(batch))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_backbone_is_found_again_while_nothing_changes(family, backbone_of):
    assert backbone_of(family) is backbone_of(family, normalize=True)
    assert backbone_of(family) is not backbone_of(family, image_size=(64, 64))


@pytest.mark.parametrize("layer", [None, "layer2"])
def test_normalisations_are_folded_in_the_fast_core_only(layer):
    embedder = ImageEmbedder("resnet18", weights=None, layer=layer, dtype="float32", cache=None)
    encoder = embedder.fit([]).encoder_
    kinds = [type(each) for each in encoder.core().modules()]
    assert nn.BatchNorm2d not in kinds
    assert nn.BatchNorm2d in [type(each) for each in encoder.backbone.load().modules()]


def test_poolings_share_a_core():
    settings = {"weights": None, "layer": "layer2", "dtype": "float32", "cache": None}
    mean, largest = (
        ImageEmbedder("resnet18", pooling=pooling, **settings).fit([]).encoder_
        for pooling in ("mean", "max")
    )
    assert mean.digest != largest.digest
    assert mean.core() is largest.core()


def test_pictures_are_seen_in_views_in_training_only(backbone_of):
    backbone, image = backbone_of("own"), Image.fromarray(ROWS[0])
    plain = backbone.prepare(image)
    assert torch.equal(plain, backbone.prepare(image))
    views = [backbone.prepare(image, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])
    assert not torch.equal(views[0], plain)
