"""Modules whose code takes another way on other pictures, or computes in other numbers."""

import copy

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from skembed import ImageEmbedder
from skembed.acceleration._convolutions import PackedConvolution
from skembed.exceptions import UnsupportedModelError
from tests.image.networks import TinyNetwork, pictures, to_pixels, to_small_pixels


def by_hand(module, preprocess, arrays):
    module = copy.deepcopy(module).float().eval()
    with torch.inference_mode():
        rows = [module(preprocess(Image.fromarray(each))[None]) for each in arrays]
    return torch.cat(rows).numpy()


def embedded(module, preprocess, arrays, **params):
    params = {"dtype": "float32", "cache": None} | params
    return ImageEmbedder(module, preprocess=preprocess, **params).transform(arrays)


class _Branching(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.norm, self.other = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        for norm in (self.norm, self.other):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)


class ByContent(_Branching):
    """Normalises pictures without black in another way."""

    def forward(self, x):
        maps = self.layer(x)
        return (self.norm(maps) if x.min() < 0 else self.other(maps)).relu().mean((2, 3))


class ByShape(_Branching):
    """Keeps what upright pictures were before they were normalised."""

    def forward(self, x):
        maps = self.layer(x)
        normed = self.norm(maps)
        return (normed + maps if x.shape[2] > x.shape[3] else normed).relu().mean((2, 3))


class GatedByContent(nn.Module):
    """Leaves out its activation, and changes what its second layer reads, for bright pictures."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(768, 32), nn.Linear(768, 32)
        self.gelu = nn.GELU()

    def forward(self, x):
        x = x.flatten(1)
        out = self.first(x)
        if x.mean() > 0.4:
            x.mul_(2)
            return torch.cat([out, self.second(x)], 1)
        return torch.cat([self.gelu(out), self.second(x)], 1)


@pytest.mark.parametrize("kind", [ByContent, ByShape])
def test_branches_on_pictures_are_taken_as_the_module_takes_them(kind):
    module = kind().eval()
    arrays = [*pictures(5), *(each // 2 + 128 for each in pictures(5, seed=1))]
    found = embedded(module, to_pixels, arrays, batch_size=1)  # it asks what the batch holds
    np.testing.assert_allclose(found, by_hand(module, to_pixels, arrays), atol=1e-5)


def test_linear_layers_are_not_fused_where_the_code_may_do_something_else():
    module = GatedByContent().eval()
    arrays = [*pictures(4), *(each // 4 + 190 for each in pictures(4, seed=1))]
    found = embedded(module, to_small_pixels, arrays, batch_size=1)
    np.testing.assert_allclose(found, by_hand(module, to_small_pixels, arrays), atol=1e-5)


class Wrapper(nn.Module):
    """Calls the module within as a compiled module does, and computes something else."""

    def __init__(self):
        super().__init__()
        self._orig_mod = TinyNetwork()

    def forward(self, x):
        return 3 * self._orig_mod(x).mean((2, 3)) + 1


def test_only_compiled_modules_are_unwrapped():
    found = embedded(Wrapper(), to_pixels, pictures(3))
    np.testing.assert_allclose(found, by_hand(Wrapper(), to_pixels, pictures(3)), atol=1e-5)


class QuickGELU(nn.GELU):
    """CLIP's approximation, off by 1%."""

    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


def test_a_subclass_of_an_activation_is_not_taken_for_it():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(768, 256), QuickGELU(), nn.Linear(256, 16))
    expected = by_hand(module, to_small_pixels, pictures(4))
    for dtype, most in (("float32", 1e-5), ("bfloat16", 0.01)):
        found = embedded(module, to_small_pixels, pictures(4), dtype=dtype)
        assert np.linalg.norm(found - expected) < most * np.linalg.norm(expected)


class Fourier(nn.Module):
    """Weighs frequencies by complex numbers and picks some values by whole ones."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(3, 16, 9, dtype=torch.cfloat))
        self.places = nn.Parameter(torch.randperm(768)[:512], requires_grad=False)
        self.last = nn.Linear(512, 16)

    def forward(self, x):
        waves = torch.fft.irfft2(torch.fft.rfft2(x.float()) * self.weight)
        return self.last(waves.to(x.dtype).flatten(1)[:, self.places])


@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-5), ("bfloat16", 0.02)])
def test_complex_and_whole_parameters_keep_their_formats(dtype, most):
    module = Fourier()
    expected = by_hand(module, to_small_pixels, pictures(4))
    found = embedded(module, to_small_pixels, pictures(4), dtype=dtype)
    assert np.linalg.norm(found - expected) < most * np.linalg.norm(expected)


def test_convolutions_of_a_users_module_are_packed():
    fitted = ImageEmbedder(TinyNetwork(), preprocess=to_small_pixels, dtype="float32").fit([])
    packed = [m for m in fitted.encoder_.core().modules() if isinstance(m, PackedConvolution)]
    assert len(packed) == 2


def test_maps_with_their_channels_last_are_averaged_over_their_places():
    class ChannelsLast(TinyNetwork):
        def forward(self, x):
            return super().forward(x).permute(0, 2, 3, 1)

    expected = embedded(TinyNetwork(), to_pixels, pictures(4))
    np.testing.assert_allclose(
        embedded(ChannelsLast(), to_pixels, pictures(4)), expected, atol=1e-5
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = torchvision.models.swin_t(weights=None)
    resize = v2.Compose([v2.Resize((64, 64)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    found = embedded(module, resize, pictures(2), layer="features.1")
    by_hand_maps = by_hand(module.features[:2], resize, pictures(2))
    np.testing.assert_allclose(found, by_hand_maps.mean((1, 2)), atol=1e-5)


class Particular(TinyNetwork):
    """Refuses other layers in the places of its own."""

    def forward(self, x):
        assert isinstance(self.norm, nn.BatchNorm2d)
        return super().forward(x)


def test_a_module_that_wants_its_own_layers_keeps_them():
    expected = embedded(TinyNetwork(), to_pixels, pictures(3))
    np.testing.assert_allclose(embedded(Particular(), to_pixels, pictures(3)), expected, atol=1e-5)


@pytest.mark.parametrize("is_within", [False, True])
def test_hooks_of_a_compiled_module_are_refused_not_lost(is_within):
    compiled = torch.compile(TinyNetwork(), backend="eager")
    module = nn.Sequential(compiled, nn.Identity()) if is_within else compiled
    ImageEmbedder(module, preprocess=to_pixels).fit([])
    compiled.register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.raises(UnsupportedModelError, match=r"hooks.*before torch.compile"):
        ImageEmbedder(module, preprocess=to_pixels).fit([])


def test_weights_wrapped_twice_are_read_and_whole_numbers_refused(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = torchvision.models.squeezenet1_1(weights=None).state_dict()

    def vectors(state, name):
        torch.save(state, tmp_path / name)
        settings = {"weights": tmp_path / name, "dtype": "float32", "cache": None}
        return ImageEmbedder("squeezenet1_1", **settings).transform(pictures(1))

    expected = vectors(state, "plain.pth")
    wrapped = {f"_orig_mod.module.{name}": value for name, value in state.items()}
    np.testing.assert_array_equal(vectors(wrapped, "wrapped.pth"), expected)
    whole = {name: value.int() for name, value in state.items()}
    with pytest.raises(UnsupportedModelError, match=r"torch\.int32 where real numbers"):
        vectors(whole, "whole.pth")
