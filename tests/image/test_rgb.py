"""Colours, depth and transparency: what every kind of pixels becomes in 8-bit RGB."""

import ast
import io
import re
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from skembed.exceptions import SkembedWarning
from skembed.image._inputs import check_images
from skembed.image._rgb import UnreadablePicture, to_8_bits
from tests.image.pictures import (
    digest_of_row,
    encode,
    open_row,
    opened,
    over_white,
    png_file,
    png_of_16_bits,
    rgb_pixels,
    tiff_file,
    tiff_of_16_bits,
)

RGB = rgb_pixels()


def test_modes_without_transparency_become_what_pillow_makes_of_them():
    image = Image.fromarray(RGB)
    for mode in ("1", "L", "P", "CMYK", "YCbCr", "HSV", "RGBX"):
        other = image.convert(mode)
        np.testing.assert_array_equal(
            open_row(other), np.asarray(other.convert("RGB")), err_msg=mode
        )


def test_gray_pixels_are_the_same_in_every_channel():
    gray = RGB[:, :, 0]
    for value in (gray, encode(gray), encode(gray, "BMP"), Image.fromarray(gray)):
        np.testing.assert_array_equal(open_row(value), np.stack([gray] * 3, axis=-1))


def test_an_adobe_jpeg_in_cmyk_has_its_colours_upright():
    red = Image.new("RGB", (16, 16), (250, 20, 20)).convert("CMYK")
    found = open_row(encode(red, "JPEG", quality=95)).reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(found, (250, 20, 20), atol=6)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparent_pixels_are_laid_over_white(mode):
    alpha = np.array([[0, 1, 128, 254, 255]], dtype=np.uint8)
    gray = np.array([[10, 200, 50, 70, 90]], dtype=np.uint8)
    rgba = Image.fromarray(np.stack([gray, gray, gray, alpha], axis=-1))
    image = rgba.convert(mode)
    if mode == "PA":
        image = Image.fromarray(gray).convert("P")
        image.putalpha(Image.fromarray(alpha))
        assert image.mode == "PA"
    expected = over_white(np.stack([gray] * 3, axis=-1), alpha)
    np.testing.assert_allclose(open_row(image), expected, atol=1)


def test_hidden_colours_of_transparent_pixels_do_not_matter():
    one, other = np.zeros((2, 4, 4, 4), np.uint8)
    one[..., :3], other[..., :3] = 17, 201
    assert digest_of_row(one) == digest_of_row(other)
    assert digest_of_row(Image.fromarray(one)) == digest_of_row(Image.fromarray(other))


@pytest.mark.parametrize("transparency", [0, b"\x00\xff\x80"])
def test_palettes_with_transparency_are_laid_over_white(transparency):
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    alpha = [[0, 255, 255 if transparency == 0 else 128]]
    expected = over_white([[[10, 20, 30], [40, 50, 60], [70, 80, 90]]], alpha)
    data = encode(image, transparency=transparency)
    np.testing.assert_allclose(open_row(data), expected, atol=1)


def test_a_transparent_colour_is_laid_over_white():
    rgb = encode(Image.fromarray(RGB), transparency=tuple(RGB[1, 2].tolist()))
    expected = RGB.copy()
    expected[1, 2] = 255
    np.testing.assert_array_equal(open_row(rgb), expected)
    gray = np.array([[3, 4]], np.uint8)
    np.testing.assert_array_equal(open_row(encode(gray, transparency=3))[0, :, 0], [255, 4])


def test_a_transparent_16_bit_gray_is_laid_over_white():
    data = png_file(
        *(3, 1),
        bits=16,
        colour=0,
        lines=b"\0" + struct.pack(">3H", 300, 301, 60000),
        chunks=[(b"tRNS", struct.pack(">H", 300))],
    )
    expected = [255, round(301 / 257), round(60000 / 257)]
    np.testing.assert_array_equal(open_row(data)[0, :, 1], expected)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I"])
def test_16_bit_gray_is_scaled_not_clipped(mode):
    values = np.array([[0, 128, 129, 255, 256, 32768, 65535]], dtype=np.uint16)
    if mode == "I":
        image = Image.fromarray(values.astype(np.int32))
    else:
        stored = values.astype(">u2" if mode == "I;16B" else "<u2")
        image = Image.frombytes(mode, (7, 1), stored.tobytes())
    expected = [0, 0, 1, 1, 1, 128, 255]
    assert expected == [round(value / 257) for value in values[0].tolist()]
    np.testing.assert_array_equal(open_row(image)[0, :, 0], expected)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_files_and_arrays_give_the_same_pixels(form):
    values = np.random.default_rng(1).integers(0, 65536, (400, 400), dtype=np.uint16)
    expected = np.rint(values / 257).astype(np.uint8)
    np.testing.assert_array_equal(open_row(encode(values, form))[:, :, 2], expected)
    np.testing.assert_array_equal(open_row(values)[:, :, 2], expected)


def test_numbers_beyond_16_bits_are_a_fault_not_clipped():
    image = Image.fromarray(np.array([[0, 70_000]], np.int32))
    faults = check_images([image]).faults
    assert "numbers from 0 to 70000, expected 0 to 65535; set value_range" in faults[0]


def test_float_images_go_by_the_range():
    values = np.array([[0, 0.5, 1]], np.float32)
    np.testing.assert_array_equal(open_row(Image.fromarray(values))[0, :, 0], [0, 128, 255])
    wide = Image.fromarray(values * 16)
    np.testing.assert_array_equal(
        open_row(wide, value_range=(0, 16)), open_row(Image.fromarray(values))
    )
    assert "numbers from 0 to 16, expected 0 to 1" in check_images([wide]).faults[0]
    with pytest.raises(UnreadablePicture, match="numbers from 0 to 16, expected 0 to 1"):
        check_images([encode(wide, "TIFF")]).items[0].open()


def test_float_images_with_nan_are_a_fault():
    image = Image.fromarray(np.array([[0, np.nan]], np.float32))
    assert check_images([image]).faults == {0: "a PIL image: some of its pixels (mode F) are NaN"}


def test_numbers_are_rounded_half_to_even():
    numbers = np.linspace(-3, 7, 100_003)
    expected = [round((x + 3) / 10 * 255) for x in numbers.tolist()]
    np.testing.assert_array_equal(to_8_bits(numbers[:, None], (-3, 7))[:, 0], expected)
    assert to_8_bits(np.array([[8, 24]]), (0, 16 * 255 / 127.5))[0, 0] == 64  # 63.75
    assert to_8_bits(np.array([[1, 3]]), (0, 510)).tolist() == [[0, 2]]  # 0.5 and 1.5


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2"])
def test_large_pictures_are_rounded_as_small_ones(dtype):
    large = np.random.default_rng(0).integers(10, 201, (300, 500)).astype(dtype)
    expected = np.concatenate(
        [to_8_bits(line[None], (10, 200.5)) for line in np.minimum(large, 200)]
    )
    np.testing.assert_array_equal(to_8_bits(np.minimum(large, 200), (10, 200.5)), expected)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_tiff_files_whose_zero_is_white_are_not_negatives(dtype):
    gray = np.arange(12, dtype=dtype).reshape(3, 4) * (np.iinfo(dtype).max // 15)
    stored = gray if dtype == "u1" else np.iinfo(dtype).max - gray  # Pillow inverts 8 bits itself
    data = encode(Image.fromarray(stored), "TIFF", tiffinfo={262: 0})
    expected = np.rint(gray / np.iinfo(dtype).max * 255)
    for row in (data, Image.open(io.BytesIO(data))):
        np.testing.assert_array_equal(opened(check_images([row]))[0][:, :, 0], expected)


@pytest.mark.parametrize(("bits", "line"), [(2, 0b00011011), (4, 0x01)])
def test_a_transparent_gray_of_few_bits_is_laid_over_white(bits, line):
    n, top = 8 // bits, 2**bits - 1
    transparency = (b"tRNS", struct.pack(">H", 1))
    data = png_file(n, 1, bits=bits, colour=0, lines=bytes([0, line]), chunks=[transparency])
    expected = [255 if i == 1 else i * 255 // top for i in range(n)]
    for row in (data, Image.open(io.BytesIO(data))):
        assert open_row(row)[0, :, 0].tolist() == expected


def test_white_of_a_12_bit_tiff_is_white():
    samples = bytes([0xFF, 0xF8, 0x00, 0x00])  # 4095 and 2048, and one byte to fill up
    tags = {256: (2,), 257: (1,), 258: (12,), 259: (1,), 262: (1,), 277: (1,), 278: (1,)}
    data = tiff_file([samples], tags)
    assert Image.open(io.BytesIO(data)).mode == "I;16"
    for row in (data, Image.open(io.BytesIO(data))):
        assert open_row(row)[0, :, 0].tolist() == [255, 128]


def test_premultiplied_gray_is_laid_over_white():
    image = Image.frombytes("La", (3, 1), bytes([100, 200, 50, 128, 0, 0]))
    expected = over_white([[[127.5] * 3, [99.6] * 3, [0] * 3]], [[200, 128, 0]])
    np.testing.assert_allclose(open_row(image), expected, atol=1)


TWELVE = np.arange(4096, dtype=np.uint16).reshape(64, 64)


@pytest.mark.parametrize(
    "X",
    [
        [TWELVE],
        TWELVE[None],
        torch.from_numpy(TWELVE[None, None].astype(np.int32)).to(torch.uint16),
        [encode(TWELVE)],
        [encode(TWELVE, "TIFF")],
        [Image.fromarray(TWELVE)],
        [Image.fromarray(TWELVE.astype(np.int32))],
        [Image.open(io.BytesIO(encode(TWELVE)))],
        [png_of_16_bits(np.stack([TWELVE] * 3, axis=2))],
        [tiff_of_16_bits(np.stack([TWELVE] * 3, axis=2))],
    ],
    ids=["list", "stack", "tensor", "png", "tiff", "I;16", "I", "opened", "RGB png", "RGB tiff"],
)
def test_twelve_bits_in_sixteen_are_told_and_the_advice_works(X):
    with pytest.warns(SkembedWarning, match="nearly black") as caught:
        check_images(X).items[0].open()
    advised = [
        ast.literal_eval(text)
        for text in re.findall(r"value_range=(\(.*?\))", str(caught[0].message))
    ]
    assert advised == [(0, 4095), (0, 65535)]
    for value_range in advised:
        found = opened(check_images(X, value_range=value_range))[0][:, :, 0]
        np.testing.assert_array_equal(found, np.rint(TWELVE / value_range[1] * 255))


@pytest.mark.parametrize(
    ("numbers", "advised"),
    [
        ([0, 16.0], (0, 16)),
        ([3.0, 15], (0, 16)),
        ([0, 254.0], (0, 255)),
        ([-1.0, 1], (-1, 1)),
        ([-0.3, 0.9], (-1, 1)),
        ([0, 4090], (0, 4095)),
        ([-1024, 3071], (-1024, 4095)),
        ([0, 70000], (0, 70000)),
        ([0, 1.0000123], (0, 2)),
        ([0, np.inf], None),
    ],
)
def test_the_advice_for_numbers_beyond_the_range_works(numbers, advised):
    for row in (np.array([numbers]), Image.fromarray(np.array([numbers], np.float32))):
        found = re.findall(r"such as value_range=(\(.*?\))", check_images([row]).faults[0])
        assert [ast.literal_eval(text) for text in found] == ([advised] if advised else [])
        if advised:
            opened(check_images([row], value_range=advised))
