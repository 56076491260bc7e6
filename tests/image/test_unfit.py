"""Single pictures on which the user's preprocessing or model fails."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from skembed import ImageEmbedder
from skembed.exceptions import InvalidRowsError, InvalidRowsWarning
from tests.image.networks import TinyNetwork, features, pictures, to_pixels

ROWS = pictures(5)
SMALL = np.zeros((2, 2, 3), np.uint8)


def gray_where_tall(image):
    pixels = to_pixels(image)
    return pixels[:1] if image.height > image.width else pixels


def bytes_where_tall(image):
    pixels = to_pixels(image)
    return pixels.to(torch.uint8) if image.height > image.width else pixels


def fails_where_tall(image):
    if image.height > image.width:
        raise KeyError("tall")
    return to_pixels(image)


class Flat(nn.Module):
    """Gives as many features as there are pixels, whatever the size."""

    def forward(self, pixels):
        return pixels.flatten(1)


def to_four_or_five_rows(image):
    return to_pixels(image.resize((4, 5 if image.height > image.width else 4)))


@pytest.mark.parametrize(
    ("preprocess", "reason"),
    [
        (gray_where_tall, r"the model failed on it: RuntimeError: .* to have 3 channels, but got"),
        (bytes_where_tall, r"preprocess: expected .*this one gave a tensor of torch.uint8"),
        (fails_where_tall, r"preprocess raised KeyError: 'tall'"),
    ],
)
def test_a_picture_that_preprocessing_spoils_is_a_fault_of_its_row(preprocess, reason):
    embedder = ImageEmbedder(
        TinyNetwork(), preprocess=preprocess, dtype="float32", cache=None, on_error="nan"
    )
    with pytest.warns(InvalidRowsWarning, match=reason):
        found = embedder.transform(ROWS)
    assert list(embedder.report_.faults) == [1]
    assert np.isnan(found[1]).all()
    good = [0, 2, 3, 4]
    expected = features(TinyNetwork(), to_pixels, [ROWS[i] for i in good])
    np.testing.assert_allclose(found[good], expected, atol=1e-5)


@pytest.mark.parametrize("n_small", [1, 4])
def test_a_picture_too_small_for_the_model_is_a_fault_of_its_row(n_small):
    embedder = ImageEmbedder(TinyNetwork(), preprocess=to_pixels, dtype="float32", cache=None)
    small = [SMALL + i for i in range(n_small)]
    with pytest.raises(
        InvalidRowsError, match=r"rows? 5.*: .*\(2, 2, 3\).*: the model failed"
    ) as e:
        embedder.transform([*ROWS, *small])
    assert list(e.value.faults) == list(range(5, 5 + n_small))


def test_a_picture_that_gives_more_features_than_others_is_a_fault_of_its_row():
    embedder = ImageEmbedder(
        Flat(), preprocess=to_four_or_five_rows, dtype="float32", cache=None, on_error="nan"
    )
    with pytest.warns(InvalidRowsWarning, match=r"the model gives features of shape \(1, 60\)"):
        found = embedder.transform(ROWS)
    assert found.shape == (5, 48)
    assert np.isnan(found[1]).all()
    expected = to_four_or_five_rows(Image.fromarray(ROWS[0])).flatten()
    np.testing.assert_allclose(found[0], expected, atol=1e-6)
