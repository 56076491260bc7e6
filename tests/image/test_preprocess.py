"""A user's own preprocessing is tried out before it is used, and kept as it was."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from skembed.exceptions import InvalidParameterError
from skembed.image._preprocess import find_preprocess
from tests.image.networks import to_pixels, to_small_pixels


@pytest.mark.parametrize(
    ("preprocess", "message"),
    [
        (lambda image: image, r"gave a PIL\.\w+\.Image\. Add torchvision\.transforms\.ToTensor"),
        (np.asarray, r"gave a numpy\.ndarray"),
        (lambda image: {"pixel_values": to_pixels(image)[None]}, "Take the tensor out"),
        (v2.PILToTensor(), r"tensor of torch\.uint8.*ToDtype"),
        (lambda image: to_pixels(image)[None], r"shape \(1, 3, 240, 320\).*batch dimension"),
        (lambda image: image.no_such, r"failed on a PIL image.*AttributeError"),
        (lambda image: to_pixels(image) + torch.rand(1)[0], "is random"),
    ],
)
def test_what_does_not_fit_is_an_error_at_once(preprocess, message):
    with pytest.raises(InvalidParameterError, match=message):
        find_preprocess(preprocess)


def test_a_change_afterwards_is_not_seen_but_by_the_digest():
    class Scale:
        factor = 1.0

        def __call__(self, image):
            return to_pixels(image) * self.factor

    scale, image = Scale(), Image.new("RGB", (5, 4), (200, 100, 0))
    before = find_preprocess(scale)
    scale.factor = 2.0
    torch.testing.assert_close(before(image), to_pixels(image))
    assert find_preprocess(scale).digest != before.digest


def test_it_is_tried_out_once_for_its_content():
    first = find_preprocess(to_pixels)
    assert find_preprocess(to_pixels) is first
    assert find_preprocess(to_small_pixels) is not first


def test_pixels_that_are_no_numbers_are_neither_random_nor_overwritten():
    made = find_preprocess(lambda image: to_pixels(image) / (image.width - 320))
    assert made.probe.isnan().any()
