"""Every encoder family against the plain padded forward pass of transformers."""

import numpy as np
import pytest
import torch

from skembed import TextEmbedder
from skembed.acceleration import _tokens
from skembed.acceleration._passes import are_alike
from skembed.exceptions import ModelWarning, UnsupportedModelError
from skembed.modules import TokenBatch
from skembed.text._backbone import POOLINGS
from tests.text.checkpoints import FAMILIES, TEXTS, write_checkpoint
from tests.text.reference import embeddings


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / request.param
    return request.param, write_checkpoint(folder, request.param)


def embedder(folder, **params):
    params = {
        "pooling": "mean",
        "dtype": "float32",
        "on_truncate": "ignore",
        "cache": None,
    } | params
    return TextEmbedder(folder, **params)


def test_vectors_equal_the_plain_padded_forward_pass(family):
    _, folder = family
    vectors = embedder(folder).transform(TEXTS)
    np.testing.assert_allclose(vectors, embeddings(folder, TEXTS), atol=1e-5, rtol=0)


def test_the_expected_layout_is_proven_and_used(family):
    name, folder = family
    fitted = embedder(folder).fit(TEXTS)
    assert fitted.encoder_.policy.layout == FAMILIES[name][2]


def test_a_row_does_not_depend_on_its_neighbours(family):
    _, folder = family
    together = embedder(folder).transform(TEXTS)
    alone = np.vstack([embedder(folder).transform([text]) for text in TEXTS])
    backwards = embedder(folder, batch_size=2).transform(TEXTS[::-1])[::-1]
    np.testing.assert_allclose(alone, together, atol=1e-5, rtol=0)
    np.testing.assert_allclose(backwards, together, atol=1e-5, rtol=0)


def test_bfloat16_stays_close_to_float32(family):
    _, folder = family
    exact = embedder(folder).transform(TEXTS)
    fast = embedder(folder, dtype="bfloat16").transform(TEXTS)
    cosine = (exact * fast).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(fast, axis=1)
    assert fast.dtype == np.float32
    assert cosine.min() > 0.99


@pytest.mark.int8
def test_int8_stays_near_float32_and_does_not_depend_on_neighbours(family):
    _, folder = family
    exact = embedder(folder).transform(TEXTS)
    fast = embedder(folder, dtype="int8").transform(TEXTS)
    alone = np.vstack([embedder(folder, dtype="int8").transform([text]) for text in TEXTS])
    cosine = (exact * fast).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(fast, axis=1)
    assert cosine.min() > 0.97
    assert abs(exact - fast).max() > 1e-4
    np.testing.assert_allclose(alone, fast, atol=0.02 * abs(fast).max(), rtol=0)


@pytest.mark.int8
def test_a_model_that_int8_would_spoil_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(_tokens, "_LEAST_COSINE_IN_INT8", 1.1)
    with pytest.raises(UnsupportedModelError, match=r"cannot run in int8: .* cosine of "):
        embedder(write_checkpoint(tmp_path / "bert"), dtype="int8").transform(TEXTS)


@pytest.mark.gpu
def test_vectors_on_the_gpu_equal_the_plain_padded_forward_pass(family):
    _, folder = family
    vectors = embedder(folder, device="cuda").transform(TEXTS)
    np.testing.assert_allclose(vectors, embeddings(folder, TEXTS), atol=1e-4, rtol=0)
    fast = embedder(folder, device="cuda", dtype="bfloat16").transform(TEXTS)
    cosine = torch.nn.functional.cosine_similarity(torch.tensor(fast), torch.tensor(vectors))
    assert cosine.min() > 0.99


@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_pooling_equals_its_formula(tmp_path, pooling):
    folder = write_checkpoint(tmp_path / "bert")
    vectors = embedder(folder, pooling=pooling).transform(TEXTS)
    expected = embeddings(folder, TEXTS, pooling)
    np.testing.assert_allclose(vectors, expected, atol=2e-5, rtol=1e-5)


def test_a_decoder_pools_its_last_token_unless_told_otherwise(tmp_path):
    folder = write_checkpoint(tmp_path / "llama", "llama", architectures=["LlamaForCausalLM"])
    with pytest.warns(ModelWarning, match="made to write texts"):
        vectors = embedder(folder, pooling="auto").transform(TEXTS)
    expected = embeddings(folder, TEXTS, "last_token")
    np.testing.assert_allclose(vectors, expected, atol=1e-5, rtol=0)


def test_a_model_whose_padding_leaks_falls_back_to_equal_lengths(tmp_path, monkeypatch):
    folder = write_checkpoint(tmp_path / "mpnet", "mpnet")
    from transformers.models.mpnet import modeling_mpnet

    forward = modeling_mpnet.MPNetEncoder.forward

    def leaky(self, hidden_states, *args, **kwargs):
        out = forward(self, hidden_states, *args, **kwargs)
        out.last_hidden_state = out.last_hidden_state + hidden_states.mean(1, keepdim=True)
        return out

    monkeypatch.setattr(modeling_mpnet.MPNetEncoder, "forward", leaky)
    fitted = embedder(folder).fit(TEXTS)
    together = fitted.transform(TEXTS)
    alone = np.vstack([fitted.transform([text]) for text in TEXTS])
    assert fitted.encoder_.policy.layout == "equal"
    np.testing.assert_allclose(alone, together, atol=1e-5, rtol=0)


def sizes_seen(core):
    """Return the list to which every pass of a core's model adds how many tokens it took."""
    seen = []
    core.model.register_forward_pre_hook(
        lambda module, args, named: seen.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    return seen


def test_packed_batches_have_few_sizes_where_kernels_are_compiled(tmp_path):
    encoder = embedder(write_checkpoint(tmp_path / "bert"), device="cpu").fit(TEXTS).encoder_
    seen = sizes_seen(encoder.core())
    batch = encoder.collate([np.full(length, 5) for length in (20, 20, 1)])
    assert encoder.encode(batch).shape == (3, 32)
    assert seen == [(1, 44)]


def test_a_padding_token_that_the_model_does_not_have_is_not_looked_up(tmp_path):
    encoder = embedder(write_checkpoint(tmp_path / "bert"), device="cpu").fit(TEXTS).encoder_
    core = encoder.core()
    core.pad_token_id = 10**6
    seen = sizes_seen(core)
    assert core(encoder.collate([np.full(41, 5)])).shape == (41, 32)
    assert seen == [(1, 44)]


def test_batches_are_filled_up_only_where_products_are_packed(tmp_path, monkeypatch):
    monkeypatch.setattr(_tokens, "pack_linear_layers", lambda *_: False)
    folder = write_checkpoint(tmp_path / "bert", hidden_dropout_prob=0.11)  # no other test's model
    encoder = embedder(folder, device="cpu").fit(TEXTS).encoder_
    seen = sizes_seen(encoder.core())
    encoder.encode(encoder.collate([np.full(41, 5)]))
    assert seen == [(1, 41)]


@pytest.mark.parametrize("change", [1.001, -1.0])
def test_states_of_another_length_or_direction_are_not_alike(change):
    states = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    assert are_alike(states.clone(), states)
    states_of_one = states.clone()
    states_of_one[3] *= change
    assert not are_alike(states_of_one, states)


@pytest.mark.int8
def test_int8_is_judged_on_other_rows_than_its_scales_are_found_on(tmp_path, monkeypatch):
    runs = []
    of = TokenBatch.of

    def note(sequences):
        runs.append([len(ids) for ids in sequences])
        return of(sequences)

    fitted = embedder(write_checkpoint(tmp_path / "bert"), dtype="int8").fit(TEXTS)
    monkeypatch.setattr(TokenBatch, "of", note)
    fitted.encoder_.core()
    special = 2
    calibration = [n + special for n in _tokens._CALIBRATION_LENGTHS]
    judged = [n + special for n in _tokens._JUDGED_LENGTHS]
    assert judged in runs[runs.index(calibration) :]  # the proof comes after
    assert not set(calibration) & set(judged)
