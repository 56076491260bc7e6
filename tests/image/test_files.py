"""Images that are files: one row whatever they came as, read when needed, never held."""

import io
import os
import shutil
import tracemalloc
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile
from sklearn.base import clone

from skembed import ImageEmbedder, _files
from skembed._files import ChangedRow
from skembed.exceptions import InvalidRowsError
from skembed.image import _pictures
from skembed.image._inputs import check_images
from skembed.image._rgb import UnreadablePicture
from tests.image.pictures import digests, encode, opened, pixels_of, rgb_pixels

RGB = rgb_pixels()
GRAY = RGB[:, :, 0]


@pytest.fixture
def folder(tmp_path):
    """Return a folder with one picture in several files, none remembered."""
    _files._remembered.clear()
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(encode(RGB))
    return tmp_path


def settle(path):
    """Make a file look as if it had not been changed lately."""
    os.utime(path, (1e9, 1e9))


def test_a_file_is_one_row_whatever_it_came_as(folder):
    path, data = folder / "a.png", encode(RGB)
    with path.open("rb") as file:
        values = [path, str(path), os.fsencode(path).decode(), data, bytearray(data)]
        values += [memoryview(data), io.BytesIO(data), file, folder / "b.png"]
        assert len(set(digests(values))) == 1


def test_file_objects_are_read_whole_and_left_where_they_were(folder):
    file = io.BytesIO(encode(RGB))
    file.seek(11)
    np.testing.assert_array_equal(opened(check_images([file, file]))[1], RGB)
    assert file.tell() == 11


@pytest.fixture
def reads(monkeypatch):
    """Return the list of the files that have been read."""
    seen = []
    read_bytes = Path.read_bytes

    def record(path):
        seen.append(path.name)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", record)
    return seen


def test_a_file_that_stays_is_read_for_its_digest_once(folder, reads, monkeypatch):
    monkeypatch.setattr(_files, "_now", lambda: 9e9)
    for _ in range(3):
        check_images([folder / "a.png", folder / "b.png"])
    assert sorted(reads) == ["a.png", "b.png"]
    shutil.copyfile(folder / "b.png", folder / "a.png")
    check_images([folder / "a.png", folder / "b.png"])
    assert sorted(reads) == ["a.png", "a.png", "b.png"]


def test_files_transformed_again_are_neither_hashed_nor_read(folder, reads, monkeypatch):
    monkeypatch.setattr(_files, "_now", lambda: 9e9)
    hashed = []
    digest_of_file = _files.digest_of_file
    monkeypatch.setattr(
        _files, "digest_of_file", lambda data: hashed.append(0) or digest_of_file(data)
    )
    paths = [folder / f"{i}.png" for i in range(8)]
    for i, path in enumerate(paths):
        path.write_bytes(encode(np.full((4, 4), i, np.uint8)))
    embedder = ImageEmbedder("squeezenet1_1", weights=None)
    vectors = embedder.fit_transform(paths)
    assert len(hashed) == 16  # to find the row, and to encode it
    reads.clear()
    np.testing.assert_array_equal(clone(embedder).transform(paths), vectors)
    assert (len(hashed), reads) == (16, [])
    assert _files._N_REMEMBERED > 200_000


def test_a_file_that_has_changed_lately_is_read_again(folder, reads):
    for _ in range(2):
        check_images([folder / "a.png"])
    assert reads == ["a.png", "a.png"]


def test_a_file_replaced_with_its_time_kept_is_read_again(folder, monkeypatch):
    monkeypatch.setattr(_files, "_now", lambda: 9e9)
    path = folder / "a.bmp"
    path.write_bytes(encode(RGB, "BMP"))
    settle(path)
    before = digests([path])
    path.write_bytes(encode(RGB[::-1].copy(), "BMP"))
    settle(path)
    assert digests([path]) != before


def test_what_is_remembered_is_bounded(folder, monkeypatch):
    monkeypatch.setattr(_files, "_now", lambda: 9e9)
    monkeypatch.setattr(_files, "_N_REMEMBERED", 5)
    for i in range(12):
        shutil.copyfile(folder / "a.png", folder / f"{i}.png")
    check_images([folder / f"{i}.png" for i in range(12)])
    assert len(_files._remembered) == 5


def test_a_file_that_changes_meanwhile_is_a_fault_not_another_picture(folder):
    rows = check_images([folder / "a.png", folder / "b.png"])
    (folder / "a.png").write_bytes(encode(RGB[::-1].copy()))
    (folder / "b.png").unlink()
    with pytest.raises(ChangedRow, match=r"it changed while it was being embedded"):
        rows.items[0].open()
    with pytest.raises(ChangedRow, match=r"it can no longer be read: No such file"):
        rows.items[1].open()
    assert rows.items[0].describe() == repr(str(folder / "a.png"))


def test_files_that_are_no_images_are_told_before_any_is_opened(folder):
    (folder / "a.png").write_bytes(b"no picture")
    rows = check_images([folder / "a.png", folder / "b.png"])
    assert rows.positions.tolist() == [1]
    assert rows.faults == {0: f"'{folder}/a.png': not a picture that Pillow can read, but text"}


def test_files_with_damaged_pixels_are_good_rows_until_they_are_opened(folder):
    (folder / "a.png").write_bytes(encode(RGB)[:90])
    rows = check_images([folder / "a.png"])
    assert rows.faults == {}
    with pytest.raises(UnreadablePicture, match=r"damaged: OSError: image file is trunc"):
        rows.items[0].open()


def test_ten_thousand_paths_hold_neither_bytes_nor_pixels(folder):
    data = encode(np.zeros((100, 100, 3), np.uint8), "BMP")  # 30 kB
    (folder / "a.bmp").write_bytes(data)
    paths = [os.fspath(folder / "a.bmp")] * 10_000
    check_images(paths[:100])
    tracemalloc.start()
    try:
        rows = check_images(paths)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(rows.items) == 10_000
    assert held < 5e6
    assert peak < 20e6  # the files together have 300 MB


def test_opened_pictures_are_not_kept(folder):
    rows = check_images([folder / "a.png", encode(RGB), RGB, Image.fromarray(RGB)])
    for item in rows.items:
        image = item.open()
        gone = weakref.ref(image)
        del image
        assert gone() is None


def test_many_files_keep_their_order(folder):
    names = []
    for i in range(150):
        path = folder / f"{i}.bmp"
        path.write_bytes(encode(np.full((1, 1), i, np.uint8), "BMP"))
        names += [path, folder / "none"] if i % 40 == 0 else [path]
    rows = check_images(names)
    assert [pixels[0, 0, 0] for pixels in (pixels_of(item.open()) for item in rows.items)] == list(
        range(150)
    )
    assert sorted(rows.faults) == [i for i, path in enumerate(names) if path.name == "none"]


def test_the_digest_of_a_pixel_row_is_of_size_and_pixels():
    image = Image.fromarray(RGB)
    assert digests([RGB]) == [_pictures.digest_of_image(image)]


def test_vectors_of_cut_files_are_not_served_to_who_refuses_them(tmp_path, monkeypatch):
    path = tmp_path / "cut.jpg"
    whole = encode(Image.fromarray(rgb_pixels(64, 64)), "JPEG")
    path.write_bytes(whole[: len(whole) // 2])
    embedder = ImageEmbedder("squeezenet1_1", weights=None, cache=tmp_path / "store")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert np.isfinite(embedder.transform([path])).all()
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)
    with pytest.raises(InvalidRowsError, match="truncated"):
        embedder.transform([path])


def test_a_file_too_large_for_an_image_is_not_read(tmp_path):
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate((1 << 30) + 1)  # holes take no room on the disk
    tracemalloc.start()
    try:
        faults = check_images([str(tmp_path / "huge.png")]).faults
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()
    assert "a file of 1,024 MiB, expected an image" in faults[0]
