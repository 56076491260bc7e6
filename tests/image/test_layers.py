"""Layers of models: where the pass ends, and where a map has its channels."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import fx, nn
from torchvision import models

from skembed.exceptions import InvalidParameterError
from skembed.image._features import extract, measure
from skembed.image._transformers import VisionStates
from skembed.modules import CutAt, build_random
from tests.image.backbones import backbone_of, vectors


def make(name, **settings):
    return backbone_of(name, weights=None, **settings)


def rand(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def watched(module, layer, pixels):
    """Return what a submodule gives in a whole pass, by watching it."""
    taken = []
    hook = module.get_submodule(layer).register_forward_hook(lambda *args: taken.append(args[2]))
    with torch.inference_mode():
        module(pixels)
    hook.remove()
    return taken[0]


def built(name):
    return build_random(lambda: models.get_model(name, weights=None))


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet18", "layer2.0.downsample"),
        ("resnet18", "layer1.0.relu"),  # runs twice: the first time counts
        ("squeezenet1_1", "features.5"),
        ("mobilenet_v3_small", "features.4.block.2"),
        ("shufflenet_v2_x0_5", "stage3"),
        ("googlenet", "inception4a"),
    ],
)
def test_graph_and_interrupted_pass_give_what_the_whole_pass_gives(name, layer):
    options = {"init_weights": True} if name == "googlenet" else {}
    module = build_random(lambda: models.get_model(name, weights=None, **options))
    pixels = rand(2, 3, 96, 96)
    expected = watched(module, layer, pixels)
    with torch.inference_mode():
        cut = extract(module, layer, pixels.shape)
        assert torch.equal(cut(pixels), expected)
        assert not isinstance(cut, CutAt)
        assert torch.equal(CutAt(module, layer)(pixels), expected)


def test_what_follows_a_layer_is_not_kept():
    cut = extract(built("resnet18"), "layer2", (1, 3, 64, 64))
    names = {name.removeprefix("module.") for name, _ in cut.named_parameters()}
    assert any(name.startswith("layer2.1") for name in names)
    assert not any(name.startswith(("layer3", "layer4", "fc")) for name in names)


def test_a_copy_of_a_cut_model_keeps_its_mode():
    cut = extract(built("mobilenet_v3_small"), "features.4", (1, 3, 64, 64))
    for mode in (True, False):
        cut.train(mode)
        assert all(each.training == mode for each in copy.deepcopy(cut).modules())


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1)

    def forward(self, pixels):
        out = self.first(pixels)
        return self.last(out) if float(out.sum()) > -1e9 else out


def test_a_model_that_cannot_be_traced_is_interrupted():
    module, pixels = Untraceable().eval(), rand(1, 3, 8, 8)
    expected = module.first(pixels)
    cut = extract(module, "first", pixels.shape)
    assert isinstance(cut, CutAt)
    assert torch.equal(cut(pixels), expected)


class Doubled(nn.Module):
    """Its submodule gives two tensors, of which a graph finds the last."""

    class Pair(nn.Module):
        def forward(self, pixels):
            return pixels * 2, pixels * 3

    def __init__(self):
        super().__init__()
        self.pair = self.Pair()

    def forward(self, pixels):
        first, second = self.pair(pixels)
        return first + second


def test_a_graph_that_gives_something_else_is_not_taken():
    module, pixels = Doubled().eval(), rand(1, 3, 8, 8)
    assert isinstance(extract(module, "pair", pixels.shape), CutAt)


@pytest.mark.parametrize(
    ("name", "layer", "dims", "width"),
    [
        ("swin_t", "features.0.0", (2, 3), 96),
        ("swin_t", "features.0", (1, 2), 96),
        ("swin_t", "features.2.norm", (1, 2), 384),
        ("swin_t", "permute", (2, 3), 768),
        ("convnext_tiny", "features.1.0.block.0", (2, 3), 96),
        ("convnext_tiny", "features.1.0.block.1", (1, 2), 96),
        ("convnext_tiny", "features.1.0.block.3", (1, 2), 384),
        ("convnext_tiny", "features.1.0", (2, 3), 96),
        ("mobilenet_v3_small", "features.1.block.1.avgpool", (2, 3), 16),
    ],
)
def test_a_map_is_averaged_over_its_places_wherever_its_channels_are(name, layer, dims, width):
    backbone = make(name, layer=layer)
    assert backbone.width == width
    pixels = rand(1, 3, 224, 224)
    expected = watched(built(name), layer, pixels).mean(dims)
    with torch.inference_mode():
        torch.testing.assert_close(vectors(backbone, pixels), expected, rtol=1e-5, atol=1e-5)


def test_as_many_channels_as_places_are_told_apart_by_a_larger_picture():
    def first(pixels):
        return pixels.new_zeros(1, 8, *(each // 2 for each in pixels.shape[2:]))

    def last(pixels):
        return first(pixels).permute(0, 2, 3, 1)

    pixels = torch.zeros(1, 3, 16, 16, device="meta")
    assert measure(first, pixels, "it") == ((1, 8, 8, 8), False)
    assert measure(last, pixels, "it") == ((1, 8, 8, 8), True)


@pytest.mark.parametrize(
    ("name", "layer", "message"),
    [
        (
            "maxvit_t",
            "blocks.1.layers.0.layers.window_attention.attn_layer",
            "cannot be told apart",
        ),
        ("vit_b_32", "encoder.layers.encoder_layer_5.self_attention", "gives a tuple"),
        ("resnet18", "fc", "is or ends with the classifier of resnet18"),
        ("squeezenet1_1", "classifier", "the classifier of squeezenet1_1"),
        ("efficientnet_b0", "classifier", "ends with the classifier of efficientnet_b0"),
        ("vit_b_32", "heads", "ends with the classifier of vit_b_32"),
        ("swin_t", "features.1.0.attn.qkv", "does not call it"),
        ("googlenet", "aux1", "has no submodule of this name"),
    ],
)
def test_a_layer_that_gives_no_vector_is_refused(name, layer, message):
    with pytest.raises(InvalidParameterError, match=message):
        make(name, layer=layer)


@pytest.mark.parametrize("layer", [None, "encoder.layers.encoder_layer_1", "conv_proj"])
def test_means_leave_out_the_class_token_only_where_there_is_one(layer, small_vits):
    pixels = rand(1, 3, 224, 224)
    module = built("vit_b_32")
    features = watched(module, layer or "encoder", pixels)
    expected = features.mean((2, 3)) if features.ndim == 4 else features[:, 1:].mean(1)
    with torch.inference_mode():
        found = vectors(make("vit_b_32", layer=layer, pooling="mean"), pixels)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "layer"),
    [("resnet18", None), ("resnet18", "layer3"), ("swin_t", "features.3"), ("vit_b_32", "encoder")],
)
def test_what_is_loaded_can_be_traced(name, layer, small_vits):
    module = make(name, layer=layer).load().core
    pixels = rand(1, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(fx.symbolic_trace(module)(pixels), module(pixels))
    assert not any(each.training for each in module.modules())


class Swallows(nn.Module):
    """Goes on when a part of it fails."""

    def __init__(self):
        super().__init__()
        self.part = nn.Conv2d(3, 4, 1)

    def forward(self, pixel_values):
        try:
            return self.part(pixel_values)
        except Exception:
            return pixel_values


@pytest.mark.parametrize("run", [CutAt, lambda module, layer: VisionStates(module, 0, layer)])
def test_no_module_swallows_the_end_of_the_pass(run):
    module = Swallows()
    module.config = SimpleNamespace(model_type="own")
    pixels = rand(1, 3, 4, 4)
    expected = module.part(pixels)
    assert torch.equal(run(module, "part")(pixels), expected)


def test_a_folder_of_a_models_name_does_not_hide_the_model(tmp_path, monkeypatch):
    expected = make("resnet18").digest
    (tmp_path / "resnet18").mkdir()
    (tmp_path / "resnet18" / "config.json").write_text('{"model_type": "bert"}')
    monkeypatch.chdir(tmp_path)
    assert backbone_of("resnet18", weights=None).digest == expected
