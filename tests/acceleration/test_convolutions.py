"""Folded and packed convolutions give what the model gave, or are not used."""

import pytest
import torch
from torch import nn

from skembed.acceleration._convolutions import (
    PackedConvolution,
    fold_batch_norms,
    is_traceable,
    pack_convolutions,
)
from skembed.acceleration._passes import are_alike

needs_bfloat16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="needs products in bfloat16"
)


def randomized(module):
    """Give batch normalisations statistics that change something."""
    generator = torch.Generator().manual_seed(0)
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.running_mean.normal_(0, 0.5, generator=generator)
            each.running_var.uniform_(0.5, 2.0, generator=generator)
            each.weight.data.uniform_(0.5, 1.5, generator=generator)
            each.bias.data.normal_(0, 0.5, generator=generator)
    return module.eval().requires_grad_(False)


class Block(nn.Module):
    """A residual block as ResNets have it: one activation used twice, a sum, a shortcut."""

    def __init__(self, activation=None, is_late=False):
        super().__init__()
        self.first = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 1)
        self.norm2 = nn.BatchNorm2d(8)
        self.activation = activation or nn.ReLU(inplace=True)
        self.is_late = is_late

    def forward(self, x):
        out = self.activation(self.norm1(self.first(x)))
        out = self.norm2(self.second(out))
        out += x
        out = self.activation(out)
        return out + x if self.is_late else out  # the shortcut is needed once more


def network(*blocks):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
    return randomized(module)


def pixels(dtype=torch.float32, n=2):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 3, 33, 21, generator=generator).to(dtype)
    return x.contiguous(memory_format=torch.channels_last)


def packed(module, x=None):
    x = pixels() if x is None else x
    expected = module(x)
    return pack_convolutions(module, x, lambda new: are_alike(new(x), expected))


def fused_kinds(module):
    """Return (activation, takes a sum) of every packed convolution, in order."""
    takes = [len(n.args) == 2 for n in module.graph.nodes if n.op == "call_module"]
    layers = [module.get_submodule(n.target) for n in module.graph.nodes if n.op == "call_module"]
    return [
        (layer.after[0], takes_sum)
        for layer, takes_sum in zip(layers, takes, strict=True)
        if isinstance(layer, PackedConvolution)
    ]


def test_folding_removes_the_norms_and_changes_nothing():
    module, x = network(Block(), Block()), pixels()
    expected = module(x)
    assert fold_batch_norms(module, lambda: module(x), lambda: are_alike(module(x), expected))
    assert not any(isinstance(each, nn.BatchNorm2d) for each in module.modules())
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-5)


def test_a_norm_whose_layer_feeds_something_else_too_is_not_folded():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

        def forward(self, x):
            raw = self.layer(x)
            return torch.cat([raw, self.norm(raw)], 1).mean((2, 3))

    module, x = randomized(Both()), pixels()
    expected = module(x)
    assert not fold_batch_norms(module, lambda: module(x), lambda: are_alike(module(x), expected))
    torch.testing.assert_close(module(x), expected)
    assert isinstance(module.norm, nn.BatchNorm2d)


@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs_bfloat16)]
)
def test_packed_convolutions_fuse_activation_and_sum(dtype):
    module, x = network(Block(), Block()), pixels(dtype)
    expected = module(pixels())
    fold_batch_norms(module, lambda: module(pixels()), lambda: True)
    fast = packed(module.to(dtype).to(memory_format=torch.channels_last), x)
    assert fused_kinds(fast) == [("none", False), *[("relu", False), ("relu", True)] * 2]
    change = (fast(x).float() - expected).norm() / expected.norm()
    assert change < (1e-5 if dtype is torch.float32 else 0.03)


@pytest.mark.parametrize(
    ("activation", "kind"),
    [
        (nn.ReLU6(), "hardtanh"),
        (nn.Hardswish(), "hardswish"),
        (nn.SiLU(), "swish"),
        (nn.GELU(), "gelu"),
        (nn.GELU("tanh"), "gelu"),
        (nn.Sigmoid(), "sigmoid"),
        (nn.Tanh(), "tanh"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_activation_is_fused_where_no_sum_stands_before_it(activation, kind):
    module, x = network(Block(activation)), pixels()
    expected = module(x)
    fold_batch_norms(module, lambda: module(x), lambda: True)
    fast = packed(module)
    assert fused_kinds(fast) == [("none", False), (kind, False), ("none", True)]
    torch.testing.assert_close(fast(x), expected, rtol=1e-4, atol=1e-5)


class ViewedBlock(Block):
    """Keeps a view of the shortcut, made before the sum and needed after it."""

    def forward(self, x):
        view = x.transpose(2, 3)
        return super().forward(x) + view.transpose(2, 3)


class Recurrent(nn.Module):
    """Adds to each picture what a convolution makes of it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return torch.relu(self.layer(x) + x)


@pytest.mark.parametrize(
    ("blocks", "is_in_place"),
    [
        ([Block(), Block()], [True, True]),
        ([Block(is_late=True), Block()], [False, False]),  # the last shortcut is no convolution's
        ([ViewedBlock(), Block()], [False, False]),
        ([Recurrent(), Block()], [False, True]),
    ],
    ids=["spare", "needed later", "viewed", "read by the convolution"],
)
def test_a_sum_overwrites_its_shortcut_only_if_nothing_else_needs_it(blocks, is_in_place):
    module, x = network(*blocks), pixels()
    expected = module(x)
    fold_batch_norms(module, lambda: module(x), lambda: True)
    fast = pack_convolutions(module, x, lambda new: True)
    torch.testing.assert_close(fast(x), expected, rtol=1e-4, atol=1e-5)
    layers = [each for each in fast.modules() if isinstance(each, PackedConvolution)]
    takes_sum = [kind[1] for kind in fused_kinds(fast)]
    found = [m.is_in_place for m, takes in zip(layers, takes_sum, strict=True) if takes]
    assert found == is_in_place


def test_pixels_are_not_overwritten():
    class Shortcut(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return (self.layer(x) + x).mean((2, 3))

    module, x = Shortcut().eval().requires_grad_(False), pixels()
    before = x.clone()
    fast = pack_convolutions(module, x, lambda new: True)
    torch.testing.assert_close(fast(x), module(before), rtol=1e-4, atol=1e-5)
    assert fused_kinds(fast) == [("none", True)]
    assert torch.equal(x, before)


class Clipped(nn.Module):
    """Two branches from one tensor, which the second one changes in place before they meet."""

    def __init__(self, is_swapped=False):
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.clip = nn.ReLU6(inplace=True)
        self.is_swapped = is_swapped

    def forward(self, x):
        shortcut = self.first(x)
        out = self.second(self.clip(x.view(x.shape)))
        return out + shortcut if self.is_swapped else shortcut + out


@pytest.mark.parametrize("is_swapped", [False, True])
def test_a_convolution_is_not_moved_past_a_change_of_what_it_reads(is_swapped):
    module, x = network(Clipped(is_swapped), Block()), pixels()
    fold_batch_norms(module, lambda: module(x), lambda: True)
    fast = pack_convolutions(module, x, lambda new: True)
    assert any(isinstance(each, PackedConvolution) for each in fast.modules())
    for scale in (1, 100):  # beyond 6 the change shows
        torch.testing.assert_close(fast(scale * x), module(scale * x), rtol=1e-4, atol=1e-4)


def test_a_sum_that_spreads_on_other_sizes_stays_right():
    class Context(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3, stride=16), nn.Conv2d(8, 8, 1)
            self.pool = nn.AdaptiveAvgPool2d((2, 1))

        def forward(self, x):
            x = self.first(x)
            return torch.relu(x + self.second(self.pool(x))).mean((2, 3))

    module, usual = Context().eval().requires_grad_(False), pixels()
    assert module.first(usual).shape[2:] == (2, 2)
    narrow = usual[..., :16].contiguous(memory_format=torch.channels_last)
    fast = pack_convolutions(module, narrow, lambda new: True)
    assert ("relu", True) in fused_kinds(fast)
    for x in (narrow, usual):
        torch.testing.assert_close(fast(x), module(x), rtol=1e-4, atol=1e-5)


def test_code_that_asks_what_rows_hold_is_not_traceable():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.shape[2] > x.shape[3] else -x

    assert is_traceable(network(Block()))
    assert not is_traceable(Branching())


@pytest.mark.parametrize("n", [1, 3, 8])
def test_batches_and_pictures_of_other_sizes_run_too(n):
    module = network(Block())
    fold_batch_norms(module, lambda: module(pixels()), lambda: True)
    fast = packed(module)
    for size in [(33, 21), (64, 64), (5, 200)]:
        x = torch.randn(n, 3, *size, generator=torch.Generator().manual_seed(n))
        torch.testing.assert_close(fast(x), module(x), rtol=1e-4, atol=1e-5)


def test_rows_do_not_depend_on_their_neighbours():
    module = network(Block(), Block())
    fast = packed(module)
    x = pixels(n=7)
    alone = torch.cat([fast(row[None]) for row in x])
    torch.testing.assert_close(fast(x), alone, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_traced_is_left_as_it_is():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.layer(x).mean((2, 3)) if x.sum() > 0 else self.layer(-x).mean((2, 3))

    module = Branching().eval()
    assert packed(module) is module


def test_a_model_that_does_not_agree_is_left_as_it_is():
    module = network(Block())
    assert pack_convolutions(module, pixels(), lambda new: False) is module


def test_unusual_convolutions_are_left_as_they_are():
    odd = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding="same"), nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
    )
    module = network(Block())
    module = nn.Sequential(odd, nn.Conv2d(8, 3, 1), module).eval().requires_grad_(False)
    fast = packed(module)
    assert sum(isinstance(each, PackedConvolution) for each in fast.modules()) == 4
    torch.testing.assert_close(fast(pixels()), module(pixels()), rtol=1e-4, atol=1e-5)


def test_errors_of_memory_are_not_swallowed():
    def run_out(_):
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        pack_convolutions(network(Block()), pixels(), run_out)


@pytest.mark.parametrize("name", ["first", "norm1", "activation"])
def test_layers_with_hooks_stay_so_that_the_hooks_run(name):
    module, x = network(Block()), pixels()
    expected, calls = module(x), []
    module[1].get_submodule(name).register_forward_hook(lambda *_: calls.append(name))
    fold_batch_norms(module, lambda: module(x), lambda: are_alike(module(x), expected))
    fast = packed(module)
    calls.clear()
    torch.testing.assert_close(fast(x), expected, rtol=1e-4, atol=1e-5)
    assert calls
