"""Small pictures for tests: encoded files, PNG files chunk by chunk, and what they must become."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from skembed.image._inputs import check_images


def rgb_pixels(height=5, width=7, seed=0):
    """Return random 8-bit pixels of shape (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(image, form="PNG", **options):
    """Return an image as the bytes of a file."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def png_chunk(kind, data):
    """Return one chunk of a PNG file with its right checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_file(width, height, *, bits, colour, lines=b"", chunks=()):
    """Return a PNG file from its parts; `lines` are filter bytes and samples."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            png_chunk(b"IHDR", header),
            *(png_chunk(*chunk) for chunk in chunks),
            png_chunk(b"IDAT", zlib.compress(lines)),
            png_chunk(b"IEND", b""),
        ]
    )


def pixels_of(image):
    """Return the pixels of an opened picture, which must be RGB."""
    assert image.mode == "RGB"
    return np.asarray(image)


def opened(rows):
    """Return the pixels of rows that must all be good."""
    assert rows.faults == {}
    return [pixels_of(item.open()) for item in rows.items]


def digests(X, **settings):
    """Return the digests of rows that must all be good."""
    rows = check_images(X, **settings)
    assert rows.faults == {}
    return [item.digest for item in rows.items]


def open_row(value, **settings):
    """Return the pixels of one row that must be good."""
    return opened(check_images([value], **settings))[0]


def digest_of_row(value, **settings):
    return digests([value], **settings)[0]
