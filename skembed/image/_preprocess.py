"""A function of the user that turns a picture into a model's pixels.

Owns what such a function may give. Must not know models nor rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from skembed.modules import Preprocess as BasePreprocess
from skembed.store import digest_of
from skembed.weights import fingerprint, kept_recent

__all__ = ["Preprocess", "make_preprocess", "probe_picture", "probe_pixels"]

# Not square, as most pictures are not.
_PROBE_SIZE = (320, 240)

# Sides of the squares that models of one size take, where nothing resizes pictures to it.
_USUAL_SIDES = (224, 32, 28, 64, 96, 128, 256, 299, 384, 16, 8)

# A model of one size takes no larger pictures.
_MOST_PIXELS = 1 << 20

_EXPECTED = (
    "a callable from a PIL image in mode RGB to a float tensor (channels, height, width), such as "
    "torchvision.models.ResNet50_Weights.DEFAULT.transforms()"
)


def probe_picture(width: int = _PROBE_SIZE[0], height: int = _PROBE_SIZE[1]) -> Image.Image:
    """Return a picture with smooth parts, sharp edges and noise; of a size always the same one."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([255 * x / width, 255 * y / height, 127 * (np.sin(x / 3) + 1)], -1)
    noise = random.integers(0, 256, smooth.shape)
    pixels = np.where((x // 8 + y // 8)[..., None] % 2, smooth, noise)
    return Image.fromarray(pixels.astype(np.uint8))


def probe_pixels(
    prepare: Callable[[Image.Image], Tensor], image_size: tuple[int, int] | None = None
) -> Iterator[Tensor]:
    """Yield pixels of pictures of one size after another, until a model takes some.

    Parameters
    ----------
    prepare : callable
        Makes pixels (channels, height, width) of a picture.
    image_size : tuple of int or None
        (height, width) of the user's pictures, where that is known: these come first.
    """
    sizes = [_PROBE_SIZE, *((side, side) for side in _USUAL_SIDES)]
    if image_size is not None and image_size[0] * image_size[1] <= _MOST_PIXELS:
        sizes.insert(0, image_size[::-1])
    seen = set()
    for size in sizes:
        try:
            if isinstance(prepare, Preprocess) and size == _PROBE_SIZE:
                pixels = prepare.probe
            else:
                pixels = prepare(probe_picture(*size))
        except Exception:
            if size == _PROBE_SIZE:
                raise
            continue
        if pixels.shape not in seen:
            seen.add(pixels.shape)
            yield pixels


def make_preprocess(function: Callable[[Image.Image], Any]) -> Preprocess:
    """Return a function of the user, tried out; once as long as its content is the same.

    Raises
    ------
    InvalidParameterError
        If it fails on a picture, gives something else, or is random.
    UnsupportedModelError
        If its content cannot be told.
    """
    digest = fingerprint(function)
    key = digest_of({"kind": "preprocessing", "content": digest})
    return kept_recent(key, lambda: Preprocess(function, digest))


class Preprocess(BasePreprocess):
    """Turns a PIL image in mode RGB into a float tensor (channels, height, width)."""

    expected = _EXPECTED
    row = "picture"
    advice = "Use the transform of evaluation, without augmentation."

    def example(self) -> Image.Image:
        """Return a picture, always the same."""
        return probe_picture()

    def other_example(self) -> Image.Image:
        """Return it upside down."""
        return probe_picture().transpose(Image.Transpose.ROTATE_180)

    def describe(self, row: Image.Image) -> str:
        """Say which picture it failed on."""
        return f"a PIL image in mode RGB of {row.width} x {row.height} pixels"

    def find_fault(self, output: Any) -> tuple[str, str] | None:
        """Return what it gave and what to do, None if that is right."""
        if not isinstance(output, Tensor):
            kind = type(output)
            advice = "Add torchvision.transforms.ToTensor() to it"
            if isinstance(output, Mapping):
                advice = 'Take the tensor out: `lambda x: processor(x, return_tensors="pt")'
                advice += '["pixel_values"][0]`'
            return f"a {kind.__module__}.{kind.__qualname__}", advice
        if not output.is_floating_point():
            advice = "Add torchvision.transforms.v2.ToDtype(torch.float32, scale=True) to it"
            return f"a tensor of {output.dtype}", advice
        if output.layout is not torch.strided:
            return f"a tensor of layout {output.layout}", "Add its to_dense() to it"
        if output.ndim != 3:
            advice = "Leave out the batch's dimension: pictures are stacked afterwards"
            return f"a tensor of shape {tuple(output.shape)}", advice
        return None
