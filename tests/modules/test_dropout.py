"""Dropout with NumPy's random numbers, against what dropout is."""

import pytest
import torch
from torch import nn

from skembed.modules import Dropout, drop_out, speed_up_dropout


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
