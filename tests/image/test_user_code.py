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
from skembed.engine._devices import is_of_a_row
from skembed.exceptions import InvalidInputError, InvalidParameterError, UnsupportedModelError
from skembed.image._preprocess import make_preprocess
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
        make_preprocess(SameTensor())


def test_prepared_pixels_hold_no_more_than_themselves():
    prepared = make_preprocess(Compose([ToTensor(), CenterCrop(8)]))(Image.new("RGB", (500, 400)))
    assert prepared.shape == (3, 8, 8)
    assert prepared.untyped_storage().nbytes() == 4 * 3 * 8 * 8


def test_a_function_that_gives_sparse_tensors_is_refused():
    with pytest.raises(InvalidParameterError, match=r"a tensor of layout torch.sparse_coo"):
        make_preprocess(lambda image: to_pixels(image).to_sparse())


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

    def fail(self):
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
        (OnlyOne(), r"OnlyOne mixes the pictures of a batch|OnlyOne runs on a batch of one"),
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
    with pytest.raises(UnsupportedModelError, match=r"make that an attribute of the module"):
        embedder.fit_transform(ROWS)
