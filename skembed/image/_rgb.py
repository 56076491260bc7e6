"""Colours: from anything in Pillow or NumPy to upright 8-bit RGB.

Owns the rules for colour, depth, transparency and orientation. Must not know files or rows.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.GifImagePlugin import GifImageFile

from skembed.exceptions import SkembedWarning, warn_user

__all__ = [
    "Range",
    "UnreadablePicture",
    "describe_numbers",
    "is_maybe_turned",
    "is_within",
    "likely_white",
    "to_8_bits",
    "upright_rgb",
]

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
# Of floats, scikit-learn's digits, and what cameras and scanners give.
_USUAL_WHITES = (1, 2, 4, 8, 16, 255, 4095, 16383, 65535)
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


def likely_white(most: float) -> int:
    """Return what means white, as far as the largest of some numbers tells."""
    return next((white for white in _USUAL_WHITES if most <= white), math.ceil(most))


def describe_numbers(low: float, high: float, kind: str, expected: Range) -> str:
    """Say that pixels are beyond the expected range, and how to say the right one."""
    advice = "set value_range to the numbers for black and white"
    if np.isfinite([low, high]).all():
        black = 0 if low >= 0 else min(math.floor(low), -1)
        advice += f", such as value_range=({black}, {likely_white(high)})"
    return (
        f"its pixels ({kind}) are numbers from {low:g} to {high:g}, expected {expected[0]:g} to "
        f"{expected[1]:g}; {advice}"
    )


def upright_rgb(
    image: Image.Image,
    value_range: Range | None = None,
    colours: NDArray[np.uint16] | None = None,
) -> Image.Image:
    """Return a copy of an image in 8-bit RGB, turned as its EXIF data say if it was opened.

    What Pillow makes of an opened image (`rotate`, `convert`, ...) keeps the tag, and may be
    upright by now. Transparent pixels are laid over white: the colour under them means nothing.
    `colours` are its pixels where they have 16 bits, of which Pillow keeps 8.
    """
    image.load()
    turn = None
    if isinstance(image, ImageFile.ImageFile):
        with suppress(Exception):  # damaged EXIF data tell no orientation; the pixels are there
            turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    if colours is None:
        rgb = _to_rgb(image, value_range)
    else:
        rgb = _from_colours(colours, image.info.get("transparency"), value_range)
    if isinstance(image, GifImageFile) and image.tell() == 0 and image.dispose_extent:
        rgb = _uncover(rgb, image.dispose_extent)
    if turn is not None:
        rgb = rgb.transpose(turn)
    elif rgb is image:
        rgb = rgb.copy()
    # Whoever reads the orientation again must not turn it twice.
    rgb.info = {}
    return rgb


def is_maybe_turned(image: Image.Image) -> bool:
    """Return whether an image that was not opened has an orientation, which may be true no more."""
    data = image.info.get("exif")
    if data is None or isinstance(image, ImageFile.ImageFile):
        return False
    with suppress(Exception):
        exif = Image.Exif()  # the image's own `getexif` would keep what it finds
        exif.load(data)
        return exif.get(_ORIENTATION, 1) in _TURNS
    return False


def _to_rgb(image: Image.Image, value_range: Range | None) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _from_numbers(image, value_range).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    clear = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(clear, tuple) and max(clear) > 255:  # of a 16-bit file
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    if image.mode == "La":
        image = image.convert("LA")
    return _over_white(image.convert("RGBA"))


def _over_white(image: Image.Image) -> Image.Image:
    below = Image.new("RGBA", image.size, _WHITE)
    below.alpha_composite(image)
    return below.convert("RGB")


def _uncover(rgb: Image.Image, extent: tuple[int, int, int, int]) -> Image.Image:
    """Return a GIF's first frame with white around it, where browsers show what is below."""
    if extent == (0, 0, *rgb.size):
        return rgb
    canvas = Image.new("RGB", rgb.size, _WHITE[:3])
    canvas.paste(rgb.crop(extent), extent[:2])
    return canvas


def _from_numbers(image: Image.Image, value_range: Range | None) -> Image.Image:
    """Return a gray image of one with 16-bit, 32-bit or float pixels; Pillow would clip them."""
    pixels, tags = np.asarray(image), getattr(image, "tag_v2", {})
    n_bits = 16
    if image.mode.startswith("I;16"):  # of a TIFF file also 12
        n_bits = min(16, *tags.get(_BITS_PER_SAMPLE, (16,)))
    white = 1 if image.mode == "F" else 2**n_bits - 1
    gray = _scale(pixels, value_range, white, f"mode {image.mode}")
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # Pillow's to 8 bits only
        gray = 255 - gray
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        gray = np.where(pixels == transparent, np.uint8(255), gray)
    return Image.fromarray(gray)


def _from_colours(pixels: NDArray[np.uint16], clear: Any, value_range: Range | None) -> Image.Image:
    """Return an RGB image of 16-bit pixels (height, width, 2 to 4), the last of 2 and 4 alpha."""
    n_colours = 1 if pixels.shape[2] == 2 else 3
    colours = pixels[:, :, :n_colours]
    rgb = np.repeat(_scale(colours, value_range, 65535, "16 bits"), 3 // n_colours, axis=2)
    if n_colours < pixels.shape[2]:
        alpha = to_8_bits(pixels[:, :, n_colours:], (0, 65535))
    elif clear is not None:
        is_clear = (colours == np.asarray(clear)).all(axis=2, keepdims=True)
        alpha = np.where(is_clear, np.uint8(0), np.uint8(255))
    else:
        return Image.fromarray(rgb)
    return _over_white(Image.fromarray(np.concatenate([rgb, alpha], axis=2)))


def _scale(
    pixels: NDArray[Any], value_range: Range | None, white: int, kind: str
) -> NDArray[np.uint8]:
    """Return numbers in 8 bits, or refuse those beyond the range."""
    expected = value_range or (0, white)
    low, high = (float(pixels.min()), float(pixels.max())) if pixels.size else expected
    if np.isnan(low):
        raise UnreadablePicture(f"some of its pixels ({kind}) are NaN")
    if not is_within(low, high, expected):
        raise UnreadablePicture(describe_numbers(low, high, kind, expected))
    if value_range is None and white == 65535 and 0 < high < 1 << 13:
        likely = max(255, likely_white(high))
        warn_user(
            f"A 16-bit picture has no number above {likely}, but white is 65535, so it comes out "
            f"nearly black. If {likely} is white, set value_range=(0, {likely}); if not, confirm "
            "with value_range=(0, 65535).",
            SkembedWarning,
            once=f"nearly black below {likely}",
        )
    return to_8_bits(pixels, expected)
