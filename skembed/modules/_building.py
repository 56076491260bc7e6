"""Modules built without values, or with random ones that are always the same.

Knows how torch builds modules, not which ones. torch's random state, which belongs to the user, is
neither read nor changed, even while other threads use it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Iterable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

__all__ = ["build_empty", "build_random", "is_empty"]

_SEED = 0

_ALLOCATE = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn}
_DRAW = {
    torch.bernoulli,
    torch.multinomial,
    torch.normal,
    torch.rand,
    torch.randint,
    torch.randn,
    torch.randperm,
    torch.Tensor.bernoulli_,
    torch.Tensor.cauchy_,
    torch.Tensor.exponential_,
    torch.Tensor.geometric_,
    torch.Tensor.log_normal_,
    torch.Tensor.normal_,
    torch.Tensor.random_,
    torch.Tensor.uniform_,
} | {
    each
    for _, each in inspect.getmembers(nn.init, inspect.isfunction)
    if "generator" in inspect.signature(each).parameters
}


class _With(TorchFunctionMode):
    """Gives some of torch's functions a value for an option that they are called without."""

    def __init__(self, functions: Container[Any], option: str, value: Any) -> None:
        super().__init__()
        self._functions, self._option, self._value = functions, option, value

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func in self._functions and options.get(self._option) is None:
            options[self._option] = self._value
        return func(*args, **options)


def build_empty(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a module whose parameters have shapes and no values, in evaluation mode.

    Buffers that are computed keep their values. A default device of "meta" would take those too,
    and RegNets compute their widths with tensors.
    """
    with torch.device("cpu"), _With(_ALLOCATE, "device", "meta"):
        return build().eval().requires_grad_(False)


def build_random(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a module whose random values are the same in every process, in evaluation mode."""
    generator = torch.Generator().manual_seed(_SEED)
    with torch.device("cpu"), _With(_DRAW, "generator", generator):
        return build().float().eval().requires_grad_(False)


def is_empty(module: nn.Module) -> bool:
    """Return whether a parameter or buffer still has no values."""
    return any(each.is_meta for each in chain(module.parameters(), module.buffers()))
