"""Images that are arrays and tensors: rows, stacks and matrices; what their numbers mean."""

import io
import pickle
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from skembed.exceptions import InvalidInputError, InvalidParameterError
from skembed.image import _arrays
from skembed.image._inputs import check_images
from tests.image.pictures import digests, encode, opened, pixels_of, rgb_pixels

RGB = rgb_pixels()
GRAY = RGB[:, :, 0]


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


def test_bad_rows_are_found_in_every_part_of_a_stack(monkeypatch):
    monkeypatch.setattr(_arrays, "_BYTES_PER_CHUNK", 3 * 8 * 20)  # three rows
    stack = np.zeros((11, 4, 5))
    stack[[0, 2, 3, 10], 1, 1] = 2
    rows = check_images(stack)
    assert list(rows.faults) == [0, 2, 3, 10]
    assert rows.positions.tolist() == [1, 4, 5, 6, 7, 8, 9]


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
    assert "expected 0 to 1; set value_range to the numbers for black and white" in faults[0]


def test_a_missing_number_of_a_frame_is_a_fault_of_its_row():
    frame = pd.DataFrame(np.zeros((2, 4), int)).astype("Int64")
    frame.iloc[1, 2] = pd.NA
    rows = check_images(frame, image_shape=(2, 2))
    assert list(rows.faults) == [1]
    assert "missing" in rows.faults[1]


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
    message = r"because image_shape=\(8, 8\) is set, got a matrix with 63 columns"
    with pytest.raises(InvalidInputError, match=message):
        check_images(X, image_shape=(8, 8))


def test_a_frame_of_other_columns_is_no_matrix_of_pixels():
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    with pytest.raises(InvalidInputError, match="with columns of other kinds"):
        check_images(frame, image_shape=(1, 2))


@pytest.mark.parametrize(
    "shape", [(8,), (8, 8, 8), (True, 8), (0, 8), (8, -1), (2.5, 8), (1, 8, 8, 1)]
)
def test_a_shape_that_is_none_of_an_image_is_refused(shape):
    with pytest.raises(InvalidParameterError, match=r"image_shape=\(.*expected \(height, width\)"):
        check_images([], image_shape=shape)


@pytest.mark.parametrize(
    "value_range",
    [
        (1, 0),
        (0, 0),
        (0,),
        (0, 1, 2),
        (0, np.inf),
        ("a", "b"),
        ("0", "1"),
        (0, 10**400),
        (-1.7e308, 1.7e308),
        (np.nan, 1),
    ],
)
def test_a_range_that_is_none_is_refused(value_range):
    with pytest.raises(InvalidParameterError, match="expected two numbers"):
        check_images([], value_range=value_range)


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
        ((GRAY.astype(np.uint16) * 257).astype(">u2"), 65535),
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


def test_rounding_beyond_black_and_white_is_no_fault():
    pixels = np.array([[-1e-8, 0.5, 1 + 1e-7]])
    assert opened(check_images([pixels]))[0][0, :, 0].tolist() == [0, 128, 255]
    assert "from 0 to 1.00001" in check_images([np.array([[0, 1.00001]])]).faults[0]


def test_masked_pixels_are_a_fault():
    stack = np.ma.masked_array(np.zeros((3, 4, 5), np.uint8), mask=False)
    stack[1, 2, 3] = np.ma.masked
    for X in (stack, list(stack), stack.reshape(3, 20)):
        rows = check_images(X, image_shape=(4, 5))
        assert list(rows.faults) == [1]
        assert "pixels are missing or masked" in rows.faults[1]
        assert [item.digest for item in rows.items] == digests(np.zeros((2, 4, 5), np.uint8))
        assert not isinstance(rows.items[0].pixels, np.ma.MaskedArray)


@pytest.mark.parametrize("kind", ["UInt8", "Int64", "Float32", "boolean"])
def test_nullable_numbers_of_pandas_mean_what_numpys_mean(kind):
    numbers = np.arange(12).reshape(3, 4) % 2 * (1 if kind in ("Float32", "boolean") else 255)
    plain = numbers.astype(kind.lower().replace("boolean", "bool"))
    frame = pd.DataFrame(numbers).astype(kind)
    assert digests(frame, image_shape=(2, 2)) == digests(plain, image_shape=(2, 2))


def frames_with_a_gap():
    """Frames of 8-bit numbers, the second row black and white only, with a gap in the third."""
    numbers = np.array([[200] * 4, [0, 1, 1, 0], [7] * 4], np.uint8)
    whole = pd.DataFrame(numbers, columns=list("abcd"))
    nullable = whole.astype("UInt8")
    nullable.iloc[2, 1] = pd.NA
    of_polars = pl.DataFrame(whole).with_columns(
        pl.when(pl.col("b") == 7).then(None).otherwise(pl.col("b")).alias("b")
    )
    arrow = of_polars.to_arrow()
    return numbers, [nullable, nullable.convert_dtypes(dtype_backend="pyarrow"), of_polars, arrow]


@pytest.mark.parametrize("kind", range(4), ids=["nullable", "pandas arrow", "polars", "arrow"])
def test_a_gap_in_one_row_does_not_change_what_the_numbers_of_others_mean(kind):
    numbers, frames = frames_with_a_gap()
    rows = check_images(frames[kind], image_shape=(2, 2))
    assert list(rows.faults) == [2]
    assert "pixels are missing" in rows.faults[2]
    expected = check_images(numbers[:2], image_shape=(2, 2))
    assert [each.digest for each in rows.items] == [each.digest for each in expected.items]


def test_a_list_of_pictures_that_numpy_made_one_array_of_objects_is_a_stack():
    pictures = [np.full((4, 5, 3), value, np.uint8) for value in (3, 250)]
    for objects in (pictures, [Image.fromarray(each) for each in pictures]):
        rows = check_images(np.array(objects, dtype=object))
        expected = check_images(pictures)
        assert [each.digest for each in rows.items] == [each.digest for each in expected.items]


def test_half_precision_is_compared_with_any_range():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = check_images([np.full((2, 2), 60_000, np.float16)], value_range=(0, 65_535))
    assert opened(rows)[0][0, 0, 0] == 233


def test_a_frame_of_gaps_alone_has_a_fault_in_every_row():
    frame = pd.DataFrame({"a": [pd.NA, pd.NA], "b": [pd.NA, pd.NA]}, dtype="Int64")
    faults = check_images(frame, image_shape=(1, 2)).faults
    assert ["missing or masked" in faults[row] for row in (0, 1)] == [True, True]
