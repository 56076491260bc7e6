"""File formats: which are read, what Pillow misreads in them, and what isn't a picture at all.

Must not know files, rows or colours.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skembed._file_rows import describe_bytes
from skembed.image._rgb import UnreadablePicture

__all__ = [
    "FOREIGN_FORMATS",
    "colours_of_16_bits",
    "readable_formats",
    "refuse_misread",
    "scale_transparency",
    "why_unidentified",
]

# Read by other programs (Ghostscript) or only where the user has set up a reader. IPTC is a wrapper
# around a file of any format, and has Pillow open an EPS file within.
FOREIGN_FORMATS = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "IPTC"}

_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_UNREAD = "not a picture that Pillow can read"
_GIVE_ARRAY = "read it with tifffile.imread and pass the array"

# By how much the grays of a file are apart in 8 bits, by Pillow's raw mode.
_STEPS = {"L;2": 85, "L;4": 17}

# Tags of TIFF files.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLES_PER_PIXEL, _PLANES = 258, 262, 277, 284
_RGB, _CMYK = 2, 5

# Pillow keeps the upper byte of each colour. Its other byte is what Pillow takes for the upper one
# when told of the other byte order.
_OTHER_ORDER = {
    f"{mode};16{order}": f"{mode};16{other}"
    for mode in ("RGB", "RGBA", "RGBX")
    for order, other in (("B", "L"), ("L", "B"))
}
_OTHER = "B" if sys.byteorder == "little" else "L"
_OTHER_ORDER |= {f"{mode};16N": f"{mode};16{_OTHER}" for mode in ("RGB", "RGBA", "RGBX")}


def readable_formats() -> tuple[str, ...]:
    """Return the formats that Pillow reads by itself, and those that the user has registered."""
    Image.init()
    return tuple(name for name in Image.ID if name not in FOREIGN_FORMATS)


def why_unidentified(data: bytes) -> str:
    """Say what a file is that Pillow makes nothing of."""
    for name in sorted(FOREIGN_FORMATS):
        accepts = Image.OPEN[name][1] if name in Image.OPEN else None
        if accepts is not None and accepts(data[:16]):
            return f"{name} files are not read, as that takes other programs; convert it first"
    if data[4:8] == b"ftyp" and data[8:12] in _HEIC:
        return "HEIC, which needs pillow-heif: call its register_heif_opener() first"
    if data.startswith(_TIFF):
        return f"{_UNREAD}: a TIFF file that is damaged or of a rare kind; {_GIVE_ARRAY}"
    what = describe_bytes(data, but=["an image"])
    return _UNREAD + (f", but {what}" if what else "")


def refuse_misread(image: Image.Image) -> None:
    """Refuse TIFF files of which Pillow makes other pixels."""
    tags = getattr(image, "tag_v2", None)
    if not tags:
        return
    n_bits = max(tags.get(_BITS_PER_SAMPLE, (8,)))
    is_planar = tags.get(_PLANES) == 2 and tags.get(_SAMPLES_PER_PIXEL, 1) > 1
    if is_planar and (n_bits > 8 or tags.get(_PHOTOMETRIC) not in (_RGB, _CMYK)):
        raise UnreadablePicture(
            f"a TIFF file with {n_bits}-bit planes, which Pillow misreads; {_GIVE_ARRAY}"
        )
    is_packed = image.info.get("compression", "raw") != "raw"
    if is_packed and image.mode in ("I", "F") and tags.prefix == b"MM":
        raise UnreadablePicture(
            "a compressed big-endian TIFF file of signed numbers or floats, which Pillow misreads; "
            f"{_GIVE_ARRAY}"
        )


def scale_transparency(image: Image.Image) -> None:
    """Bring the transparent gray of a PNG file to 8 bits, as its pixels will be."""
    clear, tiles = image.info.get("transparency"), getattr(image, "tile", ())
    if image.format == "PNG" and image.mode == "L" and isinstance(clear, int) and tiles:
        image.info["transparency"] = clear * _STEPS.get(tiles[0][3], 1)


def colours_of_16_bits(image: Image.Image, data: bytes) -> NDArray[np.uint16] | None:
    """Return the colours of a file that is opened and not loaded; None if they have 8 bits."""
    tiles: Sequence[Any] = getattr(image, "tile", ())
    if image.tell() and image.format != "TIFF":  # frames are laid over others
        return None
    raw_mode = _raw_mode(tiles[0]) if len(tiles) else None
    if raw_mode == "LA;16B":
        with _reopened(image, data, "RGBA") as both:
            return np.asarray(both).view(">u2").astype(np.uint16)
    if raw_mode not in _OTHER_ORDER:
        return None
    with _reopened(image, data, _OTHER_ORDER[raw_mode]) as other:
        low = np.asarray(other)
    colours: NDArray[np.uint16] = (np.asarray(image).astype(np.uint16) << 8) | low
    return colours


def _raw_mode(tile: Any) -> str | None:
    arguments = tile[3]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else None


def _reopened(image: Image.Image, data: bytes, raw_mode: str) -> Any:
    """Return the file opened again, to be unpacked by another raw mode."""
    other: Any = Image.open(io.BytesIO(data), formats=[str(image.format)])
    other.seek(image.tell())
    other.tile = [
        tile._replace(args=raw_mode if isinstance(tile.args, str) else (raw_mode, *tile.args[1:]))
        for tile in other.tile
    ]
    return other
