"""torchvision's models: what each family gives, beside its own forward pass and preset."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import models

from skembed import ImageEmbedder
from skembed.exceptions import InvalidParameterError, ModelNotFoundError, UnsupportedModelError
from skembed.image._models import MODELS
from tests.image.backbones import backbone_of, vectors
from tests.image.checkpoints import settle, stir
from tests.image.networks import pictures

SIZES = ((60, 90), (91, 47), (224, 224), (1, 1), (3, 300))
IMAGES = [Image.fromarray(each) for each in pictures(5, sizes=SIZES)]
SOME = IMAGES[1::3]

FAMILIES = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s"),
    *("googlenet", "inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small"),
    *("regnet_x_400mf", "regnet_y_400mf", "resnet18", "resnext50_32x4d", "shufflenet_v2_x0_5"),
    *("squeezenet1_1", "swin_t", "swin_v2_t", "vgg11_bn", "vit_b_32"),
    "wide_resnet50_2",
)


def random_model(name):
    """Return a model at which every layer matters, and pictures tell in what it gives."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        module = models.get_model(name, weights=None, **options)
        if name in ("googlenet", "inception_v3"):
            module.transform_input = True  # as with torchvision's own weights
        stir(module)
        settle(module, prepared(name, IMAGES))
    return module.eval()


def prepared(name, images):
    """Return what torchvision's own preset makes of pictures."""
    preset = models.get_model_weights(name).DEFAULT.transforms()
    return torch.stack([preset(each) for each in images])


def without_classifier(module):
    """Return what the model computes just before its last linear layer, by watching it."""
    taken = []
    if isinstance(module, models.SqueezeNet):
        module.features.register_forward_hook(lambda *args: taken.append(args[2].mean((2, 3))))
    else:
        last = [each for each in module.modules() if isinstance(each, nn.Linear)][-1]
        last.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))

    def run(pixels):
        taken.clear()
        with torch.inference_mode():
            module(pixels)
        return taken[-1]

    return run


@pytest.mark.parametrize("name", FAMILIES)
def test_vectors_are_those_before_the_classifier(name, tmp_path):
    module = random_model(name)
    torch.save(module.state_dict(), tmp_path / "weights.pth")
    expected = without_classifier(module)(prepared(name, SOME)).numpy()
    scale = np.abs(expected).max()
    # Or a wrong model would do as well, where all give every picture the same vector.
    assert np.abs(expected[0] - expected[1]).mean() > 0.03 * np.abs(expected).mean()
    assert 0.1 < scale < 100  # the difference allowed below is a share of the largest value
    embedder = ImageEmbedder(
        name, weights=tmp_path / "weights.pth", dtype="float32", cache=None, batch_size=2
    )
    found = embedder.fit_transform(SOME)
    assert found.shape == (len(SOME), MODELS[name].width)
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=1e-5)


def test_a_model_of_every_family_is_compared():
    papers = {row.source for row in MODELS.values() if row.is_torchvision}
    other_weights = {"arXiv:2201.08371"}  # of RegNet and ViT
    assert {MODELS[name].source for name in FAMILIES} == papers - other_weights


@pytest.mark.parametrize("name", FAMILIES)
def test_preparing_equals_the_preset(name):
    backbone = backbone_of(name, weights=None)
    preset = models.get_model_weights(name).DEFAULT.transforms()
    for image in IMAGES:
        found = backbone._scale(backbone.prepare(image)[None])[0]
        torch.testing.assert_close(found, preset(image), rtol=0, atol=1e-6)


def test_every_model_of_torchvision_is_in_the_table_with_its_width():
    known = {name for name, row in MODELS.items() if row.is_torchvision}
    assert known == set(models.list_models(module=models))
    for name in known:
        backbone = backbone_of(name, weights=None)
        assert backbone.width == MODELS[name].width


@pytest.mark.parametrize(
    ("name", "layer", "width"),
    [
        ("resnet18", "layer3", 256),
        ("resnet18", "layer3.1.conv2", 256),
        ("densenet121", "features.denseblock2", 512),
        ("swin_t", "features.3", 192),
        ("convnext_tiny", "features.5", 384),
        ("vit_b_32", "encoder.layers.encoder_layer_5", 768),
    ],
)
def test_a_layer_gives_what_the_model_computes_there(name, layer, width):
    backbone = backbone_of(name, weights=None, layer=layer)
    assert backbone.width == width
    whole = backbone_of(name, weights=None).load().core
    taken = []
    whole.get_submodule(layer).register_forward_hook(lambda *args: taken.append(args[2]))
    pixels = torch.stack([backbone._scale(backbone.prepare(e)[None])[0] for e in IMAGES[:2]])
    with torch.inference_mode():
        found = vectors(backbone, pixels)
        whole(pixels)
    features = taken[0]
    if name == "vit_b_32":
        expected = features[:, 0]
    else:
        expected = features.mean((1, 2) if name == "swin_t" else (2, 3))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_tokens_of_a_vit_are_pooled():
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    found = {}
    for pooling in ("auto", "cls", "mean", "cls+mean"):
        with torch.inference_mode():
            found[pooling] = vectors(backbone_of("vit_b_32", weights=None, pooling=pooling), pixels)
    torch.testing.assert_close(found["auto"], found["cls"])
    both = torch.cat([found["cls"], found["mean"]], 1)
    torch.testing.assert_close(found["cls+mean"], both)


def test_random_weights_are_always_the_same_and_leave_the_users_random_state():
    state = torch.get_rng_state()
    embedders = [
        ImageEmbedder("squeezenet1_1", weights=None, dtype="float32", cache=None) for _ in range(2)
    ]
    first, second = (each.transform(IMAGES[:2]) for each in embedders)
    np.testing.assert_array_equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_file_of_another_model_is_refused(tmp_path):
    torch.save(models.resnet34(weights=None).state_dict(), tmp_path / "other.pth")
    embedder = ImageEmbedder("resnet18", weights=tmp_path / "other.pth", cache=None)
    with pytest.raises(UnsupportedModelError, match="does not hold the weights of resnet18"):
        embedder.fit_transform(IMAGES[:1])


def test_a_classifier_of_other_classes_and_names_of_parallel_training_do(tmp_path):
    module = models.resnet18(weights=None, num_classes=7)
    state = {f"module.{name}": value for name, value in module.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "mine.pth")
    embedder = ImageEmbedder("resnet18", weights=str(tmp_path / "mine.pth"), cache=None)
    assert embedder.fit_transform(IMAGES[:1]).shape == (1, 512)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"model": "resnet5O"}, "Did you mean 'resnet50'"),
        ({"weights": "IMAGENET1K_V9"}, "torchvision has 'auto', 'IMAGENET1K_V1'"),
        ({"weights": "no/such.pth"}, "neither a file nor weights of resnet18"),
        ({"layer": "layer9"}, "layer='layer9'"),
        ({"layer": -1}, "numbers are for models of transformers"),
        ({"pooling": "mean"}, "ends in one vector"),
        ({"pooling": "cls", "layer": "layer3"}, "feature map"),
    ],
)
def test_what_a_model_does_not_have_is_refused(params, message):
    embedder = ImageEmbedder(**{"model": "resnet18", "weights": None, "cache": None, **params})
    with pytest.raises(InvalidParameterError, match=message):
        embedder.fit([])


def test_weights_that_are_not_there_say_what_was_tried(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ModelNotFoundError, match="offline mode is on"):
        ImageEmbedder("resnet18").fit([])


def test_a_picture_that_resizing_would_make_enormous_is_a_fault():
    embedder = ImageEmbedder("resnet18", weights=None, on_error="nan", cache=None)
    rows = [np.zeros((1, 50_000), np.uint8), np.zeros((9, 9), np.uint8)]
    with pytest.warns(UserWarning, match=r"row 0: an array of shape .*: cannot be prepared"):
        vectors = embedder.fit_transform(rows)
    assert np.isnan(vectors).all(1).tolist() == [True, False]
