"""Rows of images: which containers and rows are read, and how bad ones are named."""

import base64
import io
import json
import os
import re
import threading
import time
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
import torch
from PIL import Image

from skembed import _files, exceptions
from skembed.exceptions import InvalidInputError
from skembed.image import _pictures
from skembed.image._inputs import check_images
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


def test_a_file_is_read_from_whatever_has_its_bytes(folder):
    data = encode(RGB)
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.write(folder / "a.png", "a.png")
    rows = [{"bytes": data, "path": None}, {"bytes": None, "path": str(folder / "a.png")}]
    rows += [zipfile.Path(folder / "a.zip") / "a.png"]
    text = base64.encodebytes(data).decode()  # in lines
    rows += [f"data:image/png;base64,{text}", f"DATA:;BASE64,{quote(text.strip())}"]
    for X in (*as_containers(rows), pa.array(rows[:2]), pl.DataFrame({"photo": rows[:2]})):
        assert set(digests(X)) == set(digests([data]))
    nowhere = [zipfile.Path(folder / "a.zip") / "no.png", {"bytes": None, "path": float("nan")}]
    faults = check_images(nowhere).faults
    assert "cannot be read" in faults[0]
    assert faults[1] == "missing ({'bytes': None, 'path': nan})"


class Lazy:
    """An array of another library (h5py, xarray, ...)."""

    def __init__(self, array):
        self.array, self.ndim = array, array.ndim

    def __array__(self, dtype=None, copy=None):
        return self.array


def test_whatever_gives_an_array_is_a_picture_a_stack_or_a_column(folder):
    for X in ([Lazy(RGB)], Lazy(RGB[None]), Lazy(np.array([str(folder / "a.png")], object))):
        np.testing.assert_array_equal(opened(check_images(X))[0], RGB)
    rows = check_images(Lazy(RGB.reshape(1, -1)), image_shape=RGB.shape)
    np.testing.assert_array_equal(opened(rows)[0], RGB)
    with pytest.raises(InvalidInputError, match="probably a single picture"):
        check_images(Lazy(RGB))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>", "an HTML page"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b"%PDF-1.7", "a PDF document"),
        (b"\0\0\0\x20ftypisom" + bytes(40), "a video"),
        (b"RIFF\xff\0\0\0WAVEfmt ", "a sound"),
        (b"ID3\4" + bytes(40), "a sound"),
        (b"PK\3\4" + bytes(40), "an archive; unpack it first"),
        (b"PK\3\4" + bytes(26) + b"model/data.pkl", "a pickle, which is never opened"),
        (b"\x80\4\x95" + bytes(40), "a pickle, which is never opened"),
        (b"\x93NUMPY\1\0", "a NumPy file; load it and pass the array"),
        (b"\x58\1\0\0\0\0\0\0" + b'{"a":{', "a safetensors file"),
        (json.dumps({"a": 1}).encode(), "JSON"),
        (bytes(100), "zeros"),
        (bytes(128) + b"DICM" + bytes(40), "a DICOM file; read it with pydicom"),
        (b"\0\5\x16\7\0\2\0\0Mac OS X", "metadata that macOS keeps next to a file"),
        (b"PAR1" + bytes(40), "a Parquet or Arrow table; read it"),
        (b"\xff\x0a" + bytes(40), "JPEG XL; convert it first"),
        (b"hello", "text"),
        (
            base64.b64encode(bytes(99)),
            "text; if it is a base64-encoded file, decode it with base64.b64",
        ),
        (b"data:image/png;base64,iVBORw0K", "text; pass a data URL as str, not as bytes"),
    ],
)
def test_what_is_no_image_is_called_what_it_looks_like(data, kind):
    reason = check_images([data]).faults[0]
    assert f"{len(data):,} bytes: not a picture that Pillow can read, but {kind}" in reason


class Pipe(io.RawIOBase):
    """A stream that cannot go back."""

    def readable(self):
        return True


class Unwilling:
    """Raises when it is shown."""

    def __repr__(self):
        raise RuntimeError("no")


class Placeless(os.PathLike):
    """A path that is nowhere."""

    def __fspath__(self):
        raise RuntimeError("no place")


class Downloaded:
    """What some clients return: it reads, and nothing else."""

    def read(self):
        return encode(RGB)


@pytest.mark.parametrize(
    ("X", "settings"),
    [
        ([], {}),
        (np.array([]), {}),
        (np.empty((0, 4, 4, 3)), {}),
        (np.empty((0, 4, 4)), {}),
        (torch.empty(0, 3, 4, 4), {}),
        (np.empty((0, 64)), {"image_shape": (8, 8)}),
        (np.empty((0, 64)), {}),
        (pd.DataFrame(np.empty((0, 64))), {}),
        (torch.empty(0, 4, 4), {}),
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
        (RGB, r"shape \(5, 7, 3\), probably a single picture. Put it in a list"),
        (np.zeros((5, 7, 4)), r"shape \(5, 7, 4\), probably a single picture"),
        (torch.zeros(3, 5, 7), r"tensor of shape \(3, 5, 7\).*X.unsqueeze\(1\)"),
        (torch.zeros(9, 5, 7), r"tensor of shape \(9, 5, 7\).*X.unsqueeze\(1\)"),
        (np.zeros((2, 2, 5, 7, 3)), "a stack of pictures with 3 or 4 dimensions"),
        (np.zeros((2, 5, 7, 9)), "expected 1 to 4 channels, first or last"),
        (np.zeros((10, 64)), r"matrix of numbers.*set image_shape=\(8, 8\)"),
        (np.zeros((10, 65)), "matrix of numbers.*set image_shape"),
        (pd.DataFrame(np.zeros((10, 64))), r"matrix of numbers.*set image_shape=\(8, 8\)"),
        (pd.DataFrame({"a": ["x"], "b": [1]}), r"DataFrame of 2 columns \(.*\). Choose one"),
        (scipy.sparse.csr_array(np.eye(4)), r"got a csr_array. Use X.toarray\(\)"),
        (scipy.sparse.csr_matrix(np.eye(4)), r"Use X.toarray\(\)"),
        (np.array([b"ab", b"c"]), "list or object array"),
        ({"a": "b.png"}, "a dict. If its values are the rows"),
        ((path for path in "ab"), r"Use list\(X\)"),
        (7, "got an int"),
        (np.zeros((28, 28, 1)), r"shape \(28, 28, 1\), probably a single picture"),
        (pd.DataFrame(index=range(3)), r"a table without columns, of shape \(3, 0\)"),
        (pa.table({}), r"a table without columns, of shape \(0, 0\)"),
        (np.array([["a", 1], ["b", 2]], object), r"matrix of objects of shape \(2, 2\).*astype"),
        (Downloaded(), r"got a single Downloaded. Put it in a list"),
        (torch.eye(4).to_sparse(), "a tensor that cannot become an array"),
        (torch.zeros(2, 3, 4, 4, device="meta"), "a tensor that cannot become an array"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_collection_of_images_is_refused(X, message):
    with pytest.raises(InvalidInputError, match=message):
        check_images(X)


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
        ("file:///tmp/b.jpg", "pass its path without file://"),
        ("data:image/png;base64,iVBORw0KGgo", "a data URL that cannot be read (Incorrect padding)"),
        ("a\0b", "not a path"),
        ("x" * 5000, "too long for a path"),
        (b"", "empty bytes, expected an encoded file"),
        (io.BytesIO(), "an empty BytesIO"),
        (io.StringIO("a"), "a StringIO that returns str; open the file with mode 'rb'"),
        (Pipe(), "a Pipe that cannot be read from its start; read it into bytes first"),
        (Downloaded(), "a Downloaded that cannot be read from its start; read it into bytes"),
        (closed_file(), "a BytesIO that cannot be read: I/O operation on closed file"),
        (released_memory(), "a memoryview that cannot be read: operation forbidden on released"),
        (7, "expected a path, an encoded file, a PIL image, an array or a tensor, got int: 7"),
        ([[1, 2]], "got list"),
        (Unwilling(), "got Unwilling: <Unwilling>"),
        (Placeless(), "a Placeless that gives no path: RuntimeError: no place"),
        ("~/none.png", "no such file: '~/none.png'; expand ~ with os.path.expanduser"),
        (os.fsencode(folder / "a.png"), "but text; pass a path as str"),
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
        (Image.open(io.BytesIO(encode(RGB, "JPEG")[:-60])), "a PIL image: damaged: OSError"),
        (Image.new("RGB", (0, 4)), "a picture without pixels: 0 x 4"),
    ]
    cases += [
        ("iVBORw0KGgo" * 20, "if it is a base64-encoded file, decode it with base64.b64decode"),
        ("iVBO-w0KGgo" * 20, "decode it with base64.urlsafe_b64decode"),
        ("none.png", f"no such file: 'none.png'; the working directory is {Path.cwd()}"),
        (f"{folder}/a.png\n", "as lines of a file do: use path.strip()"),
        (
            f"{folder}/*.png",
            "/*.png'; expand it with sorted(glob.glob(...))",
        ),
        (RGB.tolist(), "; if these are pixels, pass np.asarray(...)"),
        ((RGB, 3), "; pass each picture by itself, without a label or a list around it"),
        (
            {"image": encode(RGB)},
            "; expected 'bytes' or 'path' in it; if it is a table, choose the column",
        ),
        (
            np.frombuffer(encode(RGB), np.uint8),
            "; if it is an encoded file, pass array.tobytes()",
        ),
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
    assert "a list that is not an array" in rows.faults[1]
    assert "expected numbers" in rows.faults[2]


def test_an_unreadable_file_is_named(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    faults = check_images([folder / "a.png"]).faults
    assert faults == {0: f"cannot be read (Permission denied): '{folder}/a.png'"}


def test_paths_are_read_whatever_the_shape_of_arrays(folder):
    frame = pd.DataFrame({"photo": [str(folder / "a.png")]})
    np.testing.assert_array_equal(opened(check_images(frame, image_shape=(8, 8)))[0], RGB)


def test_a_matrix_of_numpys_matrix_class_is_a_matrix():
    with pytest.warns(PendingDeprecationWarning, match=r"matrix subclass"):
        X = np.matrix(20 * np.arange(12).reshape(2, 6))
    rows = check_images(X, image_shape=(2, 3))
    np.testing.assert_array_equal(opened(rows)[1][:, :, 0], 20 * np.arange(6, 12).reshape(2, 3))


class SlowFile(io.BytesIO):
    """Lets other threads in wherever it is read."""

    def seek(self, *args):
        time.sleep(0.001)
        return super().seek(*args)

    def read(self, *args):
        time.sleep(0.001)
        return super().read(*args)


def test_a_file_object_is_read_whole_by_several_threads():
    file = SlowFile(encode(RGB))
    file.seek(3)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: digests([file]), range(24)))
    assert found == [digests([encode(RGB)])] * 24
    assert file.tell() == 3


def test_opened_images_are_checked_side_by_side(monkeypatch):
    meeting = threading.Barrier(2, timeout=20)
    read = _pictures._read

    def read_together(image, value_range):
        meeting.wait()
        return read(image, value_range)

    images = [Image.open(io.BytesIO(encode(RGB))) for _ in range(4)]
    monkeypatch.setattr(_pictures, "_read", read_together)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert check_images(images).faults == {}


def test_a_single_row_of_a_matrix_is_told_from_many_numbers():
    with pytest.raises(InvalidInputError, match=r"matrix of shape \(n, 64\).*X.reshape\(1, -1\)"):
        check_images(np.zeros(64), image_shape=(8, 8))


def test_heic_files_say_what_reads_them():
    reason = check_images([b"\0\0\0\x18ftypheic" + bytes(40)]).faults[0]
    assert "HEIC, which needs pillow-heif" in reason


@pytest.mark.parametrize(
    ("X", "settings", "largest"),
    [
        (np.full((3, 8, 8), 16), {}, 16),
        (np.full((3, 64), 16), {"image_shape": (8, 8)}, 16),
        (np.full((3, 8, 8, 3), 255, np.uint16), {}, 255),
        (np.full((3, 64), 17), {"image_shape": (8, 8), "value_range": (0, 17)}, None),
        (np.full((3, 8, 8), 16, np.uint8), {}, None),
        (np.full((3, 8, 8), 33), {}, None),
        (np.zeros((3, 8, 8), int), {}, None),
        (np.zeros((0, 8, 8), int), {}, None),
        (np.full((3, 8, 8), 0.1), {}, None),
    ],
)
def test_whole_numbers_that_are_nearly_black_are_told(X, settings, largest):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_images(X, **settings)
        exceptions._told.clear()  # it would not be told again
        check_images([] if "image_shape" in settings else list(X), **settings)
    advice = [] if largest is None else [f"set value_range=(0, {largest}); if not"]
    advice *= 1 if "image_shape" in settings else 2
    for warning, text in zip(caught, advice, strict=True):
        assert text in str(warning.message)


@pytest.mark.parametrize(
    ("X", "fix"),
    [
        (pd.Series([7, 8, 9]), "choose the column"),
        ([0.5, None, 2.5], "choose the column"),
        ([["a.png"], ["b.png"], ["c.png"]], r"use \[row\[0\] for row in X\]"),
    ],
)
def test_a_column_of_the_wrong_kind_has_one_fault(X, fix):
    faults = check_images(X).faults
    (fault,) = {fault for fault in faults.values() if "missing" not in fault}
    assert re.search(fix, fault)
    assert len(faults) == 3


def test_a_bad_row_among_others_is_named_with_its_value():
    faults = check_images([RGB, 7, 8]).faults
    assert "got int: 7" in faults[1]
    assert "got int: 8" in faults[2]
