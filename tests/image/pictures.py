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


def tiff_file(strips, tags, order="<"):
    """Return a TIFF file of strips of bytes; `tags` are tuples of 16-bit numbers by tag."""
    offsets = np.cumsum([8, *map(len, strips)]).tolist()
    data = b"".join(strips)
    fields = {tag: (3, numbers) for tag, numbers in tags.items()}
    fields |= {273: (4, offsets[:-1]), 279: (4, [len(strip) for strip in strips])}
    directory = struct.pack(order + "H", len(fields))
    for tag, (kind, numbers) in sorted(fields.items()):
        packed = struct.pack(f"{order}{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)
        if len(packed) > 4:
            packed, data = struct.pack(order + "I", 8 + len(data)), data + packed + bytes(2)
        directory += struct.pack(order + "HHI", tag, kind, len(numbers)) + packed.ljust(4, b"\0")
    start = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(data))
    return start + data + directory + bytes(4)


def png_of_16_bits(pixels):
    """Return a PNG file of pixels (height, width, 2 to 4)."""
    height, width, n = pixels.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)
    return png_file(width, height, bits=16, colour={2: 4, 3: 2, 4: 6}[n], lines=lines)


def tiff_of_16_bits(pixels, order="<", is_packed=False, more=()):
    """Return a TIFF file of pixels (height, width, 3 or 4)."""
    height, width, n = pixels.shape
    tags = {256: (width,), 257: (height,), 258: (16,) * n, 262: (2,), 277: (n,), 278: (height,)}
    tags |= {259: (8 if is_packed else 1,)} | ({338: (2,)} if n == 4 else {})
    data = pixels.astype(order + "u2").tobytes()
    return tiff_file([zlib.compress(data) if is_packed else data], tags | dict(more), order)


def gif_file(canvas, frames, palette):
    """Return a GIF of frames (left, top, rows of two bits, transparent index or None)."""
    data = b"GIF89a" + struct.pack("<HHBBB", *canvas, 0x81, 0, 0) + np.uint8(palette).tobytes()
    for left, top, rows, clear in frames:
        codes = [code for row in rows for pixel in row for code in (4, pixel)] + [5]  # 4 is "clear"
        bits = sum(code << 3 * i for i, code in enumerate(codes))
        packed = bits.to_bytes((3 * len(codes) + 7) // 8, "little")
        data += b"\x21\xf9\4" + bytes([clear is not None, 0, 0, clear or 0, 0]) + b"\x2c"
        data += struct.pack("<HHHHB", left, top, len(rows[0]), len(rows), 0)
        data += bytes([2, len(packed)]) + packed + b"\0"
    return data + b"\x3b"


def over_white(colour, alpha):
    """Return what a colour of this opacity looks like over white, in floats."""
    opacity = np.asarray(alpha, float)[..., None] / 255
    return np.asarray(colour, float) * opacity + 255 * (1 - opacity)


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
