"""Tiny modules, transforms and pictures that the tests of this room share."""

import numpy as np
import torch
from PIL import Image
from torch import nn


class TinyNetwork(nn.Module):
    """Two convolutions with a norm; its last feature map is what it gives."""

    def __init__(self, width=16, seed=0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Conv2d(3, 8, 3, stride=2, bias=False)
            self.norm = nn.BatchNorm2d(8)
            self.last = nn.Conv2d(8, width, 3)
            self.norm.running_mean.normal_()
            self.norm.running_var.uniform_(0.5, 2)

    def forward(self, pixels):
        return self.last(torch.relu(self.norm(self.first(pixels))))


def to_pixels(image):
    """Turn a picture into pixels of its own size."""
    pixels = torch.from_numpy(np.array(image, dtype=np.float32))
    return pixels.permute(2, 0, 1) / 128 - 1


def to_small_pixels(image):
    """Turn a picture into pixels of 16 x 16."""
    return to_pixels(image.resize((16, 16), Image.Resampling.BILINEAR))


def pictures(n, seed=0, sizes=((12, 20), (30, 9), (16, 16), (12, 20), (9, 30))):
    """Return n distinct pictures of unlike sizes, as 8-bit arrays (height, width, 3)."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*sizes[i % len(sizes)], 3), dtype=np.uint8) for i in range(n)]


def write_files(folder, arrays):
    """Write arrays as PNG files; return their paths."""
    paths = []
    for i, array in enumerate(arrays):
        paths.append(str(folder / f"{i}.png"))
        Image.fromarray(array).save(paths[-1])
    return paths


def features(module, transform, arrays):
    """Return what the module gives for each picture alone, averaged over its map: the reference."""
    module = module.eval()
    with torch.no_grad():
        rows = [module(transform(Image.fromarray(array))[None]).mean((2, 3)) for array in arrays]
    return torch.cat(rows).numpy()
