"""Modules built without values, or with random ones that are always the same.

Knows how torch builds modules, not which ones. torch's random state, which belongs to the user, is
neither read nor changed, whatever other threads do meanwhile.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
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


class _Empty(TorchFunctionMode):
    """Puts what layers allocate on the meta device, but not what architectures compute with.

    A default device of "meta" would do so for both, and RegNets compute their widths with tensors.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func in _ALLOCATE:
            options["device"] = "meta"
        return func(*args, **options)


class _Random(TorchFunctionMode):
    """Lets every draw come from one generator, not from the process's."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func in _DRAW and options.get("generator") is None:
            options["generator"] = self._generator
        return func(*args, **options)


def build_empty(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a module whose parameters have shapes and no values, in evaluation mode.

    Buffers that are computed keep their values.
    """
    with torch.device("cpu"), _Empty():
        return build().eval().requires_grad_(False)


def build_random(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a module whose random values are the same in every process, in evaluation mode."""
    with torch.device("cpu"), _Random(_SEED):
        return build().float().eval().requires_grad_(False)


def is_empty(module: nn.Module) -> bool:
    """Return whether a parameter or buffer still has no values."""
    return any(each.is_meta for each in chain(module.parameters(), module.buffers()))
