"""int8 layers against exact arithmetic in NumPy, and against the layers that they replace."""

import numpy as np
import pytest
import torch
from torch import nn

from skembed.acceleration import _int8
from skembed.acceleration._int8 import Int8Linear, _Rounding, quantize_linear_layers

pytestmark = pytest.mark.int8

DTYPES = [torch.float32, torch.bfloat16]


class Net(nn.Module):
    """Two layers with a GELU between them; `residual` uses the GELU's output twice."""

    def __init__(self, *, residual=False, spike=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.gelu, self.second = nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)
        self.residual = residual
        with torch.no_grad():
            self.first.weight[5] *= spike

    def forward(self, x):
        after = self.gelu(self.first(x))
        out = self.second(after)
        return out + after[..., :32] if self.residual else out


@pytest.fixture
def rows():
    return torch.randn(1, 60, 32, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def quantize(net, rows, dtype=torch.float32, least=0.99):
    """Quantise a net; return whether it was, and the least cosine of its rows to exact ones."""
    net = net.requires_grad_(False)
    exact = net(rows)

    def cosine():
        out = net(rows.to(dtype)).float()
        return float(torch.nn.functional.cosine_similarity(out, exact, dim=-1).min())

    def agrees():
        return cosine() > least

    done = quantize_linear_layers(net, lambda: net(rows), agrees, dtype=dtype)
    return done, cosine() if done else None


@pytest.mark.parametrize("dtype", DTYPES)
def test_layers_run_in_int8_and_hand_on_8_bit_numbers(rows, dtype):
    net = Net()
    done, cosine = quantize(net, rows, dtype)
    assert done
    assert cosine > 0.999
    assert type(net.first) is type(net.second) is Int8Linear
    assert isinstance(net.gelu, nn.Identity)


def test_a_gelu_between_two_layers_is_applied_by_the_first(rows):
    net = Net()
    quantize(net, rows)
    taken = []
    net.second.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0].dtype))
    net(rows)
    assert taken == [torch.uint8]


def test_a_gelu_whose_output_is_used_elsewhere_too_is_not_handed_on(rows):
    net = Net(residual=True)
    done, cosine = quantize(net, rows)
    assert done
    assert cosine > 0.999
    taken = []
    net.second.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0].dtype))
    net(rows)
    assert taken == [torch.float32]


def test_few_large_features_do_not_cost_the_others_their_precision(rows, monkeypatch):
    _, beside = quantize(Net(spike=300.0), rows)
    monkeypatch.setattr(_int8, "_N_BESIDE", 0)
    _, together = quantize(Net(spike=300.0), rows, least=0.0)
    # The spike dominates the output, so the least cosine says little: compare what is lost.
    assert 1 - beside < 0.2 * (1 - together)


@pytest.mark.parametrize("has_bias", [True, False])
def test_a_layer_computes_the_sum_of_rounded_products(has_bias):
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(16, 32)), rng.normal(size=16) * has_bias
    linear = nn.Linear(32, 16, bias=has_bias, dtype=torch.float64).requires_grad_(False)
    linear.weight.copy_(torch.tensor(weight))
    if has_bias:
        linear.bias.copy_(torch.tensor(bias))
    rate = rng.uniform(20, 60, size=32)
    layer = Int8Linear(
        linear, _Rounding(torch.tensor(rate, dtype=torch.float32), 128), dtype=torch.float32
    )
    x = rng.normal(size=(7, 32)).astype(np.float32)

    rounded = np.clip(np.round(x * rate.astype(np.float32)), -128, 127)
    scaled = weight / rate
    scales = np.abs(scaled).max(1) / 127
    expected = rounded @ np.round(scaled / scales[:, None]).T * scales + bias
    found = layer(torch.tensor(x)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_depend_on_its_neighbours(rows, dtype):
    net = Net()
    quantize(net, rows, dtype)
    rows = 10 * rows.to(dtype)  # beyond what the scales were found on
    together = net(rows)
    alone = torch.cat([net(rows[:, i : i + 1].clone()) for i in range(rows.shape[1])], 1)
    np.testing.assert_allclose(alone.float(), together.float(), atol=1e-5, rtol=0)


def test_a_model_that_loses_too_much_stays_as_it_was(rows):
    net = Net()
    expected = net(rows)
    done, _ = quantize(net, rows, least=1.1)
    assert not done
    assert type(net.first) is type(net.second) is nn.Linear
    assert type(net.gelu) is nn.GELU
    torch.testing.assert_close(net(rows), expected, rtol=0, atol=0)


def test_layers_that_take_the_same_are_rounded_alike(rows):
    class Three(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.query, self.key, self.other = (nn.Linear(32, 32) for _ in range(3))
            with torch.no_grad():
                self.key.weight[:, 3] *= 9

        def forward(self, x):
            return self.query(x) + self.key(x) + self.other(x + 0)

    net = Three()
    assert quantize(net, rows)[0]
    torch.testing.assert_close(net.query._rounding.rate, net.key._rounding.rate, rtol=0, atol=0)
    assert (net.other._rounding.rate - net.key._rounding.rate).abs().max() > 0.1
