"""One picture in any form: the digest of its content, and how it is opened.

Owns decoding; the user's PIL images are not loaded, changed or closed. Must not know containers,
row numbers or models.
"""

from __future__ import annotations

import hashlib
import io
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from skembed._files import ChangedRow, RowFile, read_from_start, reading
from skembed.engine import map_in_threads
from skembed.exceptions import SkembedWarning, warn_user
from skembed.image._formats import (
    FOREIGN_FORMATS,
    colours_of_16_bits,
    readable_formats,
    refuse_misread,
    scale_transparency,
    why_unidentified,
)
from skembed.image._rgb import (
    Range,
    UnreadablePicture,
    is_maybe_turned,
    to_8_bits,
    upright_rgb,
)

__all__ = [
    "EncodedPicture",
    "LoadedPicture",
    "Picture",
    "PixelPicture",
    "check_all_loaded",
    "digest_of_image",
    "why_not_an_image",
]

_IF_TRUSTED = "If you trust it, raise PIL.Image.MAX_IMAGE_PIXELS."

_PLENTY = 64 << 20

_MAYBE_TURNED = (
    "PIL images made in memory carry an EXIF orientation, and are taken as they are. If it comes "
    "from their files (convert, resize and rotate keep it), apply PIL.ImageOps.exif_transpose to "
    "the result of Image.open first: it turns the picture and drops the tag."
)


class Picture(ABC):
    """One row; its digest is of a file's bytes, or of pixels in memory after all `open` does.

    Where the digest is of pixels, who opens it has to compare them: what lies in the user's memory
    may have changed since.
    """

    __slots__ = ()

    digest: bytes
    is_of_pixels: ClassVar[bool] = False

    @abstractmethod
    def open(self) -> Image.Image:
        """Return the picture, upright, in RGB; UnreadablePicture or ChangedRow say why not."""

    @abstractmethod
    def describe(self) -> str:
        """Return what messages call it."""


@dataclass(frozen=True, slots=True)
class EncodedPicture(Picture):
    """A file."""

    file: RowFile
    value_range: Range | None = None

    @property
    def digest(self) -> bytes:  # type: ignore[override]
        """Digest of the bytes, and of the range if there is one."""
        return _with_range(self.file.digest, self.value_range)

    def open(self) -> Image.Image:
        """Read and decode the file."""
        return decode(self.file.read(), self.value_range)

    def describe(self) -> str:
        """Return the path, or how many bytes it has."""
        return self.file.describe()


@dataclass(frozen=True, slots=True)
class PixelPicture(Picture):
    """An array of shape (height, width) or (height, width, channels), checked already."""

    is_of_pixels: ClassVar[bool] = True

    pixels: NDArray[Any]
    value_range: Range

    @property
    def digest(self) -> bytes:  # type: ignore[override]
        """Digest of the size and the 8-bit pixels."""
        height, width = self.pixels.shape[:2]
        return _digest_of_pixels((width, height), self._rgb().tobytes())

    def open(self) -> Image.Image:
        """Round to 8 bits and make RGB of it."""
        return Image.fromarray(self._rgb())

    def describe(self) -> str:
        """Return the array's shape."""
        return f"an array of shape {self.pixels.shape}, {self.pixels.dtype}"

    def _rgb(self) -> NDArray[np.uint8]:
        pixels = to_8_bits(self.pixels, self.value_range)
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        n_channels = pixels.shape[2]
        if n_channels == 1:
            return np.repeat(pixels, 3, axis=2)
        if n_channels == 3:
            return np.ascontiguousarray(pixels)
        # Pillow blends, so that a picture has the same pixels whatever it came as.
        if n_channels == 2:
            pixels = pixels[:, :, [0, 0, 0, 1]]
        return np.asarray(upright_rgb(Image.fromarray(np.ascontiguousarray(pixels))))


def _with_range(digest: bytes, value_range: Range | None) -> bytes:
    """Return the digest of a file that is read by a range: its pixels may depend on it."""
    if value_range is None:
        return digest
    mixed = hashlib.blake2b(digest, digest_size=16, person=b"skembed.range")
    mixed.update(struct.pack("<2d", *value_range))
    return mixed.digest()


def digest_of_image(image: Image.Image) -> bytes:
    """Return the digest of an image in RGB."""
    return _digest_of_pixels(image.size, image.tobytes())


def _digest_of_pixels(size: tuple[int, int], data: bytes) -> bytes:
    start = struct.pack("<2q", *size)
    digest = hashlib.blake2b(start, digest_size=16, person=b"skembed.pixels")
    digest.update(data)
    return digest.digest()


def decode(data: bytes, value_range: Range | None = None) -> Image.Image:
    """Decode a file: its first frame, upright, in RGB."""
    with opened(data) as image:
        return upright_rgb(image, value_range, colours_of_16_bits(image, data))


def why_not_an_image(data: bytes) -> str | None:
    """Say what is wrong with a file as far as its header tells; decodes no pixels."""
    try:
        with opened(data):
            return None
    except UnreadablePicture as error:
        return str(error)


@contextmanager
def opened(data: bytes) -> Iterator[Image.Image]:
    """Open a file; whatever is raised within becomes what is wrong with the picture."""
    try:
        with Image.open(io.BytesIO(data), formats=readable_formats()) as image:
            if reason := too_large(image):
                raise UnreadablePicture(reason)
            refuse_misread(image)
            scale_transparency(image)
            yield image
    except (UnreadablePicture, SkembedWarning):
        raise
    except UnidentifiedImageError as error:
        raise UnreadablePicture(why_unidentified(data)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadablePicture(f"too large: {error} {_IF_TRUSTED}") from error
    except MemoryError as error:
        if is_short_of_memory():
            raise
        raise UnreadablePicture("damaged or too large: it needs too much memory") from error
    except Exception as error:
        # Decoders raise whatever the damage leads them to: struct.error, KeyError, ...
        reason = str(error) or "no reason given"
        raise UnreadablePicture(f"damaged: {type(error).__name__}: {reason}") from error


def is_short_of_memory() -> bool:
    """Return whether little memory is left, so that a MemoryError tells nothing of the picture.

    A header that lies asks for any amount, and is refused while there is plenty.
    """
    try:
        np.empty(_PLENTY, np.uint8)
    except MemoryError:
        return True
    return False


def too_large(image: Image.Image) -> str | None:
    """Say why an image has more pixels than are taken for safe; None if it has not."""
    limit, n_pixels = Image.MAX_IMAGE_PIXELS, image.width * image.height
    if limit is None or n_pixels <= limit:
        return None
    return (
        f"too large: {image.width:,} x {image.height:,} pixels, more than Pillow considers safe. "
        f"{_IF_TRUSTED}"
    )


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
            reason = f"it can no longer be read: {error or type(error).__name__}"
            raise ChangedRow(reason) from error

    def describe(self) -> str:
        """Return that it is one."""
        return "a PIL image"


def check_all_loaded(images: list[Image.Image], value_range: Range | None) -> list[Picture | str]:
    """Return images as pictures, or what is wrong with each: they are decoded, several at once."""
    if any(is_maybe_turned(image) for image in images):
        warn_user(_MAYBE_TURNED, SkembedWarning, once="maybe turned")
    check = partial(_check_loaded, value_range=value_range)
    return map_in_threads(check, images, name="skembed-decode")


def _check_loaded(image: Image.Image, value_range: Range | None) -> Picture | str:
    if reason := too_large(image):
        return reason
    if not (image.width and image.height):
        return f"a picture without pixels: {image.width} x {image.height}"
    try:
        return LoadedPicture(image, digest_of_image(_read(image, value_range)), value_range)
    except UnreadablePicture as error:
        return f"a PIL image: {error}"
    except SkembedWarning:
        raise
    except MemoryError:
        if is_short_of_memory():
            raise
        return f"a PIL image that needs too much memory: {image.width:,} x {image.height:,}"
    except Exception as error:  # of a file that is closed, cut short or damaged
        reason = str(error) or "no reason given, perhaps its file has been closed"
        return f"a PIL image that cannot be loaded: {type(error).__name__}: {reason}"


def _read(image: Image.Image, value_range: Range | None) -> Image.Image:
    if isinstance(image, ImageFile.ImageFile) and _is_unread(image):
        if image.format in FOREIGN_FORMATS:
            raise UnreadablePicture(f"{image.format} files are not read; load or convert it first")
        rgb = _read_anew(image, value_range)
        if rgb is not None:
            return rgb
    refuse_misread(image)
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
            return upright_rgb(fresh, value_range, colours_of_16_bits(fresh, data))
    except UnreadablePicture as error:
        if isinstance(error.__cause__, UnidentifiedImageError):  # of a reader nobody registered
            return None
        raise
