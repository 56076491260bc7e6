"""PIL images of the user's: read without a trace, by whoever asks first."""

import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageFile

from skembed._files import ChangedRow
from skembed.image._inputs import check_images
from tests.image.pictures import digests, encode, opened, pixels_of, rgb_pixels

RGB = rgb_pixels()


def lazy(image=RGB, form="PNG", **options):
    """Return an image that is opened and not loaded."""
    return Image.open(io.BytesIO(encode(image, form, **options)))


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP", "GIF"])
def test_an_opened_image_is_read_and_left_unloaded(form):
    image = lazy(Image.fromarray(RGB).quantize(8), form)
    expected = np.asarray(lazy(Image.fromarray(RGB).quantize(8), form).convert("RGB"))
    image.fp.seek(3)
    np.testing.assert_array_equal(opened(check_images([image]))[0], expected)
    assert image.tile, "it was loaded"
    assert image.fp.tell() == 3
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), expected)


def test_opened_and_loaded_images_are_one_row():
    loaded = lazy()
    loaded.load()
    assert len(set(digests([lazy(), loaded, Image.fromarray(RGB), RGB]))) == 1


def test_the_frame_that_the_user_chose_is_read_from_the_file():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    for form in ("GIF", "TIFF", "WEBP", "PNG"):
        options = {"lossless": True} if form == "WEBP" else {}
        image = lazy(frames[0], form, save_all=True, append_images=frames[1:], **options)
        image.seek(1)
        assert opened(check_images([image]))[0][4, 4].tolist() == [0, 0, 255], form
        assert image.tell() == 1


def test_draft_mode_stays_what_the_user_chose():
    photo = Image.fromarray(rgb_pixels(400, 300))
    image = lazy(photo, "JPEG")
    image.draft("L", (75, 100))
    assert check_images([image]).items[0].open().size == (75, 100)


def test_a_reader_that_is_not_registered_is_the_users_own():
    class Flag(ImageFile.ImageFile):
        format = "FLAG"

        def _open(self):
            self._size, self._mode = (2, 1), "RGB"
            self.tile = [ImageFile._Tile("raw", (0, 0, 2, 1), 4, ("RGB", 0, 1))]

    rows = check_images([Flag(io.BytesIO(b"FLAG\1\2\3\4\5\6"))])
    assert opened(rows)[0].tolist() == [[[1, 2, 3], [4, 5, 6]]]


def test_no_outside_program_runs_for_an_opened_image(monkeypatch):
    def run(*args, **options):
        raise AssertionError("Ghostscript was called")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run)
    rows = check_images([lazy(form="EPS")])
    assert rows.faults == {0: "a PIL image: EPS files are not read; load or convert it first"}


def test_a_pickled_image_is_its_pixels():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = lazy(form="TIFF", exif=exif)
    item = check_images([image]).items[0]
    again = pickle.loads(pickle.dumps(item))
    assert image.tile
    assert again.digest == item.digest
    np.testing.assert_array_equal(pixels_of(again.open()), pixels_of(item.open()))


@pytest.mark.parametrize("is_loaded", [False, True])
def test_several_calls_share_an_image(is_loaded):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = Image.fromarray(rgb_pixels(60, 90))
    images = [lazy(photo, form, exif=exif) for form in ("PNG", "JPEG", "TIFF", "WEBP") * 6]
    if is_loaded:
        for image in images:
            image.load()
    copies = [lazy(photo, form, exif=exif) for form in ("PNG", "JPEG", "TIFF", "WEBP")]
    expected = digests(copies) * 6
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: digests(images), range(16)):
            assert found == expected


def test_a_closed_picture_is_a_fault_that_says_so(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        pass
    assert "closed" in check_images([image]).faults[0]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"])
def test_opened_images_of_any_format_are_not_loaded(form):
    image = lazy(form=form)
    item = check_images([image]).items[0]
    item.open()
    assert vars(image).get("_im", vars(image).get("im")) is None


def close(image):
    image.close()


def close_file(image):
    image.fp.close()


def overwrite(image):
    n_bytes = image.fp.seek(0, 2)
    image.fp.seek(60)
    image.fp.write(bytes(n_bytes - 60))


def truncate(image):
    image.fp.truncate(image.fp.seek(0, 2) // 2)


@pytest.mark.parametrize("spoil", [close, close_file, overwrite, truncate])
def test_an_image_that_is_spoiled_meanwhile_is_gone(spoil):
    image = lazy()
    item = check_images([image]).items[0]
    spoil(image)
    with pytest.raises(ChangedRow, match=r"it can no longer be read: "):
        item.open()
