"""Code of the user's that keeps things on itself, checks what it gets, or fails as a whole."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import CenterCrop, Compose, ToTensor

from skembed import EmbeddingStore, ImageEmbedder
from skembed.engine import _run
from skembed.engine._devices import is_of_a_row
from skembed.exceptions import (
    InvalidInputError,
    InvalidParameterError,
    InvalidRowsWarning,
    UnsupportedModelError,
)
from skembed.image._preprocess import find_preprocess, probe_picture
from tests.image.networks import TinyNetwork, features, pictures, to_pixels, to_small_pixels

ROWS = pictures(60, sizes=[(16, 16)])


class Keeps(nn.Module):
    """Keeps the last features on itself, as taps of layers do, and lets other threads in."""

    def __init__(self):
        super().__init__()
        self.inner, self.kept = TinyNetwork(), {}

    def forward(self, pixels):
        self.kept["last"] = self.inner(pixels)
        time.sleep(0.001)
        return self.kept["last"]


def embedder_of(model, preprocess=to_small_pixels, **params):
    params = {"cache": None, "dtype": "float32", "device": "cpu", "batch_size": 2, **params}
    return ImageEmbedder(model, preprocess=preprocess, **params)


@pytest.fixture(scope="module")
def expected():
    return features(TinyNetwork(), to_small_pixels, ROWS)


def test_a_module_that_keeps_things_on_itself_runs_in_one_thread_at_a_time(expected):
    found = embedder_of(Keeps(), device=["cpu", "cpu"]).transform(ROWS)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    embedder = embedder_of(Keeps()).fit(ROWS)

    def embed(part):
        return embedder_of(embedder.model).transform(ROWS[part::4])

    with ThreadPoolExecutor(4) as pool:
        for part, vectors in enumerate(pool.map(embed, range(4))):
            np.testing.assert_allclose(vectors, expected[part::4], atol=1e-5)


class SameTensor:
    """Writes the pixels of each picture where those of the last one were."""

    def __init__(self):
        self.pixels = torch.empty(3, 16, 16)

    def __call__(self, image):
        self.pixels.copy_(to_small_pixels(image))
        return self.pixels


def test_a_function_that_writes_over_its_last_picture_is_refused():
    with pytest.raises(InvalidParameterError, match=r"gives one tensor again and again"):
        find_preprocess(SameTensor())


def test_prepared_pixels_hold_no_more_than_themselves():
    prepared = find_preprocess(Compose([ToTensor(), CenterCrop(8)]))(Image.new("RGB", (500, 400)))
    assert prepared.shape == (3, 8, 8)
    assert prepared.untyped_storage().nbytes() == 4 * 3 * 8 * 8


class WithinOne(nn.Module):
    """Refuses pixels beyond 0 to 1."""

    def __init__(self):
        super().__init__()
        self.inner = TinyNetwork()

    def forward(self, pixels):
        assert pixels.min() >= 0
        assert pixels.max() <= 1
        return self.inner(pixels)


def test_a_module_that_checks_its_pixels_gets_only_such_as_preprocessing_makes():
    found = embedder_of(WithinOne(), ToTensor()).transform(ROWS)
    expected = features(TinyNetwork(), ToTensor(), ROWS)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_model_that_cannot_be_loaded_is_one_error_and_no_fault_of_rows(monkeypatch):
    embedder = embedder_of(TinyNetwork(seed=77), on_error="nan").fit(ROWS)  # not yet loaded
    n_loads = []

    def fail(self, **options):
        n_loads.append(1)
        raise FileNotFoundError("weights are gone")

    monkeypatch.setattr(type(embedder.encoder_.backbone), "load", fail)
    with pytest.raises(UnsupportedModelError, match=r"TinyNetwork cannot be loaded: FileNotFound"):
        embedder.transform(ROWS)
    assert len(n_loads) == 1


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA driver error: invalid argument"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("[enforce fail] can't allocate memory"),
        OSError(28, "No space left on device"),
        ImportError("no module"),
        MemoryError(),
        InvalidInputError("of skembed's own"),
    ],
    ids=lambda error: f"{type(error).__name__} {error}"[:30],
)
def test_what_the_machine_lacks_is_no_fault_of_a_row(error):
    assert not is_of_a_row(error)
    assert is_of_a_row(RuntimeError("Kernel size can't be greater than actual input size"))


class DropsOut(nn.Module):
    """Drops features also in evaluation mode."""

    def forward(self, pixels):
        return nn.functional.dropout(pixels.mean((2, 3)).repeat(1, 20))


def test_a_random_module_is_refused():
    with pytest.raises(UnsupportedModelError, match=r"DropsOut is random.*functional.dropout"):
        embedder_of(DropsOut()).fit(ROWS)


def test_two_threads_share_one_store_and_a_module_that_keeps_things(expected):
    store, model, start = EmbeddingStore(), Keeps(), threading.Barrier(2)

    def embed(rows):
        start.wait(20)
        return embedder_of(model, cache=store).transform(rows)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(embed, [ROWS, ROWS[::-1]]))
    found = embedder_of(model, cache=store)
    np.testing.assert_allclose(found.transform(ROWS), expected, atol=1e-5)
    assert found.report_.n_encoded == 0


class MixesRows(nn.Module):
    """Normalises by the statistics of the batch."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3, track_running_stats=False)

    def forward(self, pixels):
        return self.norm(pixels).amax((2, 3))


class OnlyOne(nn.Module):
    """Runs on one picture at a time."""

    def forward(self, pixels):
        return pixels.reshape(1, 3, -1).mean(2)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (MixesRows(), r"MixesRows mixes the pictures of a batch.*track_running_stats=False"),
        (OnlyOne(), r"OnlyOne gives features of shape \(1, 3\) for two pictures"),
    ],
)
def test_a_module_whose_vectors_depend_on_other_rows_is_refused(module, message):
    with pytest.raises(UnsupportedModelError, match=message):
        embedder_of(module).fit(ROWS)


SEEN = []


class WritesToAGlobal(nn.Module):
    """Appends to a list outside of it whenever it runs."""

    def __init__(self):
        super().__init__()
        self.inner = TinyNetwork()

    def forward(self, pixels):
        SEEN.append(tuple(pixels.shape))
        return self.inner(pixels)


def test_a_module_that_changes_what_its_code_reads_is_one_error():
    embedder = embedder_of(WritesToAGlobal(), on_error="nan")
    with pytest.raises(UnsupportedModelError, match=r"has been changed since"):
        embedder.fit_transform(ROWS)


class ChangesInput(nn.Module):
    """Normalises its input where it lies."""

    def __init__(self):
        super().__init__()
        self.inner = TinyNetwork()

    def forward(self, pixels):
        pixels.sub_(0.45).div_(0.22)
        return self.inner(pixels)


class KeepsOutput(nn.Module):
    """Writes features where those of the last pictures were."""

    def __init__(self):
        super().__init__()
        self.inner, self.out = TinyNetwork(), torch.empty(64, 16)

    def forward(self, pixels):
        return self.out[: len(pixels)].copy_(self.inner(pixels).mean((2, 3)))


def to_any_pixels(image):
    return to_pixels(image.resize((20, 24) if image.height > image.width else (24, 20)))


def test_a_module_may_change_its_input():
    found = embedder_of(ChangesInput()).transform(ROWS)
    expected = features(TinyNetwork(), lambda image: (to_small_pixels(image) - 0.45) / 0.22, ROWS)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("device", ["cpu", ["cpu", "cpu"]])
def test_a_module_may_write_over_its_last_output(device):
    rows = pictures(40, sizes=[(12, 20), (20, 12)])
    found = embedder_of(KeepsOutput(), to_any_pixels, device=device, batch_size=8)
    expected = features(TinyNetwork(), to_any_pixels, rows)
    np.testing.assert_allclose(found.transform(rows), expected, atol=1e-5)


class Remembers(nn.Module):
    """Adds to each picture's features those of the picture before."""

    def __init__(self):
        super().__init__()
        self.last = None

    def forward(self, pixels):
        found = pixels.mean((2, 3))
        before, self.last = self.last, found[-1:]
        return found if before is None else torch.maximum(found, before)


class RandomBuffer(nn.Module):
    """Gives random numbers, always in the same place."""

    def __init__(self):
        super().__init__()
        self.out = torch.empty(64, 4)

    def forward(self, pixels):
        return self.out[: len(pixels)].copy_(torch.randn(len(pixels), 4))


@pytest.mark.parametrize("module", [Remembers(), RandomBuffer()])
def test_a_module_that_keeps_something_of_other_pictures_is_refused(module):
    with pytest.raises(UnsupportedModelError, match=r"is random, or keeps something of the pict"):
        embedder_of(module).fit(ROWS)


class Counts(nn.Module):
    """Keeps a running mean that changes nothing, and asks for its value."""

    def __init__(self):
        super().__init__()
        self.inner, self.mean = TinyNetwork(), 0.0

    def forward(self, pixels):
        self.mean = 0.9 * self.mean + 0.1 * pixels.mean()
        return self.inner(pixels) if self.mean < 1e9 else pixels


def test_what_tracing_leaves_on_a_module_does_not_stay(expected):
    np.testing.assert_allclose(embedder_of(Counts()).transform(ROWS), expected, atol=1e-5)


class RoundsByBatch(nn.Module):
    """Rounds otherwise in a batch of several, by as much as bfloat16 does, or of nothing."""

    def __init__(self, share, scale=1.0):
        super().__init__()
        self.share, self.scale = share, scale

    def forward(self, pixels):
        found = self.scale * pixels.mean((2, 3))
        return found * (1 + self.share) if len(pixels) > 1 else found


@pytest.mark.parametrize(("share", "scale"), [(2**-7, 1.0), (1.0, 1e-9)])
def test_rounding_is_no_mixing_of_pictures(share, scale):
    found = embedder_of(RoundsByBatch(share, scale)).fit_transform(ROWS)
    assert found.shape == (60, 3)
    with pytest.raises(UnsupportedModelError, match=r"RoundsByBatch mixes the pictures"):
        embedder_of(RoundsByBatch(10 * share, 1.0)).fit(ROWS)


def refuses_dark_corners(image):
    if image.getpixel((0, 0))[0] < 200:  # so it does on the probe picture turned around
        raise ValueError("dark corner")
    return to_small_pixels(image)


def test_a_function_that_refuses_some_pictures_is_tried_on_others():
    assert refuses_dark_corners(probe_picture()).shape == (3, 16, 16)
    with pytest.raises(ValueError, match=r"dark corner"):
        refuses_dark_corners(probe_picture().rotate(180))
    dark, bright = np.zeros((2, 16, 16, 3), np.uint8)
    bright[:] = 255
    embedder = embedder_of(TinyNetwork(), refuses_dark_corners, on_error="nan")
    with pytest.warns(InvalidRowsWarning, match=r"row 1: .*preprocess raised ValueError: dark"):
        embedder.fit_transform([bright, dark])


class OpensFiles(nn.Module):
    """Fails on large pictures as a program fails that reads files."""

    def forward(self, pixels):
        if pixels.shape[2] > 240:
            raise FileNotFoundError("no such table")
        return pixels.mean((2, 3))


def test_whatever_a_module_raises_on_one_picture_is_a_fault_of_its_row():
    embedder = embedder_of(OpensFiles(), to_pixels, on_error="nan")
    rows = [*ROWS[:3], np.zeros((250, 4, 3), np.uint8)]
    with pytest.warns(InvalidRowsWarning, match=r"row 3: .*FileNotFoundError: no such table"):
        assert np.isfinite(embedder.fit_transform(rows)[:3]).all()


class Never(nn.Module):
    """Runs on the pictures it is tried on, and on no others."""

    def forward(self, pixels):
        if pixels.shape[-1] == 16:
            raise ValueError("never 16")
        return pixels.mean((2, 3))


def test_a_model_that_fails_on_all_of_many_rows_is_one_error(monkeypatch):
    monkeypatch.setattr(_run, "_HOPELESS", 40)
    embedder = embedder_of(Never(), to_pixels, on_error="nan")
    with pytest.raises(UnsupportedModelError, match=r"on each of the first 40 rows.*never 16"):
        embedder.fit_transform(ROWS)
    one_good = [*ROWS, np.zeros((99, 99, 3), np.uint8)]
    with pytest.warns(InvalidRowsWarning, match=r"60 of 61 rows cannot be embedded"):
        embedder.fit_transform(one_good)
