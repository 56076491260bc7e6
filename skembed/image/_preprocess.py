"""A function of the user that turns a picture into a model's pixels.

Owns what such a function may give, and the proof that it always gives the same. Must not know
models nor rows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from skembed.exceptions import InvalidParameterError
from skembed.store import digest_of
from skembed.weights import fingerprint, kept_recent

__all__ = ["Preprocess", "make_preprocess", "probe_picture", "probe_pixels"]

# Not square, as most pictures are not.
_PROBE_SIZE = (320, 240)

# Sides of the squares that models of one size take, where nothing resizes pictures to it.
_USUAL_SIDES = (224, 32, 28, 64, 96, 128, 256, 299, 384, 16, 8)

# A model of one size takes no larger pictures.
_MOST_PIXELS = 1 << 20

# So often does a random function have to give the same tensor by chance to pass for a fixed one.
_N_TRIALS = 4

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


class Preprocess:
    """The user's function, copied, so that it stays as it is when the user changes it.

    Parameters
    ----------
    function : callable
        Turns a PIL image in mode RGB into a float tensor (channels, height, width).
    digest : bytes
        Of its content.

    Attributes
    ----------
    digest : bytes
        Of its content.
    probe : Tensor of shape (channels, height, width)
        What it makes of `probe_picture`.

    Raises
    ------
    InvalidParameterError
        If it fails on a picture, gives something else, or is random.
    """

    def __init__(self, function: Callable[[Image.Image], Any], digest: bytes) -> None:
        self.digest = digest
        copied = copy.deepcopy(function)
        self._function = copied.eval() if isinstance(copied, nn.Module) else copied
        self.probe = self._try()

    def __call__(self, image: Image.Image) -> Tensor:
        """Return the pixels of a picture, float32 (channels, height, width)."""
        output = self._function(image)
        if not isinstance(output, Tensor):
            kind = type(output)
            came = f"a {kind.__module__}.{kind.__qualname__}"
            advice = "Add torchvision.transforms.ToTensor() to it"
            if isinstance(output, Mapping):
                advice = 'Take the tensor out: `lambda x: processor(x, return_tensors="pt")'
                advice += '["pixel_values"][0]`'
        elif not output.is_floating_point():
            came = f"a tensor of {output.dtype}"
            advice = "Add torchvision.transforms.v2.ToDtype(torch.float32, scale=True) to it"
        elif output.layout is not torch.strided:
            came = f"a tensor of layout {output.layout}"
            advice = "Add its to_dense() to it"
        elif output.ndim != 3:
            came = f"a tensor of shape {tuple(output.shape)}"
            advice = "Leave out the batch's dimension: pictures are stacked afterwards"
        else:
            # A copy: what the function gives may be a small part of a large tensor.
            return output.detach().to("cpu", torch.float32, copy=True)
        raise InvalidParameterError(
            f"preprocess: expected {_EXPECTED}; this one gave {came}. {advice}."
        )

    def _try(self) -> Tensor:
        """Return what it makes of a picture, having seen that it is always the same."""
        found = []
        for _ in range(_N_TRIALS):
            image = probe_picture()
            try:
                found.append(self(image))
            except InvalidParameterError:
                raise
            except Exception as error:
                raise InvalidParameterError(
                    f"preprocess={self._function!r:.200} failed on a PIL image in mode RGB of "
                    f"{image.width} x {image.height} pixels: {type(error).__name__}: {error}. "
                    f"Expected {_EXPECTED}."
                ) from error
        if not all(_are_equal(found[0], each) for each in found[1:]):
            raise InvalidParameterError(
                f"preprocess={self._function!r:.200} is random: it made different tensors of one "
                "picture, which would make the vectors random. Use the transform of evaluation, "
                "without augmentation."
            )
        self._refuse_shared_memory()
        return found[0]

    def _refuse_shared_memory(self) -> None:
        """Refuse a function that writes each picture's pixels where those of the last one are."""
        first = self._function(probe_picture())
        before = first.detach().clone()
        with suppress(Exception):  # pictures that it does not take are faults of their rows
            self._function(probe_picture().transpose(Image.Transpose.ROTATE_180))
        if not _are_equal(first, before):
            raise InvalidParameterError(
                f"preprocess={self._function!r:.200} gives one tensor again and again, and writes "
                "each picture over the last one. Let it make a new tensor for each: it is called "
                "from several threads."
            )


def _are_equal(some: Tensor, others: Tensor) -> bool:
    """Return whether tensors are the same in every bit that matters: NaN is NaN."""
    if some.shape != others.shape:
        return False
    return torch.allclose(some, others, rtol=0, atol=0, equal_nan=True)
