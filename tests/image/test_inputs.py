"""Rows of images: which containers and rows are read, and how bad ones are named."""

import io
import os
import pickle
import shutil
import tracemalloc
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
import torch
from PIL import Image
from sklearn.datasets import load_digits

from skembed.exceptions import InvalidInputError, InvalidParameterError
from skembed.image import _files, _pictures
from skembed.image._inputs import check_images
from skembed.image._pictures import UnreadablePicture
from tests.image.pictures import encode, pixels_of, rgb_pixels

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


def opened(rows):
    assert rows.faults == {}
    return [pixels_of(item.open()) for item in rows.items]


def digests(X, **settings):
    rows = check_images(X, **settings)
    assert rows.faults == {}
    return [item.digest for item in rows.items]


# Containers


def as_containers(rows):
    """Yield the same rows in every container that a column may be in."""
    objects = np.empty(len(rows), object)
    objects[:] = rows
    yield from (list(rows), tuple(rows), objects, objects[:, None])
    series = pd.Series(list(rows), index=range(len(rows), 0, -1), dtype=object)
    yield from (series, series.to_frame("photo"))


def test_every_container_gives_the_same_rows(folder):
    paths = [str(folder / "a.png"), str(folder / "missing.png"), str(folder / "b.png")]
    expected = digests(paths[:1]) * 2
    containers = [*as_containers(paths), np.array(paths), pd.Series(paths), pl.Series(paths)]
    containers += [pl.DataFrame({"photo": paths}), pa.array(paths), pa.chunked_array([paths])]
    containers += [pa.table({"photo": paths})]
    for X in containers:
        rows = check_images(X)
        assert [item.digest for item in rows.items] == expected, type(X)
        assert rows.positions.tolist() == [0, 2]
        assert rows.n_rows == 3
        assert list(rows.faults) == [1]


def test_every_container_holds_pictures_in_memory():
    for value in (RGB, Image.fromarray(RGB), torch.from_numpy(RGB).permute(2, 0, 1)):
        for X in as_containers([value, None]):
            rows = check_images(X)
            np.testing.assert_array_equal(pixels_of(rows.items[0].open()), RGB)
            assert rows.faults == {1: "missing (None)"}
    for X in (pl.Series([encode(RGB)]), pa.array([encode(RGB)])):
        np.testing.assert_array_equal(opened(check_images(X))[0], RGB)


@pytest.mark.parametrize(
    ("X", "settings"),
    [
        ([], {}),
        (np.array([]), {}),
        (np.empty((0, 4, 4, 3)), {}),
        (np.empty((0, 4, 4)), {}),
        (torch.empty(0, 3, 4, 4), {}),
        (np.empty((0, 64)), {"image_shape": (8, 8)}),
        (pd.Series([], dtype=object), {}),
        (pd.DataFrame(np.empty((0, 64))), {"image_shape": (8, 8)}),
    ],
)
def test_no_rows_are_no_fault(X, settings):
    rows = check_images(X, **settings)
    assert (len(rows.items), len(rows.positions), rows.n_rows, rows.faults) == (0, 0, 0, {})
    assert list(rows.items) == []


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ("a.png", "got a single str. Put it in a list"),
        (encode(RGB), "got a single bytes. Put it in a list"),
        (Path("a.png"), "got a single PosixPath. Put it in a list"),
        (Image.new("RGB", (3, 3)), "got a single Image. Put it in a list"),
        (io.BytesIO(encode(RGB)), "got a single BytesIO. Put it in a list"),
        (RGB, r"shape \(5, 7, 3\), a single image as it seems. Put it in a list"),
        (np.zeros((5, 7, 4)), r"shape \(5, 7, 4\), a single image as it seems"),
        (torch.zeros(3, 5, 7), r"tensor of shape \(3, 5, 7\).*X.unsqueeze\(1\)"),
        (torch.zeros(9, 5, 7), r"tensor of shape \(9, 5, 7\).*X.unsqueeze\(1\)"),
        (np.zeros((2, 2, 5, 7, 3)), "a stack of images of 3 or 4 dimensions"),
        (np.zeros((2, 5, 7, 9)), "expected 1 to 4 channels, first or last"),
        (np.zeros((10, 64)), r"matrix of numbers.*set image_shape=\(8, 8\)"),
        (np.zeros((10, 65)), "matrix of numbers.*set image_shape"),
        (pd.DataFrame(np.zeros((10, 64))), r"matrix of numbers.*set image_shape=\(8, 8\)"),
        (pd.DataFrame({"a": ["x"], "b": [1]}), "DataFrame of 2 columns. Choose one"),
        (scipy.sparse.csr_array(np.eye(4)), r"got a csr_array. Use X.toarray\(\)"),
        (scipy.sparse.csr_matrix(np.eye(4)), r"Use X.toarray\(\)"),
        (np.array([b"ab", b"c"]), "list or object array"),
        ({"a": "b.png"}, "a dict has no order of rows"),
        ((path for path in "ab"), r"use list\(...\)"),
        (7, "got int"),
        (torch.eye(4).to_sparse(), "a tensor that cannot become an array"),
        (torch.zeros(2, 3, 4, 4, device="meta"), "a tensor that cannot become an array"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_collection_of_images_is_refused(X, message):
    with pytest.raises(InvalidInputError, match=message):
        check_images(X)


# Stacks and matrices


def test_stacks_are_rows_of_images():
    stack = np.stack([RGB, RGB[::-1]])
    for X in (
        stack,
        list(stack),
        stack.transpose(0, 3, 1, 2),
        torch.from_numpy(stack).permute(0, 3, 1, 2),
        torch.from_numpy(stack),
        torch.from_numpy(stack.transpose(0, 3, 1, 2) / 255).requires_grad_(),
    ):
        np.testing.assert_array_equal(opened(check_images(X)), stack)


def test_stacks_of_gray_images_need_no_channels():
    stack = np.stack([GRAY, GRAY[::-1]])
    expected = np.stack([stack] * 3, axis=-1)
    for X in (stack, stack[..., None], stack[:, None], torch.from_numpy(stack).unsqueeze(1)):
        np.testing.assert_array_equal(opened(check_images(X)), expected)


def test_items_of_a_stack_are_made_when_asked_for():
    rows = check_images(np.broadcast_to(np.uint8(7), (1_000_000, 4, 5)))
    assert not isinstance(rows.items, list)
    assert len(rows.items) == 1_000_000
    assert rows.items[-1].digest == rows.items[0].digest
    assert len(rows.items[10:20]) == 10
    assert sum(1 for _ in rows.items[:30]) == 30
    with pytest.raises(IndexError, match="out of bounds"):
        rows.items[1_000_000]
    assert len(pickle.dumps(rows.items[5])) < 1000


def test_bad_rows_of_a_stack_are_named_and_left_out():
    stack = np.stack([GRAY, GRAY[::-1], GRAY, GRAY]) / 255
    stack[1, 2, 3] = np.nan
    stack[2, 0, 0] = 3
    rows = check_images(stack)
    assert rows.positions.tolist() == [0, 3]
    assert "float64) are NaN, expected numbers from 0 to 1" in rows.faults[1]
    assert "numbers from 0" in rows.faults[2]
    assert "to 3, expected 0 to 1; set value_range" in rows.faults[2]
    expected = np.rint(stack[3] / 1 * 255)
    np.testing.assert_array_equal(pixels_of(rows.items[1].open())[:, :, 0], expected)


def test_digits_are_rows_of_a_matrix():
    X = load_digits().data[:20]
    expected = [
        [[round(x / 16 * 255) for x in line] for line in image] for image in X.reshape(-1, 8, 8)
    ]
    settings = {"image_shape": (8, 8), "value_range": (0, 16)}
    for data in (
        *(X, X.astype(int), pd.DataFrame(X), pl.DataFrame(X), pa.table(pd.DataFrame(X))),
        *(torch.from_numpy(X), list(X), X.tolist(), pd.Series(list(X)), pl.Series(X.tolist())),
        pd.DataFrame(X.astype(int)).astype("Int64"),
    ):
        found = np.array(opened(check_images(data, **settings)))
        np.testing.assert_array_equal(found[..., 1], expected)
    assert digests(X, **settings) == digests(list(X.reshape(-1, 8, 8)), value_range=(0, 16))
    faults = check_images(X, image_shape=(8, 8)).faults
    assert len(faults) == 20
    assert "expected 0 to 1; set value_range to what means black and white" in faults[0]


def test_a_missing_number_of_a_frame_is_a_fault_of_its_row():
    frame = pd.DataFrame(np.zeros((2, 4), int)).astype("Int64")
    frame.iloc[1, 2] = pd.NA
    rows = check_images(frame, image_shape=(2, 2))
    assert list(rows.faults) == [1]
    assert "NaN" in rows.faults[1]


def test_olivetti_faces_need_no_range():
    X = np.random.default_rng(0).random((4, 4096), dtype=np.float32)
    found = np.array(opened(check_images(X, image_shape=(64, 64))))
    np.testing.assert_array_equal(found[..., 0].reshape(4, -1), np.rint(X.astype(float) * 255))


def test_rows_of_a_matrix_may_have_channels():
    for shape in ((5, 7, 3), (3, 5, 7)):
        image = RGB if shape[2] == 3 else RGB.transpose(2, 0, 1)
        found = opened(check_images(image.reshape(1, -1), image_shape=shape))
        np.testing.assert_array_equal(found[0], RGB)


@pytest.mark.parametrize("X", [np.zeros((3, 63)), pd.DataFrame(np.zeros((3, 63)))])
def test_a_matrix_of_another_width_is_refused(X):
    message = r"rows of 64 numbers, as image_shape=\(8, 8\) is set, got a matrix of 63 columns"
    with pytest.raises(InvalidInputError, match=message):
        check_images(X, image_shape=(8, 8))


def test_a_frame_of_other_columns_is_no_matrix_of_pixels():
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    with pytest.raises(InvalidInputError, match="with columns of other kinds"):
        check_images(frame, image_shape=(1, 2))


def test_paths_are_read_whatever_the_shape_of_arrays(folder):
    frame = pd.DataFrame({"photo": [str(folder / "a.png")]})
    np.testing.assert_array_equal(opened(check_images(frame, image_shape=(8, 8)))[0], RGB)


@pytest.mark.parametrize("shape", [(8,), (8, 8, 8), (0, 8), (8, -1), (2.5, 8), (1, 8, 8, 1)])
def test_a_shape_that_is_none_of_an_image_is_refused(shape):
    with pytest.raises(InvalidParameterError, match=r"image_shape=\(.*expected \(height, width\)"):
        check_images([], image_shape=shape)


@pytest.mark.parametrize(
    "value_range", [(1, 0), (0, 0), (0,), (0, np.inf), ("a", "b"), (np.nan, 1)]
)
def test_a_range_that_is_none_is_refused(value_range):
    with pytest.raises(InvalidParameterError, match="expected two numbers"):
        check_images([], value_range=value_range)


# Arrays as rows


@pytest.mark.parametrize(
    ("shape", "is_tensor", "size"),
    [
        ((6, 9), False, (9, 6)),
        ((6, 9), True, (9, 6)),
        ((6, 9, 3), False, (9, 6)),
        ((3, 6, 9), False, (9, 6)),
        ((3, 6, 9), True, (9, 6)),
        ((6, 9, 3), True, (9, 6)),
        ((3, 9, 3), False, (9, 3)),  # both readings: NumPy's channels are last
        ((3, 9, 3), True, (3, 9)),  # and torch's first
        ((6, 9, 2), False, (9, 6)),
        ((2, 6, 9), True, (9, 6)),
        ((1, 6, 9), False, (9, 6)),
        ((6, 9, 1), True, (9, 6)),
        ((4, 6, 9), True, (9, 6)),
    ],
)
def test_channels_are_found(shape, is_tensor, size):
    value = torch.zeros(shape) if is_tensor else np.zeros(shape)
    assert check_images([value]).items[0].open().size == size


@pytest.mark.parametrize(
    ("pixels", "white"),
    [
        (GRAY, 255),
        (GRAY > 100, 1),
        (GRAY.astype(np.int64), 255),
        (GRAY.astype(np.uint32), 255),
        (GRAY.astype(np.uint16) * 257, 65535),
        (GRAY.astype(">u2") * 257, 65535),
        (GRAY / 255, 1),
        ((GRAY / 255).astype(np.float32), 1),
        ((GRAY > 9).astype(np.float16), 1),
    ],
    ids=lambda value: getattr(value, "dtype", ""),
)
def test_numbers_mean_what_their_type_says(pixels, white):
    expected = np.rint(pixels.astype(float) / white * 255)
    np.testing.assert_array_equal(opened(check_images([pixels]))[0][:, :, 0], expected)
    if pixels.dtype.isnative:
        found = opened(check_images([torch.from_numpy(pixels.copy())]))[0]
        np.testing.assert_array_equal(found[:, :, 2], expected)


def test_bfloat16_tensors_are_read():
    tensor = torch.tensor([[0, 0.5, 1]], dtype=torch.bfloat16)
    assert opened(check_images([tensor]))[0][0, :, 0].tolist() == [0, 128, 255]


def test_other_rows_do_not_scale_a_row():
    dark, white = np.full((4, 5), 0.25), np.ones((4, 5))
    alone = digests([dark])
    assert digests([dark, white])[:1] == alone
    assert digests(np.stack([dark, white]))[:1] == alone


def test_one_picture_in_memory_is_one_row_whatever_it_came_as():
    first = torch.from_numpy(RGB).permute(2, 0, 1)
    same = [RGB, RGB.transpose(2, 0, 1), first, first / 255, RGB.astype(int), RGB / 255]
    same += [Image.fromarray(RGB), Image.open(io.BytesIO(encode(RGB)))]
    same += [np.dstack([RGB, np.full((5, 7), 255, np.uint8)]), np.asfortranarray(RGB)]
    assert len(set(digests(same) + digests(RGB[None]))) == 1
    gray = [GRAY, GRAY[..., None], GRAY[None], np.dstack([GRAY] * 3), Image.fromarray(GRAY)]
    gray += [np.dstack([GRAY, np.full((5, 7), 255, np.uint8)])]
    assert len(set(digests(gray))) == 1


def test_equal_bytes_in_another_shape_are_another_picture():
    assert len(set(digests([np.zeros((2, 6)), np.zeros((6, 2)), np.zeros((3, 4))]))) == 3


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


# Bad rows


class Pipe(io.RawIOBase):
    """A stream that cannot go back."""

    def readable(self):
        return True


class Downloaded:
    """What some clients return: it reads, and nothing else."""

    def read(self):
        return encode(RGB)


def closed_file():
    file = io.BytesIO(b"abc")
    file.close()
    return file


def released_memory():
    view = memoryview(b"abc")
    view.release()
    return view


def closed_image(folder):
    image = Image.open(folder / "a.png")
    image.close()
    return image


def test_all_bad_rows_are_named_at_once(folder):
    (folder / "empty.png").touch()
    os.mkfifo(folder / "pipe")
    cases = [
        (None, "missing (None)"),
        (float("nan"), "missing (nan)"),
        (pd.NA, "missing (<NA>)"),
        ("", "an empty path, expected a file"),
        (str(folder / "none.png"), f"no such file: '{folder}/none.png'"),
        (folder, f"a directory, expected a file: '{folder}'"),
        (folder / "empty.png", f"an empty file: '{folder}/empty.png'"),
        (folder / "pipe", "not a regular file"),
        ("http://a.example/b.jpg", "a URL, expected a file; download it first"),
        ("s3://bucket/b.jpg", "a URL, expected a file; download it first"),
        ("file:///tmp/b.jpg", "give its path without file://"),
        ("data:image/png;base64,iVBORw0KGgo", "a data URL, expected a file; decode it"),
        ("a\0b", "not a path"),
        ("x" * 5000, "too long for a path"),
        (b"", "empty bytes, expected an encoded file"),
        (io.BytesIO(), "an empty BytesIO"),
        (io.StringIO("a"), "a StringIO that gives str; open the file with mode 'rb'"),
        (Pipe(), "a Pipe that cannot be read from its start; read it into bytes first"),
        (Downloaded(), "a Downloaded that cannot be read from its start; read it into bytes"),
        (closed_file(), "a BytesIO that cannot be read: I/O operation on closed file"),
        (released_memory(), "a memoryview that cannot be read: operation forbidden on released"),
        (7, "expected a path, an encoded file, a PIL image, an array or a tensor, got int: 7"),
        ([[1, 2]], "got list"),
        (np.zeros((5, 6, 7)), "array of shape (5, 6, 7), float64: expected 1 to 4 channels"),
        (np.zeros((2, 3, 4, 3)), "array of shape (2, 3, 4, 3), float64: expected (height, width)"),
        (np.zeros(16), "array of shape (16,), float64: expected (height, width), or set image_"),
        (np.zeros((0, 4)), "array of shape (0, 4), float64: it has no pixels"),
        (np.array([["a"]]), "array of shape (1, 1), <U1: expected numbers"),
        (np.zeros((2, 2), complex), "array of shape (2, 2), complex128: expected numbers"),
        (np.full((2, 2), 256), "int64: its pixels (int64) are numbers from 256 to 256, expected 0"),
        (np.full((2, 2), -1), "numbers from -1 to -1, expected 0 to 255"),
        (np.full((2, 2), np.inf), "numbers from inf to inf, expected 0 to 1; set value_range"),
        (np.full((2, 2), 1.01), "numbers from 1.01 to 1.01, expected 0 to 1; set value_range"),
        (torch.full((3, 2, 2), 2.0), "tensor of shape (3, 2, 2), torch.float32: its pixels"),
        (torch.zeros(3, 2, 2, device="meta"), "a tensor that cannot become an array"),
        (torch.eye(3).to_sparse(), "a tensor that cannot become an array"),
        (closed_image(folder), "a PIL image that cannot be loaded"),
        (Image.open(io.BytesIO(encode(RGB, "JPEG")[:-60])), "a PIL image that cannot be loaded"),
        (Image.new("RGB", (0, 4)), "an image without pixels: 0 x 4"),
    ]
    rows = check_images([RGB, *(value for value, _ in cases), RGB])
    assert rows.positions.tolist() == [0, len(cases) + 1]
    assert list(rows.faults) == list(range(1, len(cases) + 1))
    for row, (value, reason) in enumerate(cases, 1):
        assert reason in rows.faults[row], repr(value)[:80]
        assert len(rows.faults[row]) < 400


def test_rows_that_do_not_fit_the_shape_are_named():
    rows = check_images([np.zeros(63), [0, [1]], ["a"] * 64], image_shape=(8, 8))
    assert (
        "array of shape (63,), float64: expected 64 numbers for image_shape=(8, 8)"
        in rows.faults[0]
    )
    assert "a list that is no array" in rows.faults[1]
    assert "expected numbers" in rows.faults[2]


def test_an_unreadable_file_is_named(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    faults = check_images([folder / "a.png"]).faults
    assert faults == {0: f"cannot be read (Permission denied): '{folder}/a.png'"}


# Files


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
    with pytest.raises(UnreadablePicture, match=r"a.png' changed while it was being embedded"):
        rows.items[0].open()
    with pytest.raises(UnreadablePicture, match=r"b.png' cannot be read: No such file"):
        rows.items[1].open()


def test_damaged_files_are_good_rows_until_they_are_opened(folder):
    (folder / "a.png").write_bytes(b"no picture")
    rows = check_images([folder / "a.png"])
    assert rows.faults == {}
    with pytest.raises(UnreadablePicture, match=r"a.png': not an image that Pillow reads"):
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
