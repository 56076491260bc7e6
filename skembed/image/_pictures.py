"""One picture, from whatever it came as to upright 8-bit RGB.

Owns decoding and the rules of colour, depth, transparency and orientation. Must not know
containers, row numbers nor models.
"""

from __future__ import annotations

import hashlib
import io
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError

__all__ = [
    "FOREIGN_FORMATS",
    "BytesPicture",
    "ChangedPicture",
    "FilePicture",
    "Picture",
    "PixelPicture",
    "UnreadablePicture",
    "digest_of_file",
    "digest_of_image",
    "is_short_of_memory",
    "is_within",
    "opened",
    "too_large",
    "upright_rgb",
    "why_not_an_image",
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

# Read by other programs (Ghostscript) or only where the user has set up a reader. IPTC is a wrapper
# around a file of any format, and has Pillow open an EPS file within.
FOREIGN_FORMATS = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "IPTC"}

_WHITE = (255, 255, 255, 255)
_IF_TRUSTED = "If you trust it, raise PIL.Image.MAX_IMAGE_PIXELS."

# Pixels that pass through float64 at once, and from how many on a table of all values is faster.
_N_SCALED_AT_ONCE = 1 << 20
_N_TABLE = 1 << 17

_PLENTY = 64 << 20

# Arithmetic in float32 ends this share of the range beyond black or white (1.0000001).
_ROUNDING = 1e-6

Range = tuple[float, float]


class UnreadablePicture(Exception):
    """A picture cannot be decoded; the message says why."""


class ChangedPicture(UnreadablePicture):
    """A picture is gone, or no longer what it was."""


class Picture(ABC):
    """One row.

    Attributes
    ----------
    digest : bytes
        Of its content: of a file its bytes, in memory its pixels after all that `open` does.
    is_of_pixels : bool
        Whether `digest` is that of the image that `open` gives. Who opens it has to compare them:
        what lies in the user's memory may have changed since.
    """

    __slots__ = ()

    digest: bytes
    is_of_pixels: ClassVar[bool] = False

    @abstractmethod
    def open(self) -> Image.Image:
        """Return the picture, upright, in mode RGB.

        Raises
        ------
        UnreadablePicture
            If it cannot be decoded.
        ChangedPicture
            If it is a file that is no longer what it was when its digest was taken.
        """

    @abstractmethod
    def describe(self) -> str:
        """Return what messages call it."""


@dataclass(frozen=True, slots=True)
class FilePicture(Picture):
    """A file on disk, read when it is needed."""

    path: str
    digest_of_bytes: bytes
    value_range: Range | None = None

    @property
    def digest(self) -> bytes:  # type: ignore[override]
        """Digest of the bytes, and of the range if there is one."""
        return _with_range(self.digest_of_bytes, self.value_range)

    def open(self) -> Image.Image:
        """Read and decode the file."""
        try:
            data = Path(self.path).read_bytes()
        except OSError as error:
            reason = error.strerror or error
            raise ChangedPicture(f"it cannot be read any more: {reason}") from error
        # A vector must never be stored under the key of another content.
        if digest_of_file(data) != self.digest_of_bytes:
            raise ChangedPicture("it changed while it was being embedded")
        return decode(data, self.value_range)

    def describe(self) -> str:
        """Return the path."""
        return repr(self.path)


@dataclass(frozen=True, slots=True)
class BytesPicture(Picture):
    """An encoded file in memory."""

    data: bytes
    digest_of_bytes: bytes
    value_range: Range | None = None

    @property
    def digest(self) -> bytes:  # type: ignore[override]
        """Digest of the bytes, and of the range if there is one."""
        return _with_range(self.digest_of_bytes, self.value_range)

    def open(self) -> Image.Image:
        """Decode the bytes."""
        return decode(self.data, self.value_range)

    def describe(self) -> str:
        """Return how many bytes it has."""
        return f"{len(self.data):,} bytes"


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


def to_8_bits(pixels: NDArray[Any], value_range: Range) -> NDArray[np.uint8]:
    """Round numbers of a range to 0..255, half to even."""
    low, high = value_range
    if pixels.dtype == np.uint8 and (low, high) == (0, 255):
        return pixels
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize <= 2 and pixels.size > _N_TABLE:
        table = np.arange(256**pixels.dtype.itemsize, dtype=pixels.dtype.newbyteorder("="))
        is_within = (table >= low) & (table <= high)
        rounded: NDArray[np.uint8] = _scaled(np.where(is_within, table, low), low, high)[pixels]
        return rounded
    rounded = np.empty(pixels.shape, np.uint8)
    step = max(1, _N_SCALED_AT_ONCE // max(1, pixels[:1].size))
    for start in range(0, len(pixels), step):
        rounded[start : start + step] = _scaled(pixels[start : start + step], low, high)
    return rounded


def _scaled(numbers: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    scaled = (numbers.astype(np.float64) - low) / (high - low) * 255
    np.rint(scaled, out=scaled)
    return np.clip(scaled, 0, 255, out=scaled).astype(np.uint8)


def is_within(low: Any, high: Any, expected: Range) -> Any:
    """Return whether numbers from low to high are of a range, to rounding; of NaN they are not."""
    slack = _ROUNDING * (expected[1] - expected[0])
    return (low >= expected[0] - slack) & (high <= expected[1] + slack)


def digest_of_file(data: bytes) -> bytes:
    """Return the digest of an encoded file."""
    return hashlib.blake2b(data, digest_size=16, person=b"skembed.file").digest()


def digest_of_image(image: Image.Image) -> bytes:
    """Return the digest of an image in RGB."""
    return _digest_of_pixels(image.size, image.tobytes())


def _digest_of_pixels(size: tuple[int, int], data: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=16, person=b"skembed.pixels")
    digest.update(struct.pack("<2q", *size))
    digest.update(data)
    return digest.digest()


def decode(data: bytes, value_range: Range | None = None) -> Image.Image:
    """Decode a file: its first frame, upright, in RGB.

    Raises
    ------
    UnreadablePicture
        If it is no image, damaged, or too large.
    MemoryError
        If the machine is short of memory, whatever the picture.
    """
    with opened(data) as image:
        return upright_rgb(image, value_range)


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
            yield image
    except UnreadablePicture:
        raise
    except UnidentifiedImageError as error:
        raise UnreadablePicture(_why_unidentified(data)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadablePicture(f"too large: {error} {_IF_TRUSTED}") from error
    except MemoryError as error:
        if is_short_of_memory():
            raise
        raise UnreadablePicture("damaged or too large: it asks for too much memory") from error
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


def readable_formats() -> tuple[str, ...]:
    """Return the formats that Pillow reads by itself, and those that the user has registered."""
    Image.init()
    return tuple(name for name in Image.ID if name not in FOREIGN_FORMATS)


def _why_unidentified(data: bytes) -> str:
    for name in sorted(FOREIGN_FORMATS):
        accepts = Image.OPEN[name][1] if name in Image.OPEN else None
        if accepts is not None and accepts(data[:16]):
            return f"{name} files are not read, as other programs would have to; convert it first"
    return "not an image that Pillow reads"


def too_large(image: Image.Image) -> str | None:
    """Say why an image has more pixels than are taken for safe; None if it has not."""
    limit, n_pixels = Image.MAX_IMAGE_PIXELS, image.width * image.height
    if limit is None or n_pixels <= limit:
        return None
    return (
        f"too large: {image.width:,} x {image.height:,} pixels, more than Pillow takes for safe. "
        f"{_IF_TRUSTED}"
    )


def upright_rgb(image: Image.Image, value_range: Range | None = None) -> Image.Image:
    """Return a copy of an image, turned as its EXIF data say, in 8-bit RGB.

    Transparent pixels are laid over white: what colour lies under them means nothing.
    """
    image.load()
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF data tell no orientation; the pixels are there
        turn = None
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
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        turned = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert turned is not None
        return turned
    if not image.has_transparency_data:
        return image.convert("RGB")
    if image.mode in ("La", "RGBa"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    image = image.convert("RGBA")
    below = Image.new("RGBA", image.size, _WHITE)
    below.alpha_composite(image)
    return below.convert("RGB")


def _from_numbers(image: Image.Image, value_range: Range | None) -> Image.Image:
    """Return a gray image of one with 16-bit, 32-bit or float pixels; Pillow would clip them."""
    pixels = np.asarray(image)
    expected = value_range or ((0, 1) if image.mode == "F" else (0, 65535))
    low, high = (float(pixels.min()), float(pixels.max())) if pixels.size else expected
    if np.isnan(low):
        raise UnreadablePicture(f"some of its pixels (mode {image.mode}) are NaN")
    if not is_within(low, high, expected):
        raise UnreadablePicture(
            f"its pixels (mode {image.mode}) are numbers from {low:g} to {high:g}, expected "
            f"{expected[0]:g} to {expected[1]:g}; set value_range to what means black and white"
        )
    gray = to_8_bits(pixels, expected)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        gray = np.where(pixels == transparent, np.uint8(255), gray)
    return Image.fromarray(gray)
