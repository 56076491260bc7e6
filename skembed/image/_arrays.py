"""Arrays and tensors of pixels: where their channels are, and what their numbers mean.

Knows shapes and numbers, not containers of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skembed.exceptions import InvalidParameterError, SkembedWarning, warn_user
from skembed.image._rgb import Range, describe_numbers, is_within, likely_white

__all__ = [
    "check_image_shape",
    "check_value_range",
    "check_values",
    "find_layout",
    "range_of",
    "size_of",
    "warn_if_nearly_black",
]

_USUAL_CHANNELS = (1, 3, 4)
_BYTES_PER_CHUNK = 32 << 20
_NEARLY_BLACK = 8


def check_image_shape(image_shape: Sequence[Any]) -> tuple[int, ...]:
    """Return the shape as integers, or refuse it."""
    shape = tuple(image_shape)
    is_int = [isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n > 0 for n in shape]
    if not all(is_int) or isinstance(find_layout(shape, prefers_first=False), str):
        raise InvalidParameterError(
            f"image_shape={image_shape!r}: expected (height, width), or the same with 1 to 4 "
            "channels before or after them, like (8, 8) or (32, 32, 3)."
        )
    return tuple(int(n) for n in shape)


def size_of(image_shape: Sequence[Any]) -> tuple[int, int]:
    """Return (height, width) of images of a shape."""
    shape = check_image_shape(image_shape)
    height, width = shape[1:] if find_layout(shape, prefers_first=False) == 0 else shape[:2]
    return height, width


def check_value_range(value_range: Sequence[Any]) -> Range:
    """Return the range as two floats, or refuse it."""
    try:
        low, high = (float(n) if isinstance(n, Real) else float("nan") for n in value_range)
    except (OverflowError, ValueError):
        low = high = float("nan")
    if not (np.isfinite([low, high, high - low]).all() and low < high):
        raise InvalidParameterError(
            f"value_range={value_range!r}: expected two numbers, for black and white, the lower "
            "one first, like (0, 16)."
        )
    return low, high


def find_layout(shape: Sequence[int], *, prefers_first: bool) -> Literal[0, 1, 2] | str:
    """Return where the channels of one image are: 0 first, 2 last, 1 nowhere; or what is wrong.

    Where both ends could be channels, NumPy's arrays have them last and torch's tensors first.
    """
    if 0 in shape:
        return "it has no pixels"
    if len(shape) == 2:
        return 1
    if len(shape) != 3:
        return "expected (height, width) or three dimensions with the channels first or last"
    for usual in (_USUAL_CHANNELS, (2,)):
        is_first, is_last = shape[0] in usual, shape[2] in usual
        if is_first or is_last:
            return 0 if is_first and (prefers_first or not is_last) else 2
    return "expected 1 to 4 channels, first or last"


def range_of(dtype: np.dtype[Any], value_range: Range | None) -> Range:
    """Return the numbers that mean black and white in an array of this type."""
    if value_range is not None:
        return value_range
    if dtype.kind == "f" or dtype.kind == "b":
        return (0, 1)
    # Not dtype == np.uint16: that leaves out the byte order of TIFF and FITS files.
    return (0, 65535) if dtype.kind == "u" and dtype.itemsize == 2 else (0, 255)


def check_values(stack: NDArray[Any], expected: Range) -> dict[int, str]:
    """Return which images of a stack (n, ...) have numbers beyond the range, and what they have."""
    if isinstance(stack, np.ma.MaskedArray):
        is_masked = np.ma.getmaskarray(stack).reshape(len(stack), -1).any(1)
        masked = "some of its pixels are missing or masked; fill them in"
        beyond = check_values(np.ma.getdata(stack), expected)
        return beyond | dict.fromkeys(np.flatnonzero(is_masked).tolist(), masked)
    if (stack.dtype == np.uint8 and expected == (0, 255)) or not len(stack):
        return {}
    faults: dict[int, str] = {}
    step = max(1, _BYTES_PER_CHUNK // max(1, stack[0].nbytes))
    axes = tuple(range(1, stack.ndim))
    for start in range(0, len(stack), step):
        chunk = stack[start : start + step]
        low, high = chunk.min(axes), chunk.max(axes)
        for i in np.flatnonzero(~is_within(low, high, expected)).tolist():
            faults[start + i] = _describe(float(low[i]), float(high[i]), stack.dtype, expected)
    return faults


def warn_if_nearly_black(arrays: Sequence[NDArray[Any]]) -> None:
    """Warn where all whole numbers of a type end far below what it makes white."""
    largest: dict[tuple[np.dtype[Any], float], int] = {}
    for pixels in arrays:
        if pixels.dtype.kind in "iu" and pixels.dtype != np.uint8 and pixels.size:
            key = pixels.dtype, range_of(pixels.dtype, None)[1]
            largest[key] = max(largest.get(key, 0), int(np.ma.getdata(pixels).max()))
    for (dtype, white), most in largest.items():
        if 0 < most <= white / _NEARLY_BLACK:
            likely = likely_white(most)
            warn_user(
                f"The {dtype} pixels go up to {most}, but white is {white:g}, so the pictures come "
                f"out nearly black. If {likely} is white, set value_range=(0, {likely}); if not, "
                f"confirm with value_range=(0, {white:g}).",
                SkembedWarning,
            )


def _describe(low: float, high: float, dtype: np.dtype[Any], expected: Range) -> str:
    if np.isnan(low):
        return (
            f"some of its pixels ({dtype}) are NaN, expected numbers from {expected[0]:g} to "
            f"{expected[1]:g}; replace them"
        )
    return describe_numbers(low, high, str(dtype), expected)
