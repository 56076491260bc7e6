"""Training of picture models: every family, batch normalisation, random views."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from skembed import FineTune, ImageEmbedder
from skembed.exceptions import InvalidRowsError, TrainingError
from skembed.image._views import random_view
from tests.image.checkpoints import write_checkpoint
from tests.image.networks import TinyNetwork, pictures, to_small_pixels
from tests.training.trained import check_trained

X = pictures(8, sizes=((40, 36), (33, 50)))
Y = ["a", "b"] * 4
FAMILIES = ("vit", "dinov2", "clip", "siglip", "convnext", "swin", "resnet")


def embedder(model, **options):
    return ImageEmbedder(
        model, dtype="float32", cache=None, device="cpu", **{"training": None, **options}
    )


def tuned(model, method, **options):
    """Return what makes an embedder with a strategy of these parameters."""

    def make(training=True, **parameters):
        strategy = FineTune(method, dtype="float32", learning_rate=1e-2, **parameters)
        return embedder(model, training=strategy if training else None, **options)

    return make


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_transformers_are_trained_and_served(tmp_path, monkeypatch, family, method):
    folder = write_checkpoint(tmp_path, family)
    check_trained(tuned(folder, method), X, Y, monkeypatch)


@pytest.mark.parametrize("method", ["head", "lora", "full"])
@pytest.mark.parametrize("model", ["squeezenet1_1", "timm:test_vit", "timm:test_resnet"])
def test_named_models_are_trained_and_served(monkeypatch, model, method):
    if model.startswith("timm"):
        pytest.importorskip("timm")
    if method == "head":
        make = tuned(model, method, weights=None)
        options = {"n_epochs": 2, "validation_fraction": None}
        found = make(**options).fit(X, Y).transform(X)
        assert np.abs(found - make(training=None).fit_transform(X)).max() > 1e-3
    else:
        check_trained(tuned(model, method, weights=None), X, Y, monkeypatch)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_own_modules_are_trained_and_stay_as_they_were(monkeypatch, method):
    module = TinyNetwork()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    check_trained(tuned(module, method, preprocess=to_small_pixels), X, Y, monkeypatch)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not module.first.weight.is_inference()


# Batch normalisation ---------------------------------------------------------------------


class Normed(nn.Module):
    """A convolution and a norm, which has seen data or not."""

    def __init__(self, has_statistics):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 6, 3, stride=4), nn.BatchNorm2d(6)
        if has_statistics:
            self.norm.running_mean.normal_()
            self.norm.running_var.uniform_(0.5, 2)

    def forward(self, pixels):
        return torch.relu(self.norm(self.conv(pixels)))


def train_normed(has_statistics, **options):
    make = tuned(Normed(has_statistics), "full", preprocess=to_small_pixels)
    return make(**{"n_epochs": 1, "batch_size": 8, "validation_fraction": None, **options})


def test_statistics_of_published_weights_stay_as_they_are():
    arrays = train_normed(has_statistics=True).fit(X, Y).trained_.arrays
    assert any(name.endswith("norm.weight") for name in arrays)
    assert not any("running" in name for name in arrays)


def test_random_weights_learn_the_statistics_of_the_first_batch_whole():
    arrays = train_normed(has_statistics=False).fit(X, Y).trained_.arrays
    module = Normed(has_statistics=False)
    pixels = torch.stack([to_small_pixels(Image.fromarray(x)) for x in X])
    maps = module.conv(pixels).transpose(0, 1).flatten(1)
    found = {name.rsplit(".", 1)[1]: value for name, value in arrays.items() if "norm" in name}
    np.testing.assert_allclose(found["running_mean"], maps.mean(1).detach(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["running_var"], maps.var(1).detach(), rtol=1e-4)


@pytest.mark.parametrize("has_statistics", [True, False])
def test_pieces_do_not_change_what_is_learned(monkeypatch, has_statistics):
    whole = train_normed(has_statistics).fit(X, Y).trained_.arrays
    monkeypatch.setattr("skembed.image._encoder._BUDGETS", {"cpu": 3 * 16 * 16})
    pieces = train_normed(has_statistics).fit(X, Y).trained_.arrays
    for name, array in whole.items():
        np.testing.assert_allclose(pieces[name], array, rtol=1e-3, atol=1e-5, err_msg=name)


def test_whole_batches_that_take_too_much_memory_are_an_error(monkeypatch):
    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("skembed.training._loop.Loop._forward", fail)
    with pytest.raises(TrainingError, match=r"those of whole batches, .* Lower batch_size"):
        train_normed(has_statistics=False).fit(X, Y)


def test_lora_keeps_statistics_of_any_weights():
    make = tuned(Normed(has_statistics=False), "lora", preprocess=to_small_pixels)
    trained = make(n_epochs=1, validation_fraction=None, lora_rank=2).fit(X, Y).trained_
    assert {name.rsplit(".", 1)[1] for name in trained.arrays} == {"lora_A", "lora_B"}


# Random views ----------------------------------------------------------------------------


def picture(size=(120, 80)):
    ramp = np.linspace(40, 200, size[0] * size[1]).reshape(size[1], size[0])
    return Image.fromarray(np.stack([ramp, ramp[::-1], ramp[:, ::-1]], 2).astype(np.uint8))


def view(seed, size=(120, 80)):
    return random_view(picture(size), np.random.default_rng(seed))


def test_a_view_depends_on_its_seed_alone():
    state = torch.random.get_rng_state()
    assert view(3).tobytes() == view(3).tobytes() != view(4).tobytes()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_views_are_crops_of_half_of_the_picture_or_more():
    sizes = [view(seed).size for seed in range(60)]
    areas = [w * h / (120 * 80) for w, h in sizes]
    assert 0.47 < min(areas) < 0.6 and 0.9 < max(areas) <= 1
    assert all(w <= 120 and h <= 80 for w, h in sizes)


def test_half_of_the_views_are_mirrored():
    # The blue channel falls from left to right.
    falls = [
        float(np.diff(np.asarray(view(seed), float)[..., 2].mean(0)).sum()) < 0
        for seed in range(80)
    ]
    assert 25 < sum(falls) < 55


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (5, 1)])
def test_small_and_thin_pictures_have_views(size):
    w, h = view(0, size).size
    assert 1 <= w <= size[0] and 1 <= h <= size[1]


def test_views_are_the_same_in_any_number_of_threads():
    encoder = embedder(TinyNetwork(), preprocess=to_small_pixels).fit(X).encoder_
    items = embedder(TinyNetwork())._check_rows(X).items
    n_threads = torch.get_num_threads()
    found = []
    for n in (1, 3):
        torch.set_num_threads(n)
        found.append(torch.stack(encoder.views(items, range(len(items)))))
    torch.set_num_threads(n_threads)
    assert torch.equal(*found)


def test_training_on_views_is_repeated_bit_by_bit_and_differs_from_training_without():
    def digest(**options):
        return train_normed(True, n_epochs=2, **options).fit(X, Y).trained_.digest

    assert digest(augment=True) == digest(augment=True) != digest()


def test_rows_whose_views_fail_are_named():
    def preprocess(image):
        if image.width < 40:
            raise ValueError("too narrow for me")
        return to_small_pixels(image)

    rows = [np.zeros((40, width, 3), np.uint8) for width in (60, 60, 41, 60)] * 2
    tried = embedder(
        TinyNetwork(),
        preprocess=preprocess,
        training=FineTune(augment=True, n_epochs=5, validation_fraction=None),
    )
    with pytest.raises(InvalidRowsError, match=r"rows? 2.*too narrow for me") as raised:
        tried.fit(rows, Y)
    assert set(raised.value.faults) <= {2, 6}
