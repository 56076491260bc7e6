"""Colours, depth and transparency: what every kind of pixels becomes in 8-bit RGB."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from skembed.exceptions import SkembedWarning
from skembed.image._inputs import check_images
from skembed.image._rgb import UnreadablePicture, to_8_bits
from tests.image.pictures import digest_of_row, encode, open_row, opened, png_file, rgb_pixels

RGB = rgb_pixels()


def over_white(colour, alpha):
    """Return what a colour of this opacity looks like over white, in floats."""
    opacity = np.asarray(alpha, float)[..., None] / 255
    return np.asarray(colour, float) * opacity + 255 * (1 - opacity)


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
    entries = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1)]
    tags = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in [*entries, (279, 3)])
    header = struct.pack("<2sHI", b"II", 42, 12)
    samples = bytes([0xFF, 0xF8, 0x00, 0x00])  # 4095 and 2048, and one byte to fill up
    data = header + samples + struct.pack("<H", 9) + tags + bytes(4)
    assert Image.open(io.BytesIO(data)).mode == "I;16"
    for row in (data, Image.open(io.BytesIO(data))):
        assert open_row(row)[0, :, 0].tolist() == [255, 128]


def test_a_transparent_16_bit_colour_is_laid_over_white():
    clear, other = (0x8000, 0x1234, 0), (0x8000, 0x4321, 0xFFFF)
    chunks = [(b"tRNS", struct.pack(">3H", *clear))]
    lines = b"\0" + struct.pack(">6H", *clear, *other)
    data = png_file(2, 1, bits=16, colour=2, lines=lines, chunks=chunks)
    for row in (data, Image.open(io.BytesIO(data))):
        assert open_row(row)[0].tolist() == [[255, 255, 255], [0x80, 0x43, 255]]


def test_16_bit_planes_are_refused_not_misread():
    # What tifffile writes of (3, height, width): planar configuration 2.
    entries = [(256, 2), (257, 1), (259, 1), (262, 2), (277, 3), (278, 1), (284, 2)]
    tags = sorted([(tag, 3, 1, value) for tag, value in entries])
    planes = struct.pack("<6H", 0, 65535, 100, 200, 300, 400)
    more = struct.pack("<3H", 16, 16, 16) + struct.pack("<3I", 8, 12, 16)
    more += struct.pack("<3I", 4, 4, 4)
    at = 8 + len(planes)
    tags += [(258, 3, 3, at), (273, 4, 3, at + 6), (279, 4, 3, at + 18)]
    directory = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    data = struct.pack("<2sHI", b"II", 42, at + len(more)) + planes + more
    data += struct.pack("<H", len(tags)) + directory + bytes(4)
    assert "16-bit planes, which Pillow misreads" in check_images([data]).faults[0]


def test_files_of_16_bits_that_are_nearly_black_are_told():
    gray = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    for item in check_images([encode(gray)]).items:
        with pytest.warns(
            SkembedWarning, match=r"numbers of 12 bits only.*value_range=\(0, 4095\)"
        ):
            item.open()
    expected = np.rint(gray / 4095 * 255)
    np.testing.assert_array_equal(open_row(encode(gray), value_range=(0, 4095))[:, :, 0], expected)
