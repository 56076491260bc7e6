"""PIL images and file objects of the user's, which are neither loaded, changed nor closed.

Owns how they are read without a trace. Must not know containers nor models.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from skembed._files import read_from_start, reading
from skembed.engine import map_in_threads
from skembed.exceptions import SkembedWarning
from skembed.image._pictures import (
    FOREIGN_FORMATS,
    ChangedPicture,
    Picture,
    PixelPicture,
    digest_of_image,
    is_short_of_memory,
    opened,
    too_large,
)
from skembed.image._rgb import Range, UnreadablePicture, upright_rgb

__all__ = ["LoadedPicture", "check_all_loaded"]


@dataclass(frozen=True, slots=True)
class LoadedPicture(Picture):
    """A PIL image of the user's."""

    is_of_pixels: ClassVar[bool] = True

    image: Image.Image
    digest: bytes
    value_range: Range | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Pillow would load the image to pickle it, and its copy would have no file to go back to.
        return PixelPicture, (np.asarray(self.open()), (0, 255))

    def open(self) -> Image.Image:
        """Return an upright copy in RGB."""
        try:
            return _read(self.image, self.value_range)
        except (MemoryError, SkembedWarning):
            raise
        except Exception as error:  # it could be read when it was checked
            reason = f"it can be read no more: {error or type(error).__name__}"
            raise ChangedPicture(reason) from error

    def describe(self) -> str:
        """Return that it is one."""
        return "a PIL image"


def check_all_loaded(images: list[Image.Image], value_range: Range | None) -> list[Picture | str]:
    """Return images as pictures, or what is wrong with each: they are decoded, several at once."""
    check = partial(_check_loaded, value_range=value_range)
    return map_in_threads(check, images, name="skembed-decode")


def _check_loaded(image: Image.Image, value_range: Range | None) -> Picture | str:
    if reason := too_large(image):
        return reason
    if not (image.width and image.height):
        return f"an image without pixels: {image.width} x {image.height}"
    try:
        return LoadedPicture(image, digest_of_image(_read(image, value_range)), value_range)
    except UnreadablePicture as error:
        return f"a PIL image: {error}"
    except SkembedWarning:
        raise
    except MemoryError:
        if is_short_of_memory():
            raise
        return f"a PIL image that asks for too much memory: {image.width:,} x {image.height:,}"
    except Exception as error:  # of a file that is closed, cut short or damaged
        reason = str(error) or "no reason given, as of a file that has been closed"
        return f"a PIL image that cannot be loaded: {type(error).__name__}: {reason}"


def _read(image: Image.Image, value_range: Range | None) -> Image.Image:
    if isinstance(image, ImageFile.ImageFile) and _is_unread(image):
        if image.format in FOREIGN_FORMATS:
            raise UnreadablePicture(f"{image.format} files are not read; load or convert it first")
        rgb = _read_anew(image, value_range)
        if rgb is not None:
            return rgb
    with reading():  # `getexif` is half done for who comes second
        return upright_rgb(image, value_range)


def _is_unread(image: ImageFile.ImageFile) -> bool:
    """Return whether the pixels are still in the file; `load` of some formats looks there anew."""
    return bool(image.tile) or vars(image).get("_im", vars(image).get("im")) is None


def _read_anew(image: ImageFile.ImageFile, value_range: Range | None) -> Image.Image | None:
    """Decode the file of an image that was opened and not loaded; None if that is not possible.

    Loading the user's own would leave its pixels there for as long as the user keeps it: a list of
    ten thousand opened photographs would fill any memory.
    """
    with reading():
        file: Any = image.fp
        if file is None:
            return None
        frame, data = image.tell(), read_from_start(file)
    try:
        with opened(data) as fresh:
            if frame:
                fresh.seek(frame)
            if (fresh.size, fresh.mode) != (image.size, image.mode):  # in draft mode
                return None
            return upright_rgb(fresh, value_range)
    except UnreadablePicture as error:
        if isinstance(error.__cause__, UnidentifiedImageError):  # of a reader nobody registered
            return None
        raise
