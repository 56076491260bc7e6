"""Modules of the user's: copied whatever they are made of, and what they may give."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from skembed.exceptions import UnsupportedModelError
from skembed.modules import Features, ModuleSource, try_out

WORDS = {"row": "clip", "shapes": "(1, features)", "name": "It", "advice": "Give it something."}


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_module_whose_weight_is_computed_is_copied_and_trains():
    module = nn.utils.weight_norm(nn.Linear(3, 2))
    copied = ModuleSource(module).copy().requires_grad_(True)
    x = torch.rand(4, 3)
    torch.testing.assert_close(copied(x), module(x))
    copied(x).sum().backward()
    assert all(each.grad is not None for each in copied.parameters())
    assert all(each.grad is None for each in module.parameters())


@dataclass
class Outputs:
    logits: torch.Tensor
    good: torch.Tensor


@dataclass
class SimpleOutput:
    states: torch.Tensor
    loss: None = None


class Gives(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x,
        lambda x: {"any name": x},
        lambda x: {"logits": x * 2, "best": x, "good": x * 3},
        lambda x: (x, None),
        lambda x: Outputs(x * 2, x),
        lambda x: SimpleOutput(x),
    ],
)
def test_features_are_found_in_what_they_are_wrapped_in(make):
    x = torch.rand(1, 3)
    assert torch.equal(Features(Gives(make), ("best", "good"), "It")(x), x)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda x: {"a": x, "b": x}, "a mapping with 'a', 'b', 2 of them tensors"),
        (lambda x: [x, x], "a list of 2, 2 of them tensors"),
        (lambda x: None, "a NoneType"),
    ],
)
def test_anything_else_is_named(make, what):
    with pytest.raises(UnsupportedModelError, match=what):
        Features(Gives(make), ("best",), "It")(torch.rand(1, 3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: x + torch.rand(1), "is random, or keeps something of the clips before"),
        (lambda x: x - x.mean(0) * (len(x) > 1), "mixes the clips of a batch"),
        (lambda x: x[:1], "gives features of shape .1, 5. for two clips"),
        (lambda x: x.view(1, 5), "runs on a batch of one clip and fails on one of two"),
        (lambda x: x[0], "of shape .5,. for a batch of one clip"),
        (lambda x: x @ torch.ones(2), "failed on a clip, .*RuntimeError.*Give it something"),
    ],
)
def test_a_module_whose_features_of_a_row_are_not_always_the_same_is_refused(make, message):
    with pytest.raises(UnsupportedModelError, match=f"(?s){message}"):
        try_out(Gives(make), [torch.rand(5)], **WORDS)


def test_the_first_row_that_it_runs_on_counts():
    module = Gives(lambda x: x.reshape(len(x), 4))
    values, features = try_out(module, [torch.rand(5), torch.rand(2, 2)], **WORDS)
    assert values.shape == (2, 2)
    assert torch.equal(features, values.reshape(1, 4))


def test_a_change_after_the_digest_is_told():
    module = nn.Linear(2, 2)
    source = ModuleSource(module)
    source.check_unchanged()
    with torch.no_grad():
        module.bias += 1
    with pytest.raises(UnsupportedModelError, match=r"Linear has been changed.*Fit"):
        source.check_unchanged()
