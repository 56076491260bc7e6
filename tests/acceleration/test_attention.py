"""Packed attention against attention of each row alone, in float64."""

import numpy as np
import pytest
import torch

from skembed.acceleration import _products
from skembed.acceleration._attention import _packed_attention, packed_rows
from skembed.modules import Rows, pool_rows

LENGTHS = [19, 11, 9, 5, 5, 5, 2, 1]
HEADS, WIDTH = 4, 16


def attention_of_a_row(q, k, v, scale, is_causal, window):
    """Return softmax(scale q k') v for arrays (length, d), masked entry by entry."""
    scores = scale * (q @ k.T)
    for i in range(len(q)):
        for j in range(len(q)):
            if (is_causal and j > i) or (window is not None and abs(i - j) >= window):
                scores[i, j] = -np.inf
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return (weights / weights.sum(1, keepdims=True)) @ v


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("window", [None, 1, 3])
@pytest.mark.parametrize("n_key_heads", [HEADS, 2])
@pytest.mark.parametrize("most_length", [0, 5, 256])
def test_packed_attention_is_attention_row_by_row(
    is_causal, window, n_key_heads, most_length, monkeypatch
):
    # Rows up to this length are attended by products, few at once.
    monkeypatch.setattr(
        _products, "_MOST_LENGTH", dict.fromkeys(_products._MOST_LENGTH, most_length)
    )
    monkeypatch.setattr(_products, "_NUMBERS_AT_ONCE", 2 * HEADS * 16 * 16)
    rng = np.random.default_rng(0)
    n = sum(LENGTHS)
    q = rng.normal(size=(HEADS, n, WIDTH))
    k, v = rng.normal(size=(2, n_key_heads, n, WIDTH))
    with packed_rows(Rows(LENGTHS)):
        out, _ = _packed_attention(
            torch.nn.Identity(),
            *(torch.tensor(t[None]) for t in (q, k, v)),
            scaling=0.3,
            is_causal=is_causal,
            sliding_window=window,
        )
    start = 0
    for length in LENGTHS:
        rows = slice(start, start + length)
        for head in range(HEADS):
            key_head = head * n_key_heads // HEADS
            expected = attention_of_a_row(
                q[head, rows], k[key_head, rows], v[key_head, rows], 0.3, is_causal, window
            )
            np.testing.assert_allclose(out[0, rows, head].numpy(), expected, atol=1e-12)
        start += length


@pytest.mark.parametrize("name", ["position_bias", "s_aux"])
def test_what_packed_attention_does_not_know_it_refuses(name):
    t = torch.zeros(1, 1, 3, 4)
    with packed_rows(Rows([3])), pytest.raises(NotImplementedError, match=name):
        _packed_attention(torch.nn.Identity(), t, t, t, **{name: 1})


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("window", [None, 2])
def test_a_soft_cap_bounds_the_scores_of_each_row(is_causal, window):
    lengths, cap = [4, 4, 3], 1.5
    random = torch.Generator().manual_seed(0)
    q = torch.randn(1, 2, 11, 4, generator=random, dtype=torch.float64) * 3
    k, v = (torch.randn(1, 1, 11, 4, generator=random, dtype=torch.float64) for _ in range(2))
    how = {"is_causal": is_causal, "sliding_window": window, "softcap": cap}
    with packed_rows(Rows(lengths)):
        out, _ = _packed_attention(torch.nn.Identity(), q, k, v, **how)
    start = 0
    for length in lengths:
        rows, place = slice(start, start + length), np.arange(length)
        distance = place[:, None] - place
        seen = (distance >= 0) if is_causal else np.full((length, length), True)
        seen &= abs(distance) < (window or length)
        for head in range(2):
            scores = (q[0, head, rows] @ k[0, 0, rows].T).numpy() / 2
            shares = np.where(seen, np.exp(cap * np.tanh(scores / cap)), 0)
            expected = shares / shares.sum(1, keepdims=True) @ v[0, 0, rows].numpy()
            np.testing.assert_allclose(out[0, rows, head].numpy(), expected, atol=1e-6)
        start += length


def test_positions_restart_with_every_row():
    assert Rows([3, 2, 2]).positions().tolist() == [0, 1, 2, 0, 1, 0, 1]


def test_rows_are_pooled_apart():
    hidden = torch.arange(12.0).reshape(6, 2)
    pooled = pool_rows(hidden, Rows([3, 2, 1]), "mean+last_token")
    assert pooled.tolist() == [[2, 3, 4, 5], [7, 8, 8, 9], [10, 11, 10, 11]]


def test_skipped_tokens_do_not_take_part():
    hidden = torch.tensor([[1.0], [5.0], [9.0], [2.0]])
    pooled = pool_rows(hidden, Rows([3, 1]), "mean+weighted_mean", n_skipped=1)
    assert pooled[0].tolist() == pytest.approx([7.0, (2 * 5 + 3 * 9) / 5])
    assert pooled[1].tolist() == [2.0, 2.0]


def test_what_follows_the_last_row_changes_nothing():
    q, k, v = torch.randn(3, 1, HEADS, 40, WIDTH, generator=torch.Generator().manual_seed(0))
    outs = []
    for rows, n in ((Rows([20, 9]), 29), (Rows([20, 9], n_more=11), 40)):
        with packed_rows(rows):
            out, _ = _packed_attention(torch.nn.Identity(), q[:, :, :n], k[:, :, :n], v[:, :, :n])
        assert out.shape == (1, n, HEADS, WIDTH)
        assert out.isfinite().all()
        outs.append(out[:, :29])
    assert torch.equal(*outs)


needs_products = pytest.mark.skipif(
    not torch.backends.mkl.is_available(), reason="needs MKL's batched products"
)


@needs_products
@pytest.mark.parametrize(("length", "n_calls"), [(128, 0), (129, 1)])
def test_short_rows_are_attended_by_products(monkeypatch, length, n_calls):
    calls = []
    attend = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *args, **options: (calls.append(1), attend(*args, **options))[1],
    )
    q, k, v = torch.randn(3, 1, HEADS, length, WIDTH, generator=torch.Generator().manual_seed(0))
    with packed_rows(Rows([length])):
        out, _ = _packed_attention(torch.nn.Identity(), q, k, v)
    assert len(calls) == n_calls
    expected = attend(q, k, v)  # scaled by 1/sqrt(d)
    torch.testing.assert_close(out, expected.transpose(1, 2), atol=1e-5, rtol=0)


def attend(rows, q, k, v, **options):
    with packed_rows(rows):
        return _packed_attention(torch.nn.Identity(), q, k, v, **options)[0]


def joint_views(n_tokens, dtype, n_key_heads=HEADS):
    """Return query, key and value that lie side by side, as one projection gives them."""
    generator = torch.Generator().manual_seed(0)
    sizes = [HEADS * WIDTH, n_key_heads * WIDTH, n_key_heads * WIDTH]
    joint = torch.randn(n_tokens, sum(sizes), generator=generator).to(dtype)
    return [t.view(1, n_tokens, -1, WIDTH).transpose(1, 2) for t in joint.split(sizes, 1)]


LONG = [600, 300, 64, 50, 33, 17, 16, 9, 8, 5, 3]


@needs_products
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("n_key_heads", [HEADS, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_every_row_is_attended_as_if_alone(monkeypatch, is_causal, window, n_key_heads, dtype):
    monkeypatch.setattr(_products, "_has_bfloat16", lambda: True)
    q, k, v = joint_views(sum(LONG), dtype, n_key_heads)
    options = {"is_causal": is_causal, "sliding_window": window}
    out = attend(Rows(LONG), q, k, v, **options)
    exact = attend(Rows(LONG), *(t.double() for t in (q, k, v)), **options)
    most = 0.03 if dtype is torch.bfloat16 else 1e-5
    torch.testing.assert_close(out.double(), exact, atol=most, rtol=0)
    start = 0
    for length in LONG:
        here = slice(start, start + length)
        alone = attend(Rows([length]), *(t[:, :, here] for t in (q, k, v)), **options)
        assert torch.equal(out[:, here], alone), length
        start += length


@needs_products
def test_one_head_too_is_attended_as_if_alone():
    q, k, v = torch.randn(3, 1, 1, 17 * 9 + 7, 32, generator=torch.Generator().manual_seed(0))
    out = attend(Rows([17] * 9 + [7]), q, k, v)
    alone = attend(Rows([7]), *(t[:, :, -7:] for t in (q, k, v)))
    assert torch.equal(out[:, -7:], alone)


@needs_products
def test_exact_rows_keep_scores_of_bfloat16_in_float32(monkeypatch):
    monkeypatch.setattr(_products, "_has_bfloat16", lambda: True)
    q, k, v = joint_views(100, torch.bfloat16)
    exact = attend(Rows([100]), *(t.double() for t in (q, k, v)), scaling=8.0)

    def change(rows):
        return (attend(rows, q, k, v, scaling=8.0).double() - exact).norm() / exact.norm()

    assert change(Rows([100], is_exact=True)) < 0.004
    assert change(Rows([100])) > 0.01


@needs_products
def test_few_shapes_of_bfloat16_products_are_compiled(monkeypatch):
    monkeypatch.setattr(_products, "_has_bfloat16", lambda: True)
    shapes = set()
    multiply = torch.baddbmm
    monkeypatch.setattr(
        torch,
        "baddbmm",
        lambda _, a, b, **options: (shapes.add(a.shape), multiply(_, a, b, **options))[1],
    )
    for n_rows in range(1, 40):
        q, k, v = torch.zeros(3, 1, HEADS, n_rows * 40, WIDTH, dtype=torch.bfloat16)
        with packed_rows(Rows([40] * n_rows)):
            _packed_attention(torch.nn.Identity(), q, k, v)
    assert {(n_rows, length) for n_rows, length, _ in shapes} == {
        (HEADS << i, 64) for i in range(6)
    }
