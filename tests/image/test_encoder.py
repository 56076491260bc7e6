"""The image encoder: what tells its vectors and its loaded models apart, and how it decodes."""

import sys
import threading

import numpy as np
import PIL
import pytest
import torch
import torchvision
import transformers

from skembed import ImageEmbedder, unload_models
from skembed.engine import embed
from skembed.image import _encoder
from skembed.image._backbone import PixelModule, Scale
from skembed.image._features import Plan
from skembed.image._inputs import check_images
from tests.image.backbones import backbone_of
from tests.image.checkpoints import write_checkpoint
from tests.image.networks import TinyNetwork, pictures, to_pixels


def encoder_of(model=None, **params):
    if model is None:
        model, params = TinyNetwork(), {"preprocess": to_pixels, **params}
    return ImageEmbedder(model, **{"dtype": "float32", **params}).fit([]).encoder_


def test_models_of_two_formats_are_loaded_apart():
    exact, rough = encoder_of(), encoder_of(dtype="bfloat16")
    assert exact.model_key != rough.model_key
    assert exact.model_key == encoder_of(normalize=True).model_key  # which is not the model's


def test_another_release_of_pillow_is_another_vector(monkeypatch):
    before = encoder_of().digest
    unload_models()
    monkeypatch.setattr(PIL, "__version__", "9999.0.1")
    after = encoder_of().digest
    unload_models()
    monkeypatch.setattr(PIL, "__version__", "9999.0.2")
    assert before != after == encoder_of().digest


@pytest.mark.parametrize("library", [transformers, torchvision])
def test_another_release_of_a_library_is_another_vector(tmp_path, monkeypatch, library):
    folder = write_checkpoint(tmp_path / "vit", "vit")
    before = backbone_of(folder).digest
    assert backbone_of(folder).digest == before
    unload_models()
    monkeypatch.setattr(sys.modules[library.__name__], "__version__", "9999.0.1")
    assert backbone_of(folder).digest != before
    unload_models()


def test_pictures_are_decoded_side_by_side(monkeypatch):
    encoder = encoder_of()
    both = threading.Barrier(2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(encoder, "_prepare_one", lambda item: (both.wait(30), item)[1])
    assert encoder.prepare([1, 2, 3, 4]) == [1, 2, 3, 4]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_decoding_runs_beside_the_model_only_where_it_has_cores_of_its_own(device):
    assert encoder_of(device=device).policy.overlaps is (device == "cuda")


def test_batches_hold_so_many_pixels_not_so_many_pictures(monkeypatch):
    sizes = []

    class Noting(TinyNetwork):
        def forward(self, pixels):
            sizes.append(pixels.shape[0] * pixels.shape[2] * pixels.shape[3])
            return super().forward(pixels).mean((2, 3))

    encoder = encoder_of()
    assert list(encoder.costs([torch.zeros(3, 4, 5)])) == [20]
    budget = 12 * 20 * 3
    monkeypatch.setitem(_encoder._BUDGETS, "cpu", budget)
    module = PixelModule(Noting(), Scale(), Plan(16, None)).eval()
    encoder._module = lambda: module
    rows = check_images(pictures(10))
    with torch.inference_mode():
        embedded = embed(encoder, rows.items)
    assert np.isfinite(embedded.vectors).all()
    assert max(sizes) == budget  # three of the smallest at once
    assert sum(sizes) == sum(each.shape[0] * each.shape[1] for each in pictures(10))
