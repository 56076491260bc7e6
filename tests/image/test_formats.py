"""File formats: what Pillow drops or misreads of them, by files written byte by byte."""

import io
import struct
import zlib
from functools import partial

import numpy as np
import pytest
from PIL import Image

from skembed.image._inputs import check_images
from skembed.image._rgb import UnreadablePicture
from tests.image.pictures import (
    gif_file,
    open_row,
    over_white,
    png_file,
    png_of_16_bits,
    tiff_file,
    tiff_of_16_bits,
)


def test_a_transparent_16_bit_colour_is_laid_over_white():
    clear, near, other = (0x8000, 0x1234, 0), (0x80FF, 0x1234, 0), (0x8000, 0x4321, 0xFFFF)
    chunks = [(b"tRNS", struct.pack(">3H", *clear))]
    lines = b"\0" + struct.pack(">9H", *clear, *near, *other)
    data = png_file(3, 1, bits=16, colour=2, lines=lines, chunks=chunks)
    expected = [[255, 255, 255], [0x80, 0x12, 0], [0x80, 0x43, 255]]
    for row in (data, Image.open(io.BytesIO(data))):
        assert open_row(row)[0].tolist() == expected
    loaded = Image.open(io.BytesIO(data))
    loaded.load()  # Pillow has the upper bytes only
    assert open_row(loaded)[0].tolist() == [[255] * 3, [255] * 3, expected[2]]


COLOURS = np.random.default_rng(2).integers(0, 65536, (6, 5, 4), dtype=np.uint16)


@pytest.mark.parametrize(
    "write",
    [
        png_of_16_bits,
        tiff_of_16_bits,
        partial(tiff_of_16_bits, order=">"),
        partial(tiff_of_16_bits, is_packed=True),
        partial(tiff_of_16_bits, order=">", is_packed=True),
    ],
)
def test_colours_of_16_bits_are_those_of_the_array(write):
    data = write(COLOURS[:, :, :3])
    for row in (data, Image.open(io.BytesIO(data))):
        np.testing.assert_array_equal(open_row(row), np.rint(COLOURS[:, :, :3] / 257))
    dark = write(COLOURS[:, :, :3] >> 4)
    expected = np.rint((COLOURS[:, :, :3] >> 4) / 4095 * 255)
    np.testing.assert_array_equal(open_row(dark, value_range=(0, 4095)), expected)
    with pytest.raises(UnreadablePicture, match="expected 0 to 4095; set value_range to"):
        check_images([data], value_range=(0, 4095)).items[0].open()
    colour, alpha = COLOURS[:, :, :3] / 257, COLOURS[:, :, 3] / 257
    np.testing.assert_allclose(open_row(write(COLOURS)), over_white(colour, alpha), atol=1)


def test_colours_of_16_bits_are_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = COLOURS[:, :, :3]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)
    chunks = [(b"eXIf", exif.tobytes()[6:])]
    png = png_file(5, 6, bits=16, colour=2, lines=lines, chunks=chunks)
    for data in (png, tiff_of_16_bits(pixels, more={274: (6,)})):
        for row in (data, Image.open(io.BytesIO(data))):
            expected = np.rint(np.rot90(pixels, -1) / 257)
            np.testing.assert_array_equal(open_row(row), expected)


def test_gray_and_alpha_of_16_bits_are_laid_over_white():
    pixels = COLOURS[:, :, [0, 3]] & np.array([4095, 65535], np.uint16)
    found = open_row(png_of_16_bits(pixels), value_range=(0, 4095))
    gray = np.repeat(pixels[:, :, :1] / 4095 * 255, 3, axis=2)
    np.testing.assert_allclose(found, over_white(gray, pixels[:, :, 1] / 257), atol=1)


def tiff_of_planes(dtype, photometric, n, more=()):
    """Return a TIFF file of 2 x 1 pixels, plane by plane."""
    dtype = np.dtype(dtype)
    tags = {256: (2,), 257: (1,), 258: (8 * dtype.itemsize,) * n, 259: (1,), 262: (photometric,)}
    tags |= {277: (n,), 278: (1,), 284: (2,), 339: ({"u": 1, "i": 2, "f": 3}[dtype.kind],) * n}
    planes = [np.array([10 * i, 10 * i + 1], dtype).tobytes() for i in range(1, n + 1)]
    tags |= dict(more)
    return tiff_file([*map(zlib.compress, planes)] if tags[259] == (8,) else planes, tags)


@pytest.mark.parametrize(
    ("data", "n_bits"),
    [
        (tiff_of_planes("u2", 2, 3), 16),
        (tiff_of_planes("u2", 5, 4), 16),
        (tiff_of_planes("u1", 1, 2, {338: (2,), 259: (8,)}), 8),
    ],
)
def test_planes_are_refused_not_misread(data, n_bits):
    loaded = Image.open(io.BytesIO(data))
    loaded.load()
    for row in (data, Image.open(io.BytesIO(data)), loaded):
        fault = check_images([row]).faults[0]
        assert f"{n_bits}-bit planes, which Pillow misreads; read it with tifffile" in fault


def test_planes_of_8_bits_are_read():
    assert open_row(tiff_of_planes("u1", 2, 3)).tolist() == [[[10, 20, 30], [11, 21, 31]]]


@pytest.mark.parametrize(("dtype", "kind"), [(">i2", 2), (">i4", 2), (">f4", 3)])
def test_packed_numbers_high_byte_first_are_refused_not_misread(dtype, kind):
    numbers = np.array([[0, 1]], dtype)
    tags = {256: (2,), 257: (1,), 258: (8 * numbers.itemsize,), 259: (1,), 262: (1,)}
    tags |= {277: (1,), 278: (1,), 339: (kind,)}
    plain = tiff_file([numbers.tobytes()], tags, ">")
    packed = tiff_file([zlib.compress(numbers.tobytes())], tags | {259: (8,)}, ">")
    assert open_row(plain, value_range=(0, 1))[0, :, 0].tolist() == [0, 255]
    assert "big-endian TIFF file" in check_images([packed]).faults[0]


def test_a_tiff_file_that_pillow_does_not_read_says_what_does():
    tags = {256: (1,), 257: (1,), 258: (64,), 259: (1,), 262: (1,), 277: (1,), 278: (1,)}
    data = tiff_file([np.ones(1).tobytes()], tags | {339: (3,)})
    assert "read it with tifffile.imread and pass the array" in check_images([data]).faults[0]


PALETTE = [(10, 20, 30), (200, 0, 0), (0, 200, 0), (0, 0, 200)]


@pytest.mark.parametrize("clear", [None, 0])
def test_what_a_gif_does_not_cover_is_white(clear):
    data = gif_file((3, 2), [(1, 1, [[1, 0]], clear), (0, 0, [[3]], None)], PALETTE)
    expected = np.full((2, 3, 3), 255)
    expected[1, 1], expected[1, 2] = PALETTE[1], PALETTE[0] if clear is None else (255, 255, 255)
    loaded = Image.open(io.BytesIO(data))
    loaded.load()
    for row in (data, Image.open(io.BytesIO(data)), loaded):
        np.testing.assert_array_equal(open_row(row), expected)
