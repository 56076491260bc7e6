"""Modules whose code takes another way on other pictures, or computes in other numbers."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from skembed import ImageEmbedder
from skembed.engine._convolutions import PackedConvolution
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
    packed = [m for m in fitted.encoder_._network().modules() if isinstance(m, PackedConvolution)]
    assert len(packed) == 2
