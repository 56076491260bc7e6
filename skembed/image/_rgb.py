"""Colours: from whatever Pillow or NumPy hold to upright 8-bit RGB.

Owns the rules of colour, depth, transparency and orientation. Must not know files nor rows.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from skembed.exceptions import SkembedWarning, warn_user

__all__ = ["Range", "UnreadablePicture", "is_within", "to_8_bits", "upright_rgb"]

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Tags of TIFF files.
_BITS_PER_SAMPLE = 258
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0

_WHITE = (255, 255, 255, 255)
# Pixels that pass through float64 at once.
_N_SCALED_AT_ONCE = 1 << 20

# Arithmetic in float32 ends this share of the range beyond black or white (1.0000001).
_ROUNDING = 1e-6

Range = tuple[float, float]


class UnreadablePicture(Exception):
    """A picture cannot be decoded; the message says why."""


def to_8_bits(pixels: NDArray[Any], value_range: Range) -> NDArray[np.uint8]:
    """Round numbers of a range to 0..255, half to even."""
    low, high = value_range
    if pixels.dtype == np.uint8 and (low, high) == (0, 255):
        return pixels
    rounded = np.empty(pixels.shape, np.uint8)
    step = max(1, _N_SCALED_AT_ONCE // max(1, pixels[:1].size))
    for start in range(0, len(pixels), step):
        scaled = (pixels[start : start + step].astype(np.float64) - low) / (high - low) * 255
        rounded[start : start + step] = np.clip(np.rint(scaled), 0, 255)
    return rounded


def is_within(low: Any, high: Any, expected: Range) -> Any:
    """Return whether numbers from low to high are of a range, to rounding; of NaN they are not."""
    slack = _ROUNDING * (expected[1] - expected[0])
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    return (low >= expected[0] - slack) & (high <= expected[1] + slack)


def upright_rgb(image: Image.Image, value_range: Range | None = None) -> Image.Image:
    """Return a copy of an image in 8-bit RGB, turned as its EXIF data say if it was opened.

    What Pillow makes of an opened image (`rotate`, `convert`, ...) keeps the tag, and may be
    upright by now. Transparent pixels are laid over white: the colour under them means nothing.
    """
    image.load()
    turn = None
    if isinstance(image, ImageFile.ImageFile):
        with suppress(Exception):  # damaged EXIF data tell no orientation; the pixels are there
            turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    rgb = _to_rgb(image, value_range)
    if turn is not None:
        rgb = rgb.transpose(turn)
    elif rgb is image:
        rgb = rgb.copy()
    # Whoever reads the orientation again must not turn it twice.
    rgb.info = {}
    return rgb


def _to_rgb(image: Image.Image, value_range: Range | None) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _from_numbers(image, value_range).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    below = Image.new("RGBA", image.size, _WHITE)
    below.alpha_composite(image)
    return below.convert("RGB")


def _from_numbers(image: Image.Image, value_range: Range | None) -> Image.Image:
    """Return a gray image of one with 16-bit, 32-bit or float pixels; Pillow would clip them."""
    pixels, tags = np.asarray(image), getattr(image, "tag_v2", {})
    n_bits = 16
    if image.mode.startswith("I;16"):  # of a TIFF file also 12
        n_bits = min(16, *tags.get(_BITS_PER_SAMPLE, (16,)))
    expected = value_range or ((0, 1) if image.mode == "F" else (0, 2**n_bits - 1))
    low, high = (float(pixels.min()), float(pixels.max())) if pixels.size else expected
    if np.isnan(low):
        raise UnreadablePicture(f"some of its pixels (mode {image.mode}) are NaN")
    if not is_within(low, high, expected):
        raise UnreadablePicture(
            f"its pixels (mode {image.mode}) are numbers from {low:g} to {high:g}, expected "
            f"{expected[0]:g} to {expected[1]:g}; set value_range to what means black and white"
        )
    if value_range is None and n_bits == 16 and 0 < high < 1 << 13 and image.mode != "F":
        n_used = int(high).bit_length()
        warn_user(
            f"A picture of 16 bits has numbers of {n_used} bits only, and 65535 means white: it is "
            f"nearly black. If {2**n_used - 1} is white, set value_range=(0, {2**n_used - 1}); if "
            "not, value_range=(0, 65535) says so.",
            SkembedWarning,
            once="nearly black picture",
        )
    gray = to_8_bits(pixels, expected)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # Pillow's to 8 bits only
        gray = 255 - gray
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        gray = np.where(pixels == transparent, np.uint8(255), gray)
    return Image.fromarray(gray)
