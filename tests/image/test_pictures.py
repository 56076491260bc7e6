"""One picture, whatever it came as: colour, depth, transparency, orientation, frames, damage."""

import io
import pickle
import struct
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageFile, ImageOps

from skembed.exceptions import SkembedWarning
from skembed.image import _pictures
from skembed.image._inputs import check_images
from skembed.image._pictures import Picture, decode
from skembed.image._rgb import UnreadablePicture
from tests.image.pictures import (
    digest_of_row,
    encode,
    open_row,
    pixels_of,
    png_file,
    rgb_pixels,
)

RGB = rgb_pixels()


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "TGA"])
def test_a_lossless_file_gives_its_pixels(form):
    np.testing.assert_array_equal(open_row(encode(RGB, form)), RGB)


def test_a_file_has_another_key_under_another_range():
    data = encode(Image.fromarray(np.array([[0, 0.25, 1]], np.float32)), "TIFF")
    assert pixels_of(check_images([data], value_range=(0, 2)).items[0].open())[0, 2, 0] == 128
    keys = {digest_of_row(data), digest_of_row(data, value_range=(0, 2))}
    assert len(keys) == 2


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    blocks = np.kron(RGB[:4, :6], np.ones((16, 16, 1), np.uint8))
    options = {"lossless": True} if form == "WEBP" else {}
    data = encode(blocks, form, exif=exif, **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    assert expected.shape[:2] == ((64, 96) if orientation < 5 else (96, 64))
    np.testing.assert_array_equal(open_row(data), expected)
    np.testing.assert_array_equal(open_row(Image.open(io.BytesIO(data))), expected)


def test_what_pillow_made_of_an_opened_picture_is_not_turned_again():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(io.BytesIO(encode(RGB, exif=exif)))
    by_hand = image.rotate(270, expand=True)
    assert by_hand.getexif()[0x0112] == 6
    upright = np.asarray(ImageOps.exif_transpose(image))
    with pytest.warns(SkembedWarning, match=r"carry an EXIF orientation.*ImageOps.exif_transpose"):
        np.testing.assert_array_equal(open_row(by_hand), upright)
    advised = ImageOps.exif_transpose(image).convert("RGB").resize((5, 7))
    np.testing.assert_array_equal(open_row(advised), upright)
    image.load()
    np.testing.assert_array_equal(open_row(image), upright)


def test_an_upright_picture_is_not_turned_again():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = check_images([encode(RGB, exif=exif)]).items[0].open()
    assert image.size == (5, 7)
    assert ImageOps.exif_transpose(image).size == (5, 7)


def test_damaged_exif_data_leave_the_picture_as_it_is():
    data = encode(RGB, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(open_row(data), RGB)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_a_file_is_taken(form):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encode(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert open_row(data)[4, 4].tolist() == [255, 0, 0]


def test_an_image_stays_at_the_frame_that_the_user_chose():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    image = Image.open(
        io.BytesIO(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    )
    image.seek(1)
    assert open_row(image)[4, 4].tolist() == [0, 0, 255]
    assert image.tell() == 1


def test_an_image_of_the_user_is_neither_changed_nor_closed():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(io.BytesIO(encode(RGB, exif=exif)))
    info = dict(image.info)
    open_row(image)
    assert (image.size, image.mode, image.info) == ((7, 5), "RGB", info)
    assert image.getexif()[0x0112] == 6
    np.testing.assert_array_equal(np.asarray(image), RGB)


def test_what_is_opened_is_a_copy():
    image = Image.fromarray(RGB)
    array = RGB.copy()
    for row in check_images([image, array, encode(RGB)]).items:
        row.open().paste((0, 0, 0), (0, 0, 7, 5))
        np.testing.assert_array_equal(pixels_of(row.open()), RGB)
    np.testing.assert_array_equal(np.asarray(image), RGB)
    np.testing.assert_array_equal(array, RGB)


def test_too_many_pixels_are_a_fault_before_any_is_decoded(monkeypatch):
    lie = png_file(60_000, 60_000, bits=8, colour=2)
    little = png_file(40, 40, bits=8, colour=2)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(UnreadablePicture, match=r"too large.*raise PIL.Image.MAX_IMAGE_PIXELS"):
        decode(lie)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(UnreadablePicture, match="too large: 40 x 40 pixels"):
            decode(little)
    # Where the user has made an error of Pillow's warning, as in these tests.
    with pytest.raises(UnreadablePicture, match=r"too large: .*decompression bomb"):
        decode(little)
    faults = check_images([Image.fromarray(np.zeros((40, 40), np.uint8))]).faults
    assert "too large: 40 x 40 pixels" in faults[0]


def test_the_user_may_lift_the_limit_of_pixels(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert open_row(encode(np.zeros((40, 40), np.uint8))).shape == (40, 40, 3)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"hello", "not a picture that Pillow can read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "EPS files are not read"),
        (b"GRIB\0\0\0\1" + bytes(40), "GRIB files are not read"),
    ],
)
def test_what_is_no_picture_is_told_before_any_is_decoded(data, reason, tmp_path):
    (tmp_path / "file.png").write_bytes(data)
    faults = check_images([data, tmp_path / "file.png"]).faults
    assert faults[0].startswith(f"{len(data):,} bytes: {reason}")
    assert faults[1].startswith(f"{str(tmp_path / 'file.png')!r}: {reason}")


@pytest.mark.parametrize(
    ("data", "reason"),
    [(encode(RGB)[:60], "damaged"), (encode(RGB, "JPEG")[:-40], "damaged: OSError")],
)
def test_what_is_damaged_is_told_when_it_is_decoded(data, reason):
    rows = check_images([data])
    assert rows.faults == {}
    with pytest.raises(UnreadablePicture, match=reason):
        rows.items[0].open()


def test_no_outside_program_runs_for_a_file_within_a_file(monkeypatch):
    def run(*args, **options):
        raise AssertionError("Ghostscript was called")

    def field(record, number, value):
        return bytes([0x1C, record, number]) + struct.pack(">H", len(value)) + value

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run)
    size = [field(3, 20, b"\0\7"), field(3, 30, b"\0\5")]
    layers = [field(3, 60, b"\1\0"), field(3, 65, b"\0"), *size, field(3, 120, b"\5")]
    data = b"".join([field(1, 0, b"\0\2"), *layers, field(8, 10, encode(RGB, "EPS"))])
    with pytest.raises(AssertionError, match="Ghostscript"), Image.open(io.BytesIO(data)) as image:
        image.load()  # what Pillow does
    with pytest.raises(UnreadablePicture, match="not a picture that Pillow can read"):
        decode(data)


def test_truncated_files_are_read_where_the_user_asks(monkeypatch):
    data = encode(rgb_pixels(64, 64), "JPEG")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert open_row(data[: len(data) // 2]).shape == (64, 64, 3)


def test_a_format_that_the_user_registers_is_read():
    open_row(encode(RGB))  # formats are listed before

    class Flat(ImageFile.ImageFile):
        format = "FLATTEST"

        def _open(self):
            self._mode, self._size = "L", (2, 2)
            self.tile = [ImageFile._Tile("raw", (0, 0, 2, 2), 4, ("L", 0, 1))]

    Image.register_open("FLATTEST", Flat, lambda prefix: prefix.startswith(b"FLAT"))
    try:
        assert open_row(b"FLAT\1\2\3\4")[:, :, 0].tolist() == [[1, 2], [3, 4]]
    finally:
        Image.ID.remove("FLATTEST")
        del Image.OPEN["FLATTEST"]


def test_want_of_memory_is_told_from_a_header_that_lies(monkeypatch):
    def fail(*args, **kwargs):
        raise MemoryError("no more")

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(UnreadablePicture, match="it needs too much memory"):
        decode(encode(RGB))
    image = Image.open(io.BytesIO(encode(RGB, "JPEG")))
    assert "it needs too much memory" in check_images([image]).faults[0]
    image.draft("L", None)  # so that the user's own is loaded
    assert "needs too much memory: 7 x 5" in check_images([image]).faults[0]
    monkeypatch.setattr(_pictures, "_PLENTY", 1 << 62)  # more than any machine has left
    with pytest.raises(MemoryError, match="no more"):
        decode(encode(RGB))
    assert _pictures.is_short_of_memory()


def test_a_gigantic_header_without_a_limit_is_a_fault(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(UnreadablePicture, match=r"damaged|too large"):
        decode(png_file(2**31 - 1, 2**31 - 1, bits=8, colour=2))


def test_every_kind_of_picture_pickles(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode(RGB))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = [Image.open(io.BytesIO(encode(RGB, form, exif=exif))) for form in ("PNG", "TIFF")]
    rows = [path, encode(RGB), Image.fromarray(RGB), *turned, RGB, RGB[:, :, 0] / 255]
    for item in check_images(rows).items:
        assert isinstance(item, Picture)
        again = pickle.loads(pickle.dumps(item))
        assert again.digest == item.digest
        np.testing.assert_array_equal(pixels_of(again.open()), pixels_of(item.open()))


def test_a_picture_of_a_path_is_small(tmp_path):
    path = tmp_path / "a.bmp"
    path.write_bytes(encode(rgb_pixels(300, 300), "BMP"))
    item = check_images([path]).items[0]
    assert len(pickle.dumps(item)) < 1000
    assert sys.getsizeof(item) < 100


def test_one_picture_is_opened_by_several_threads(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode(RGB))
    exif = Image.Exif()
    exif[0x0112] = 3
    lazy = Image.open(io.BytesIO(encode(RGB, exif=exif)))
    for item in check_images([path, encode(RGB), lazy, RGB]).items:
        alone = item.open().tobytes()
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _, item=item: item.open().tobytes(), range(40)))
        assert set(found) == {alone}
