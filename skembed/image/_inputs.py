"""Rows of pictures: what is accepted, and which rows are bad.

Knows containers (lists, Series, frames, stacks, matrices), not models. `_pictures` and `_arrays`
say what a single picture may be.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skembed._file_rows import FileRoom, check_rows, holds_array, is_single_file
from skembed._inputs import (
    CheckedRows,
    array_of,
    as_numpy,
    check_matrix,
    column_of,
    is_tensor,
    shown,
)
from skembed.exceptions import InvalidInputError
from skembed.image._arrays import (
    check_image_shape,
    check_value_range,
    check_values,
    find_layout,
    range_of,
    warn_if_nearly_black,
)
from skembed.image._pictures import (
    EncodedPicture,
    Picture,
    PixelPicture,
    check_all_loaded,
    why_not_an_image,
)
from skembed.image._rgb import Range

__all__ = ["check_images"]

_EXAMPLE = '["a.jpg", "b.png"]'


def check_images(
    X: Any,
    *,
    image_shape: tuple[int, ...] | None = None,
    value_range: Range | None = None,
) -> CheckedRows:
    """Check a column, stack or matrix of images; items are `Picture`.

    With `image_shape`, rows of a numeric matrix are images of that shape. `value_range` are the
    numbers that mean black and white; None goes by the type.
    """
    shape = None if image_shape is None else check_image_shape(image_shape)
    value_range = None if value_range is None else check_value_range(value_range)
    _refuse_single(X)
    stack = _as_stack(X, shape)
    if stack is not None:
        return _check_stack(stack, is_tensor(X), value_range)
    is_flat = isinstance(X, np.ndarray) and X.ndim == 1 and X.dtype.kind in "biuf"
    if shape is not None and is_flat and X.size == np.prod(shape):
        raise InvalidInputError(
            f"Expected a matrix of shape (n, {X.size}), because image_shape={shape} is set, got a "
            "single row. Use X.reshape(1, -1)."
        )
    column = column_of(X, what="images", example=_EXAMPLE)

    def check_others(values: list[Any]) -> list[Picture | str]:
        return _check_in_memory(values, shape, value_range)

    room = FileRoom(
        what="an image",
        why_not=why_not_an_image,
        of_file=partial(EncodedPicture, value_range=value_range),
        check_others=check_others,
    )
    return check_rows(column, room)


def _refuse_single(X: Any) -> None:
    """Refuse one picture that is not in a collection; `column_of` refuses str and bytes."""
    if isinstance(X, Image.Image) or is_single_file(X):
        raise InvalidInputError(
            f"Expected a list, 1-D array, Series or one-column frame of pictures, like {_EXAMPLE}; "
            f"got a single {type(X).__name__}. Put it in a list."
        )


def _as_stack(X: Any, shape: tuple[int, ...] | None) -> NDArray[Any] | None:
    """Return images of one shape as an array (n, ...); None if X is a column of images."""
    array = array_of(X, what="images")
    if array is None:
        return None
    is_frame = hasattr(X, "columns")
    if is_frame and shape is not None and array.dtype.kind not in "biuf":
        raise InvalidInputError(
            f"Expected a frame of numbers, because image_shape={shape} is set, got one with "
            "columns of other kinds. Choose the columns with the pixels."
        )
    if array.dtype == object and array.ndim > 2:
        # What NumPy makes of a list of arrays of one shape, if objects are asked for.
        array = np.array(array.tolist())
    if array.dtype == object and array.ndim == 2 and array.shape[1] > 1 and not is_frame:
        raise InvalidInputError(
            f"Expected numbers, got a matrix of objects of shape {array.shape}. Choose the columns "
            "with the pixels and convert them, for example with X.astype(float)."
        )
    if array.dtype.kind not in "biuf" or array.ndim < 2:
        return None
    if array.ndim == 2:
        return _reshape_matrix(array, shape)
    if array.ndim == 3 and len(array) and is_tensor(X):
        raise InvalidInputError(
            f"Expected a list or stack of pictures, got a tensor of shape {tuple(array.shape)}. "
            "Put a single picture in a list; make a stack of grey ones 4-D with X.unsqueeze(1)."
        )
    if array.ndim == 3 and len(array) and array.shape[2] in (1, 3, 4):
        raise InvalidInputError(
            f"Expected a list or stack of pictures, got an array of shape {array.shape}, probably "
            "a single picture. Put it in a list; make a stack of one-pixel-wide pictures 4-D."
        )
    if array.ndim > 4:
        raise InvalidInputError(
            f"Expected a stack of pictures with 3 or 4 dimensions, got an array of shape "
            f"{array.shape}."
        )
    return array


def _reshape_matrix(array: NDArray[Any], shape: tuple[int, ...] | None) -> NDArray[Any]:
    n_columns = array.shape[1]
    if not n_columns:
        raise InvalidInputError(
            f"Expected pictures, got a table without columns, of shape {array.shape}."
        )
    if shape is None and not len(array):
        return array.reshape(0, 1, 1)
    if shape is None:
        side = round(n_columns**0.5)
        guess = f"image_shape=({side}, {side})" if side * side == n_columns else "image_shape"
        raise InvalidInputError(
            f"Expected pictures, got a matrix of numbers of shape {array.shape}. If its rows are "
            f"pictures, set {guess}."
        )
    if int(np.prod(shape)) != n_columns:
        raise InvalidInputError(
            f"Expected rows of {int(np.prod(shape)):,} numbers, because image_shape={shape} is "
            f"set, got a matrix with {n_columns:,} columns. Fix image_shape or choose the columns."
        )
    return array.reshape(len(array), *shape)


def _check_stack(
    stack: NDArray[Any], prefers_first: bool, value_range: Range | None
) -> CheckedRows:
    layout = find_layout(stack.shape[1:], prefers_first=prefers_first)
    if isinstance(layout, str):
        raise InvalidInputError(f"Expected a stack of pictures, got shape {stack.shape}: {layout}.")
    if layout == 0:
        stack = np.moveaxis(stack, 1, -1)
    expected = range_of(stack.dtype, value_range)
    faults = check_values(stack, expected)
    if value_range is None:
        warn_if_nearly_black([stack])
    return check_matrix(stack, faults, partial(PixelPicture, value_range=expected))


def _check_in_memory(
    values: list[Any], shape: tuple[int, ...] | None, value_range: Range | None
) -> list[Picture | str]:
    """Return the picture, or what is wrong, of each row that is no file."""
    images = {i: value for i, value in enumerate(values) if isinstance(value, Image.Image)}
    loaded = check_all_loaded(list(images.values()), value_range)
    found = dict(zip(images, loaded, strict=True))
    for i, value in enumerate(values):
        if i not in images:
            found[i] = _check_row(value, shape, value_range)
    if value_range is None:
        warn_if_nearly_black([p.pixels for p in found.values() if isinstance(p, PixelPicture)])
    return [found[i] for i in range(len(values))]


def _check_row(
    value: Any, shape: tuple[int, ...] | None, value_range: Range | None
) -> Picture | str:
    if holds_array(value):
        return _check_array(value, shape, value_range)
    if isinstance(value, (list, tuple)) and shape is not None:
        try:
            return _check_array(np.asarray(value), shape, value_range)
        except ValueError as error:  # of ragged lists
            return f"a {type(value).__name__} that is not an array: {error}"
    return (
        "expected a path, an encoded file, a PIL image, an array or a tensor, got "
        f"{type(value).__name__}: {shown(value)}{_hint_of(value)}"
    )


def _hint_of(value: Any) -> str:
    if isinstance(value, (list, tuple)) and value:
        if isinstance(value[0], (list, tuple, Real)):
            return "; if these are pixels, pass np.asarray(...)"
        return "; pass each picture by itself, without a label or a list around it"
    if isinstance(value, Mapping):
        return "; expected 'bytes' or 'path' in it; if it is a table, choose the column"
    if callable(getattr(value, "open", None)):  # OpenFile of fsspec
        return "; open it and pass the file object"
    return ""


def _check_array(
    value: Any, shape: tuple[int, ...] | None, value_range: Range | None
) -> Picture | str:
    try:
        pixels = as_numpy(value) if is_tensor(value) else np.asanyarray(value)
    except Exception as error:
        return str(error) or f"a {type(value).__name__} that does not convert to an array"
    what = f"array of shape {pixels.shape}, {pixels.dtype}"
    if is_tensor(value):
        what = f"tensor of shape {tuple(value.shape)}, {value.dtype}"
    if pixels.dtype.kind not in "biuf":
        return f"{what}: expected numbers"
    if pixels.ndim == 1:
        if shape is None:
            hint = "; if it is an encoded file, pass array.tobytes()"
            is_of_bytes = pixels.dtype == np.uint8
            return f"{what}: expected (height, width), or set image_shape{hint * is_of_bytes}"
        if pixels.size != int(np.prod(shape)):
            return f"{what}: expected {int(np.prod(shape)):,} numbers for image_shape={shape}"
        pixels = pixels.reshape(shape)
    layout = find_layout(pixels.shape, prefers_first=is_tensor(value))
    if isinstance(layout, str):
        return f"{what}: {layout}"
    if layout == 0:
        pixels = np.moveaxis(pixels, 0, -1)
    expected = range_of(pixels.dtype, value_range)
    faults = check_values(pixels[None], expected)
    return f"{what}: {faults[0]}" if faults else PixelPicture(np.asarray(pixels), expected)
