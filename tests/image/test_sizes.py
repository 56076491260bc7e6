"""Models that take pictures of one size, where nothing resizes the user's to it."""

import numpy as np
import pytest
import torch
import transformers as tf
from PIL import Image
from torch import nn
from torchvision import transforms

from skembed import ImageEmbedder
from skembed.exceptions import InvalidRowsWarning, UnsupportedModelError
from tests.image.checkpoints import write_checkpoint
from tests.image.networks import pictures, to_pixels

SETTINGS = {"dtype": "float32", "cache": None}


def digits_network(height=28, width=28):
    """Return a small network for gray pictures of one size, as tutorials have it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        n_places = ((height - 2) // 2) * ((width - 2) // 2)
        layers = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        return nn.Sequential(*layers, nn.Linear(8 * n_places, 32))


GRAY = transforms.Compose([transforms.Grayscale(), transforms.ToTensor()])


@pytest.mark.parametrize("shape", [(28, 28), (62, 47)])
def test_a_network_of_one_size_takes_rows_of_a_matrix(shape):
    X = np.random.default_rng(0).random((6, *shape)).astype(np.float32)
    network = digits_network(*shape)
    embedder = ImageEmbedder(network, preprocess=GRAY, image_shape=shape, **SETTINGS)
    found = embedder.fit_transform(X.reshape(6, -1))
    pixels = torch.from_numpy(np.rint(X * 255) / 255).float()[:, None]
    with torch.inference_mode():
        np.testing.assert_allclose(found, network(pixels).numpy(), atol=1e-5)


def test_a_network_of_a_usual_size_takes_pictures_of_it_and_names_others():
    X = pictures(4, sizes=[(28, 28)])
    embedder = ImageEmbedder(digits_network(), preprocess=GRAY, on_error="nan", **SETTINGS)
    with pytest.warns(InvalidRowsWarning, match=r"row 4: .*\(30, 28, 3\).*the model failed on it"):
        found = embedder.fit_transform([*X, *pictures(1, sizes=[(30, 28)])])
    with torch.inference_mode():
        expected = digits_network()(torch.stack([GRAY(Image.fromarray(each)) for each in X]))
    np.testing.assert_allclose(found[:4], expected, atol=1e-5)
    assert np.isnan(found[4]).all()


def test_a_network_of_no_usual_size_says_so():
    embedder = ImageEmbedder(digits_network(31, 17), preprocess=GRAY, **SETTINGS)
    with pytest.raises(
        UnsupportedModelError,
        match=r"shape \(1, 1, 240, 320\) \(and on \d+ of other sizes\).*add a Resize",
    ):
        embedder.fit([])


@pytest.fixture(scope="module")
def unresized(tmp_path_factory):
    """Return the folder of a ViT for pictures of 32 x 32 whose processor does not resize."""
    folder = write_checkpoint(tmp_path_factory.mktemp("models") / "vit", "vit")
    size = tf.AutoConfig.from_pretrained(folder).image_size
    tf.ViTImageProcessor(do_resize=False).save_pretrained(folder)
    return folder, size


@pytest.mark.parametrize("is_own", [False, True])
def test_a_checkpoint_whose_processor_does_not_resize_takes_pictures_of_its_size(unresized, is_own):
    folder, size = unresized
    rows = pictures(3, sizes=[(size, size)])
    preprocess = to_pixels if is_own else None
    embedder = ImageEmbedder(folder, preprocess=preprocess, on_error="nan", **SETTINGS)
    with pytest.warns(InvalidRowsWarning, match=r"row 3: .*doesn't match model"):
        found = embedder.fit_transform([*rows, np.zeros((size, size + 1, 3), np.uint8)])
    model = tf.ViTModel.from_pretrained(folder).eval()
    if is_own:
        pixels = torch.stack([to_pixels(Image.fromarray(row)) for row in rows])
    else:
        processor = tf.AutoImageProcessor.from_pretrained(folder)
        pixels = processor(rows, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        expected = model(pixels).last_hidden_state[:, 0]
    np.testing.assert_allclose(found[:3], expected, atol=1e-5)
