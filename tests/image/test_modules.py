"""A module of the user's own as the model: copied, checked, cut and pooled."""

import copy

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from torchvision.transforms import v2
from transformers import ViTConfig, ViTModel

from skembed.exceptions import InvalidParameterError, UnsupportedModelError
from skembed.image import _modules
from skembed.weights import fingerprint
from tests.image.backbones import backbone_of, vectors


def to_pixels(image):
    pixels = np.asarray(image.resize((16, 16)), np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)


class Net(nn.Module):
    def __init__(self, ending="vector"):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.norm = nn.BatchNorm2d(8)
        self.unused = nn.Linear(8, 8)
        self.ending = ending

    def forward(self, x):
        maps = self.norm(self.stem(x))
        tokens = maps.flatten(2).mT
        return {
            "vector": maps.mean((2, 3)),
            "maps": maps,
            "tokens": tokens,
            "dict": {"last_hidden_state": tokens, "pooler_output": tokens[:, 0] * 2},
            "tuple": (tokens, tokens),
            "single": (tokens, None),
            "flat": maps.flatten(),
            "ints": maps.mean((2, 3)).long(),
            "other": {"logits": tokens, "more": tokens},
            "one": {"logits": tokens},
        }[self.ending]


def make(module, preprocess=to_pixels, **settings):
    return backbone_of(module, preprocess=preprocess, **settings)


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)) for _ in range(3)]


def run(backbone, pictures):
    pixels = torch.stack([to_pixels(each) for each in pictures])
    with torch.inference_mode():
        return vectors(backbone, backbone._scale(pixels))


def expected(module, pictures):
    with torch.inference_mode():
        return copy.deepcopy(module).eval()(torch.stack([to_pixels(each) for each in pictures]))


def test_vectors_are_those_of_the_module(pictures):
    net = Net()
    backbone = make(net)
    found = run(backbone, pictures)
    assert found.shape == (3, 8) and backbone.width == 8
    torch.testing.assert_close(found, expected(net, pictures))


@pytest.mark.parametrize(
    ("ending", "pooling", "width", "oracle"),
    [
        ("maps", "auto", 8, lambda x: x.mean((2, 3))),
        ("maps", "max", 8, lambda x: x.amax((2, 3))),
        ("tokens", "auto", 8, lambda x: x.mean(1)),
        ("tokens", "cls", 8, lambda x: x[:, 0]),
        ("tokens", "cls+mean", 16, lambda x: torch.cat([x[:, 0], x[:, 1:].mean(1)], 1)),
        ("single", "max", 8, lambda x: x[0].amax(1)),
        ("one", "mean", 8, lambda x: x["logits"].mean(1)),
        ("dict", "auto", 8, lambda x: x["pooler_output"]),
        ("dict", "mean", 8, lambda x: x["last_hidden_state"].mean(1)),
    ],
)
def test_each_kind_of_output_is_pooled(ending, pooling, width, oracle, pictures):
    net = Net(ending)
    backbone = make(net, pooling=pooling)
    assert backbone.width == width
    torch.testing.assert_close(run(backbone, pictures), oracle(expected(net, pictures)))


def test_outputs_of_transformers_are_read(pictures):
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    vit = ViTModel(ViTConfig(**size, intermediate_size=32, image_size=16, patch_size=4)).eval()
    torch.testing.assert_close(
        run(make(vit), pictures), expected(vit, pictures).pooler_output, rtol=1e-4, atol=1e-5
    )
    tokens = expected(vit, pictures).last_hidden_state
    found = run(make(vit, pooling="cls"), pictures)
    torch.testing.assert_close(found, tokens[:, 0], rtol=1e-4, atol=1e-5)


def test_the_users_module_is_not_changed():
    net = Net().half().train()
    net.unused.eval()
    before = {name: (id(each), each.dtype) for name, each in net.state_dict(keep_vars=True).items()}
    loaded = make(net, layer="norm").load()
    assert net.training and not net.unused.training
    assert net.stem.weight.requires_grad and not net.norm._forward_hooks
    after = {name: (id(each), each.dtype) for name, each in net.state_dict(keep_vars=True).items()}
    assert before == after
    assert not any(each.training for each in loaded.modules())
    assert {each.dtype for each in loaded.parameters()} == {torch.float32}


def test_a_layer_ends_the_pass_where_it_has_run(pictures):
    class Breaks(Net):
        def forward(self, x):
            super().forward(x)
            raise AssertionError("the pass went on")

    net = Breaks()
    found = run(make(net, layer="stem", pooling="max"), pictures)
    pixels = torch.stack([to_pixels(each) for each in pictures])
    torch.testing.assert_close(found, net.stem(pixels).amax((2, 3)).detach())


def test_an_unknown_layer_names_what_is_close():
    with pytest.raises(InvalidParameterError, match=r"layer='steem'.*Did you mean 'stem'"):
        make(Net(), layer="steem")
    with pytest.raises(InvalidParameterError, match=r"layer=-1: Net names its layers"):
        make(Net(), layer=-1)


def test_a_layer_that_never_runs_is_an_error():
    with pytest.raises(InvalidParameterError, match=r"layer='unused'.*does not call it"):
        make(Net(), layer="unused")


def test_weights_belong_to_the_module():
    with pytest.raises(InvalidParameterError, match=r"weights=None: Net has its own"):
        make(Net(), weights=None)


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        ("tuple", "a tuple of 2, 2 of them tensors"),
        ("other", "a mapping with 'logits'"),
        ("flat", r"shape \(128,\) for a batch of one picture"),
        ("ints", r"gives torch\.int64"),
    ],
)
def test_an_output_that_cannot_be_pooled_is_an_error(ending, message):
    with pytest.raises(UnsupportedModelError, match=message):
        make(Net(ending))


def test_a_vector_cannot_be_pooled():
    with pytest.raises(InvalidParameterError, match="Net ends in one vector"):
        make(Net(), pooling="mean")


def test_a_module_that_does_not_read_the_prepared_picture_says_what_came():
    with pytest.raises(UnsupportedModelError, match=r"\(1, 1, 240, 320\).*: RuntimeError"):
        make(Net(), v2.Compose([v2.Grayscale(), v2.ToImage(), v2.ToDtype(torch.float32)]))


def test_the_digest_tells_weights_transform_layer_and_pooling_apart():
    net = Net("maps")
    other = copy.deepcopy(net)
    other.norm.running_mean += 1
    makers = [
        lambda: make(net),
        lambda: make(other),
        lambda: make(net, layer="stem"),
        lambda: make(net, pooling="max"),
    ]
    digests = [maker().digest for maker in makers]
    assert len(set(digests)) == len(digests)
    assert digests == [maker().digest for maker in makers]
    assert make(copy.deepcopy(net)).digest == make(net.train()).digest == digests[0]


def test_a_module_that_changed_after_its_digest_is_refused():
    net = Net()
    backbone = make(net)
    backbone.load()
    backbone.source.check_unchanged()
    with torch.no_grad():
        net.stem.weight += 1
    with pytest.raises(UnsupportedModelError, match=r"Net has been changed.*Fit"):
        backbone.source.check_unchanged()


def test_the_width_is_measured_once_for_a_digest(monkeypatch):
    net = Net()
    make(net)
    monkeypatch.setattr(_modules, "try_out", None)
    assert make(copy.deepcopy(net), n_components=3).width == 8


def test_a_compiled_module_is_the_module_within(pictures):
    net = Net()
    backbone = make(torch.compile(net))
    assert backbone.digest == make(net).digest
    torch.testing.assert_close(run(backbone, pictures), expected(net, pictures))


def test_torchvisions_preset_and_layers_fit(pictures):
    net = torchvision.models.resnet18()
    preset = torchvision.models.ResNet18_Weights.DEFAULT.transforms()
    backbone = make(net, preset, layer="layer3")
    assert backbone.width == 256
    assert run(backbone, pictures).shape == (3, 256)
    assert backbone.source.n_bytes() == sum(4 * each.numel() for each in net.state_dict().values())
    assert fingerprint(preset) == fingerprint(copy.deepcopy(preset))
