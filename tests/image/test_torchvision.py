"""torchvision's models: what each family gives, beside its own forward pass and preset."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import models

from skembed import ImageEmbedder
from skembed.exceptions import InvalidParameterError, ModelNotFoundError, UnsupportedModelError
from skembed.image._models import MODELS
from skembed.modules import build_empty
from tests.image.backbones import backbone_of, vectors
from tests.image.checkpoints import settle, stir
from tests.image.networks import pictures

SIZES = ((60, 90), (91, 47), (224, 224), (1, 1), (3, 300))
IMAGES = [Image.fromarray(each) for each in pictures(5, sizes=SIZES)]
SOME = IMAGES[1::3]

FAMILIES = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3"),
    *("maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf"),
    *("regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t"),
    *("vgg11_bn", "vit_b_32"),
)
LAYERS = {
    "resnet18": {"layer3": 256, "layer3.1.conv2": 256},
    "densenet121": {"features.denseblock2": 512},
    "swin_t": {"features.3": 192},
    "convnext_tiny": {"features.5": 384},
    "vit_b_32": {"encoder.layers.encoder_layer_5": 768},
}


def build(name):
    """Return a model without the initial values that some take long to draw."""
    has_option = name in ("googlenet", "inception_v3") or name.startswith("vgg")
    return models.get_model(name, weights=None, **({"init_weights": False} if has_option else {}))


def random_model(name):
    """Return a model at which every layer matters, and pictures tell in what it gives."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = build(name)
        if name in ("googlenet", "inception_v3"):
            module.transform_input = True  # as with torchvision's own weights
        stir(module)
        settle(module, prepared(name, SOME))
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
def test_vectors_are_those_before_the_classifier_and_at_layers(name, tmp_path):
    module, weights = random_model(name), tmp_path / "weights.pth"
    torch.save(module.state_dict(), weights)
    at_layers = {}
    for layer in LAYERS.get(name, {}):
        module.get_submodule(layer).register_forward_hook(
            lambda *args, layer=layer: at_layers.update({layer: args[2]})
        )
    pixels = prepared(name, SOME)
    expected = without_classifier(module)(pixels).numpy()
    scale = np.abs(expected).max()
    # Or a wrong model would do as well, where all give every picture the same vector.
    assert np.abs(expected[0] - expected[1]).mean() > 0.03 * np.abs(expected).mean()
    assert 0.1 < scale < 100  # the difference allowed below is a share of the largest value
    embedder = ImageEmbedder(name, weights=weights, dtype="float32", cache=None, batch_size=2)
    found = embedder.fit_transform(SOME)
    assert found.shape == (len(SOME), MODELS[name].width)
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=1e-5)

    for layer, width in LAYERS.get(name, {}).items():
        backbone = backbone_of(name, weights=weights, layer=layer)
        assert backbone.width == width
        states = at_layers[layer]
        if name == "vit_b_32":
            expected = states[:, 0]
        else:
            expected = states.mean((1, 2) if name == "swin_t" else (2, 3))
        torch.testing.assert_close(vectors(backbone, pixels), expected, rtol=1e-4, atol=1e-4)


def test_a_model_of_every_family_is_compared():
    def families(names):
        return {models.get_model_builder(name).__module__ for name in names}

    assert families(FAMILIES) == families(models.list_models(module=models))


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
    for name in known:  # of those in FAMILIES, what the embedder gives is compared above
        module = build_empty(partial(build, name))
        linear = [each for each in module.modules() if isinstance(each, nn.Linear)]
        width = linear[-1].in_features if linear else module.classifier[1].in_channels
        assert MODELS[name].width == width, name


def test_tokens_of_a_vit_are_pooled(small_vits):
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    found = {}
    for pooling in ("auto", "cls", "mean", "cls+mean"):
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
        ({"weights": "no/such.pth"}, "neither a file nor weights for resnet18"),
        ({"layer": "layer9"}, "layer='layer9'"),
        ({"layer": -1}, "numbers are for transformers models"),
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
