"""A loaded model is folded, packed and laid out to be fast; its vectors are tested elsewhere."""

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from skembed import ImageEmbedder
from skembed.engine._convolutions import PackedConvolution
from skembed.engine._linear import PackedLinear
from tests.image.checkpoints import write_checkpoint
from tests.image.networks import pictures

RESNETS = ("torchvision", "transformers", "timm")


@pytest.fixture(scope="module")
def embedder_of(tmp_path_factory):
    """Return an embedder of a small model of a family or a library."""
    root = tmp_path_factory.mktemp("models")

    def of(name, dtype="float32"):
        options = {"dtype": dtype, "device": "cpu", "cache": None}
        if name == "torchvision":
            return ImageEmbedder("resnet18", weights=None, **options)
        if name == "timm":
            pytest.importorskip("timm")
            return ImageEmbedder("timm:test_resnet", weights=None, **options)
        family = "resnet" if name == "transformers" else name
        if not (root / family).is_dir():
            write_checkpoint(root / family, family)
        return ImageEmbedder(root / family, **options)

    return of


@pytest.fixture
def network_of(embedder_of):
    return lambda *args: embedder_of(*args).fit([]).encoder_._network()


def run_by(network):
    """Return the modules that a traced network calls, in order."""
    assert isinstance(network, torch.fx.GraphModule)
    nodes = [each for each in network.graph.nodes if each.op == "call_module"]
    return [network.get_submodule(each.target) for each in nodes]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", RESNETS)
def test_no_batch_normalisation_is_left_of_a_resnet(network_of, name, dtype):
    network = network_of(name, dtype)
    assert not [each for each in network.modules() if isinstance(each, _BatchNorm)]


@pytest.mark.parametrize(("name", "n_layers"), [("torchvision", 20), ("timm", 15)])
def test_all_convolutions_of_a_traced_resnet_are_packed(network_of, name, n_layers):
    called = run_by(network_of(name))
    packed = [each for each in called if isinstance(each, PackedConvolution)]
    assert len(packed) == n_layers
    assert not [each for each in called if isinstance(each, nn.Conv2d)]


def test_relu_and_the_sum_with_a_shortcut_are_part_of_a_packed_convolution(network_of):
    network = network_of("torchvision")
    packed = [each for each in run_by(network) if isinstance(each, PackedConvolution)]
    # One in the stem and two in each of eight blocks; those around the blocks are only added.
    assert [each.after[0] for each in packed].count("relu") == 17
    assert [each.after[0] for each in packed].count("none") == 3
    assert not [each for each in run_by(network) if isinstance(each, nn.ReLU)]
    n_inputs = [
        len(each.args)
        for each in network.graph.nodes
        if each.op == "call_module"
        and isinstance(network.get_submodule(each.target), PackedConvolution)
    ]
    assert n_inputs.count(2) == 8


@pytest.mark.parametrize("name", ["vit", "clip", "swin", "convnext"])
def test_all_linear_layers_of_a_transformer_are_packed(network_of, name):
    modules = list(network_of(name).modules())
    assert [each for each in modules if isinstance(each, PackedLinear)]
    assert not [each for each in modules if isinstance(each, nn.Linear)]


@pytest.mark.parametrize("name", [*RESNETS, "vit", "mobilevit"])
def test_weights_and_pixels_have_their_channels_side_by_side(embedder_of, network_of, name):
    network = network_of(name)
    # Of one channel or one place, any layout is the same.
    kernels = [
        each
        for each in network.parameters()
        if each.ndim == 4 and each.shape[1] > 1 and each.shape[2:].numel() > 1
    ]
    assert kernels
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in kernels)
    taken = []
    hook = network.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
    embedder_of(name).transform(pictures(5))
    hook.remove()
    assert sum(map(len, taken)) == 5
    for pixels in taken:
        assert pixels.dtype == torch.float32
        assert pixels.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["torchvision", "vit"])
def test_weights_are_in_the_format_that_was_asked_for(network_of, name):
    for dtype in (torch.float32, torch.bfloat16):
        network = network_of(name, str(dtype).removeprefix("torch."))
        assert {each.dtype for each in network.parameters()} == {dtype}
