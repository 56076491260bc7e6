"""TextEmbedder on several devices. ["cpu", "cpu"] takes the road of two GPUs on any machine."""

import pickle
import threading

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skembed import EmbeddingStore, TextEmbedder
from skembed.exceptions import InvalidParameterError
from skembed.text._models import DEFAULT_MODEL
from tests.text.checkpoints import SHORT, TEXTS

TWO = ["cpu", "cpu"]


def meet_once(encoder):
    """Let the first batch of each replica wait for those of the others; return who ran what."""
    barrier, n_batches = threading.Barrier(len(encoder.replicas)), [0] * len(encoder.replicas)

    def watch(number, encode):
        def watched(batch):
            n_batches[number] += 1
            if n_batches[number] == 1:
                barrier.wait(60)
            return encode(batch)

        return watched

    for number, replica in enumerate(encoder.replicas):
        replica.encode = watch(number, replica.encode)
    return n_batches


def test_minilm_on_two_devices_gives_the_vectors_of_one():
    texts = [f"{text} {i}" for i in range(20) for text in TEXTS]
    settings = {"dtype": "float32", "cache": None, "on_truncate": "ignore"}
    one = TextEmbedder(DEFAULT_MODEL, device="cpu", **settings).transform(texts)
    # Not a value that another test uses: the encoder is this test's own.
    both = TextEmbedder(DEFAULT_MODEL, device=TWO, batch_size=16, max_length=255, **settings)
    n_batches = meet_once(both.fit(texts).encoder_)
    np.testing.assert_allclose(both.transform(texts), one, atol=1e-6, rtol=0)
    assert min(n_batches) >= 1
    assert sum(n_batches) >= -(-len(texts) // 16)


def test_replicas_on_the_cpu_share_one_model(folder):
    first, second = TextEmbedder(folder, device=TWO).fit(SHORT).encoder_.replicas
    assert first is not second
    assert first.core() is second.core()


def test_vectors_of_one_device_are_found_by_several(folder):
    store = EmbeddingStore()
    TextEmbedder(folder, device="cpu", cache=store).transform(SHORT)
    both = TextEmbedder(folder, device=TWO, cache=store)
    both.transform(SHORT)
    assert both.report_.n_encoded == 0


def test_chunks_of_long_texts_are_divided_too(folder):
    texts = ["nearest neighbours in a metric space " * n for n in range(1, 9)]
    settings = {"dtype": "float32", "cache": None, "on_truncate": "mean_of_chunks"}
    one = TextEmbedder(folder, device="cpu", max_length=20, **settings)
    both = TextEmbedder(folder, device=TWO, max_length=20, batch_size=3, **settings)
    np.testing.assert_allclose(both.transform(texts), one.transform(texts), atol=1e-5, rtol=0)


def test_every_device_is_reported(folder):
    embedder = TextEmbedder(folder, device=TWO)
    embedder.transform(SHORT)
    assert embedder.device_ == embedder.report_.device == "cpu, cpu"
    assert "on cpu, cpu in" in str(embedder.report_)
    assert TextEmbedder(folder, device=["cpu"]).fit(SHORT).device_ == "cpu"


def test_an_encoder_is_made_once_for_a_list(folder):
    embedder = TextEmbedder(folder, device=TWO).fit(SHORT)
    encoder = embedder.encoder_
    assert embedder.set_params(device=tuple(map(np.str_, TWO))).fit(SHORT).encoder_ is encoder


@pytest.mark.parametrize("trip", [clone, lambda e: pickle.loads(pickle.dumps(e))])
@pytest.mark.parametrize("device", [TWO, tuple(TWO)])
def test_a_list_of_devices_survives_round_trips(folder, device, trip):
    embedder = TextEmbedder(folder, device=device, dtype="float32", cache=None)
    expected = embedder.fit_transform(SHORT)
    again = trip(embedder)
    assert again.get_params() == embedder.get_params()
    np.testing.assert_allclose(again.transform(SHORT), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("devices", [["cpu", TWO], [TWO, ["cpu"]], [TWO, TWO]])
def test_a_search_over_devices_encodes_each_row_once(folder, devices):
    texts, labels = [f"{text} {i}" for i in range(6) for text in SHORT], [0, 1, 0, 1] * 6
    store = EmbeddingStore()
    pipeline = make_pipeline(TextEmbedder(folder, cache=store), LogisticRegression())
    search = GridSearchCV(pipeline, {"textembedder__device": devices}, cv=3).fit(texts, labels)
    assert [each["textembedder__device"] for each in search.cv_results_["params"]] == devices
    assert store.info().n_entries == len(texts)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ([], "got an empty list. Use 'auto'"),
        (["cpu", 3], "got int 3. Use 'auto'"),
        (["cpu", "abacus"], "'abacus' is not a device"),
        ({"cpu"}, r"device=<set>\): expected a str, a list or a tuple"),
    ],
)
def test_a_bad_list_is_refused_before_the_model_is_looked_for(device, message):
    with pytest.raises(InvalidParameterError, match=message):
        TextEmbedder("no-one/no-model", device=device).fit(["a"])


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_two_gpus_give_the_vectors_of_one(dtype):
    texts = [f"{text} {i}" for i in range(200) for text in TEXTS]
    settings = {"dtype": dtype, "cache": None, "batch_size": 64, "on_truncate": "ignore"}
    one = TextEmbedder(DEFAULT_MODEL, device="cuda:0", **settings).transform(texts)
    both = TextEmbedder(DEFAULT_MODEL, device=["cuda:0", "cuda:1"], max_length=255, **settings)
    n_batches = meet_once(both.fit(texts).encoder_)
    np.testing.assert_allclose(
        both.transform(texts), one, atol=1e-5 if dtype == "float32" else 0.02, rtol=0
    )
    assert min(n_batches) >= 1
    assert both.device_ == "cuda:0, cuda:1"


def test_a_list_that_changes_after_fit_is_seen(folder):
    embedder = TextEmbedder(folder, device=["cpu"]).fit(SHORT)
    assert embedder.device_ == "cpu"
    embedder.device.append("cpu")
    assert not hasattr(embedder, "encoder_")
    embedder.set_params(device=np.array(["cpu"]))
    assert not hasattr(embedder, "encoder_")
