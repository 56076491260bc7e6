"""Dropout with NumPy's random numbers, against what dropout is."""

import pytest
import torch
from torch import nn

from skembed.modules import Dropout, DroppedReLU, drop_out, speed_up_dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_share_is_dropped_and_the_mean_is_kept(dtype):
    dropout, x = Dropout(0.1), torch.ones(301, 403, dtype=dtype)
    torch.manual_seed(0)
    found = dropout(x)
    assert found.dtype is dtype
    assert (found == 0).double().mean() == pytest.approx(0.1, abs=5e-3)
    assert found.double().mean() == pytest.approx(1, abs=1e-2)
    assert len(found.unique()) == 2
    assert (dropout(x) != found).any()
    torch.manual_seed(0)
    assert torch.equal(dropout(x), found)
    assert torch.equal(dropout.eval()(x), x)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_nothing_or_all_is_dropped(rate):
    x = torch.ones(5, 3)
    assert torch.equal(drop_out(x, rate), x * (1 - rate))


def test_gradients_are_those_of_what_was_kept():
    x = torch.randn(50, 20, requires_grad=True)
    found = drop_out(x, 0.5)
    found.sum().backward()
    torch.testing.assert_close(x.grad * x.detach(), found.detach())
    assert ((x.grad == 0) == (found == 0)).all()


def test_layers_of_a_module_are_replaced_in_place():
    module = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.25), nn.Dropout2d(0.25))
    speed_up_dropout(module)
    assert [type(each) for each in module] == [nn.Linear, Dropout, nn.Dropout2d]
    assert module[1].p == 0.25


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_relu_and_dropout_in_one(dtype):
    layer, x = DroppedReLU(0.25), torch.randn(301, 403, dtype=dtype, requires_grad=True)
    torch.manual_seed(0)
    found = layer(x)
    assert found.dtype is dtype
    is_kept, is_above = found != 0, x > 0
    assert not is_kept[~is_above].any()
    assert is_kept[is_above].double().mean() == pytest.approx(0.75, abs=5e-3)
    torch.testing.assert_close(found[is_kept], x[is_kept] / 0.75)
    gradient = torch.randn_like(found)
    found.backward(gradient)
    expected = torch.where(is_kept, gradient / 0.75, 0.0)
    torch.testing.assert_close(x.grad, expected.to(dtype))
    torch.manual_seed(0)
    assert torch.equal(layer(x), found)
    assert torch.equal(layer.eval()(x), x.relu())


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_relu_and_nothing_or_all_is_dropped(rate):
    x = torch.randn(50, 20, requires_grad=True)
    assert torch.equal(DroppedReLU(rate)(x), x.relu() * (1 - rate))
