"""Packed attention that gradients pass through, against attention of each row alone."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from skembed.acceleration._attention import _packed_attention, packed_rows
from skembed.acceleration._padded_attention import _OF_BUCKET, _OF_PLACE, _cuts
from skembed.modules import Rows, _dropout

LENGTHS = [19, 5, 11, 9, 5, 2, 1, 18]
HEADS, WIDTH = 4, 8


def tensors(n_key_heads):
    generator = torch.Generator().manual_seed(0)
    heads = (HEADS, n_key_heads, n_key_heads)
    return [
        torch.randn(1, n, sum(LENGTHS), WIDTH, generator=generator, dtype=torch.float64)
        for n in heads
    ]


def attend(q, k, v, n_more=0, **how):
    with packed_rows(Rows(LENGTHS, n_more=n_more), is_trained=True):
        return _packed_attention(torch.nn.Identity(), q, k, v, scaling=0.3, **how)[0]


def attend_alone(q, k, v, is_causal, window):
    found, start = [], 0
    for length in LENGTHS:
        distance = torch.arange(length)[:, None] - torch.arange(length)
        seen = torch.ones(length, length, dtype=torch.bool)
        seen &= (distance >= 0) if is_causal else True
        seen &= (distance.abs() < window) if window is not None else True
        here = slice(start, start + length)
        row = (t[:, :, here] for t in (q, k, v))
        found.append(
            F.scaled_dot_product_attention(*row, attn_mask=seen, scale=0.3, enable_gqa=True)
        )
        start += length
    return torch.cat(found, 2).transpose(1, 2)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("n_key_heads", [HEADS, 2])
def test_values_and_gradients_are_those_of_rows_alone(is_causal, window, n_key_heads):
    q, k, v = (t.requires_grad_() for t in tensors(n_key_heads))
    found = attend(q, k, v, is_causal=is_causal, sliding_window=window)
    expected = attend_alone(q, k, v, is_causal, window)
    torch.testing.assert_close(found, expected)
    upstream = torch.randn(found.shape, dtype=found.dtype)
    gradients = torch.autograd.grad(found, (q, k, v), upstream)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, (q, k, v), upstream))


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("n_key_heads", [HEADS, 2])
def test_products_that_dropout_needs_give_what_torchs_kernel_gives(
    is_causal, n_key_heads, monkeypatch
):
    q, k, v = (t.requires_grad_() for t in tensors(n_key_heads))
    expected = attend(q, k, v, is_causal=is_causal)
    monkeypatch.setattr(_dropout, "drop_out", lambda x, rate: x)
    found = attend(q, k, v, is_causal=is_causal, dropout=0.5)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    upstream = torch.randn(found.shape, dtype=found.dtype)
    gradients = torch.autograd.grad(found, (q, k, v), upstream)
    expected = torch.autograd.grad(expected, (q, k, v), upstream)
    torch.testing.assert_close(gradients, expected, rtol=1e-5, atol=1e-6)


def test_tokens_after_the_rows_change_nothing():
    few, more = ([t.requires_grad_() for t in tensors(HEADS)] for _ in range(2))
    longer = [F.pad(t, (0, 0, 0, 7), value=3.0) for t in more]
    expected, found = attend(*few), attend(*longer, n_more=7)[:, : sum(LENGTHS)]
    torch.testing.assert_close(found, expected)
    upstream = torch.randn(found.shape, dtype=found.dtype)
    gradients = torch.autograd.grad(found, (*more, *longer), upstream, allow_unused=True)
    torch.testing.assert_close(gradients[:3], torch.autograd.grad(expected, few, upstream))
    assert all((each[:, :, sum(LENGTHS) :] == 0).all() for each in gradients[3:])


def cost_of(lengths, cuts):
    parts = np.split(np.array(lengths), cuts)
    return sum(_OF_BUCKET + len(p) * p[-1] * (p[-1] + _OF_PLACE) for p in parts)


def test_buckets_cost_least():
    rng = np.random.default_rng(0)
    for most in (10, 60, 300):
        lengths = np.sort(rng.integers(1, most, size=9))
        all_cuts = itertools.chain(*(itertools.combinations(range(1, 9), n) for n in range(9)))
        least = min(cost_of(lengths, list(cuts)) for cuts in all_cuts)
        assert cost_of(lengths, _cuts(lengths)) == least


def test_a_row_sees_no_other_row():
    q, k, v = tensors(HEADS)
    before = attend(q, k, v)
    v[:, :, : LENGTHS[0]] += 1
    torch.testing.assert_close(attend(q, k, v)[:, LENGTHS[0] :], before[:, LENGTHS[0] :])


def test_dropout_leaves_out_weights():
    q, k, _ = tensors(HEADS)
    ones = torch.ones_like(k)
    torch.manual_seed(0)
    sums = attend(q, k, ones, dropout=0.25)[0, : LENGTHS[0], :, 0]
    assert sums.std() > 0.05  # some weights are gone, the others larger
    assert abs(sums.mean() - 1) < 0.1
