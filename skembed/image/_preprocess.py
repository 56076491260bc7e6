"""The user's function that turns a picture into a model's pixels, and pictures to try it on.

Must not know models or rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from skembed.modules import Preprocess, make_preprocess

__all__ = ["find_preprocess", "probe_picture", "probe_pixels"]

# Not square, as most pictures are not.
_PROBE_SIZE = (320, 240)
_HALF_TURN = Image.Transpose.ROTATE_180

# Sides of the squares that models of one size take, where nothing resizes pictures to it.
_USUAL_SIDES = (224, 32, 28, 64, 96, 128, 256, 299, 384, 16, 8)

# A model of one size takes no larger pictures.
_MOST_PIXELS = 1 << 20


def find_preprocess(function: Callable[[Image.Image], Any]) -> Preprocess:
    """Return a function of the user's, tried out; once as long as its content is the same."""
    width, height = _PROBE_SIZE
    return make_preprocess(
        function,
        "image",
        examples=lambda: (probe_picture(), probe_picture().transpose(_HALF_TURN)),
        find_fault=_find_fault,
        row="picture",
        example=f"a PIL image in mode RGB of {width} x {height} pixels",
        expected="a callable from a PIL image in mode RGB to a float tensor (channels, height, "
        "width), such as torchvision.models.ResNet50_Weights.DEFAULT.transforms()",
        advice="Use the evaluation transform, without augmentation.",
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

    Where the size (height, width) of the user's pictures is known, these come first.
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


def _find_fault(output: Any) -> tuple[str, str] | None:
    """Return what the function gave and what to do, None if that is right."""
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
    if output.ndim != 3 or output.layout is not torch.strided:
        advice = "Leave out the batch dimension: pictures are stacked afterwards"
        return f"a tensor of shape {tuple(output.shape)}", advice
    return None
