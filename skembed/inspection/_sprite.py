"""Pictures of rows side by side in one, as the projector reads them.

Knows pictures, not vectors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from skembed._inputs import is_missing
from skembed._optional import import_optional
from skembed.exceptions import InvalidInputError, InvalidRowsError, SkembedError, describe_rows
from skembed.inspection._thumbnails import open_picture

__all__ = ["side_of", "sprite_of"]

MOST_PIXELS = 8192
"""The projector refuses a sheet with longer sides."""

_LEAST_PIXELS = 8


def side_of(n: int, wanted: int) -> int:
    """Return how many pixels a side n pictures have, at most `wanted`, on one sheet."""
    side = min(wanted, MOST_PIXELS // max(1, math.isqrt(max(n, 1) - 1) + 1))
    if side < min(wanted, _LEAST_PIXELS):
        most = (MOST_PIXELS // _LEAST_PIXELS) ** 2
        raise InvalidInputError(
            f"images: {n:,} pictures don't fit into {MOST_PIXELS:,} x {MOST_PIXELS:,} pixels, the "
            f"most that the projector shows; at {_LEAST_PIXELS} pixels a side {most:,} do. Export "
            "fewer rows, or leave the images out."
        )
    return side


def sprite_of(images: Sequence[Any], side: int) -> Any:
    """Return a PIL image of all pictures, row by row, each in the middle of a square of `side`."""
    pil, fit = (
        import_optional(name, extra="plot", purpose="A sheet of pictures")
        for name in ("PIL.Image", "PIL.ImageOps")
    )
    n_columns = math.isqrt(max(len(images), 1) - 1) + 1
    n_lines = math.ceil(len(images) / n_columns)
    sheet = pil.new("RGB", (n_columns * side, n_lines * side), "white")
    faults: dict[int, str] = {}
    for i, image in enumerate(images):
        if is_missing(image):
            continue
        try:
            picture = fit.contain(open_picture(image, side), (side, side))  # small ones grow
        except SkembedError as error:
            faults[i] = str(error)
            continue
        line, column = divmod(i, n_columns)
        x, y = ((side - length) // 2 for length in picture.size)
        sheet.paste(picture, (column * side + x, line * side + y))
    if faults:
        raise InvalidRowsError(
            f"{len(faults):,} of {len(images):,} pictures cannot be drawn; give None for a row "
            f"without one:{describe_rows(faults)}",
            faults,
        )
    return sheet
