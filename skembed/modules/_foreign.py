"""Modules whose code is unknown: copied, run with care, and what they may give.

Knows torch modules, not what goes into them.
"""

from __future__ import annotations

import copy
import os
import sys
import threading
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from skembed.exceptions import UnsupportedModelError
from skembed.weights import fingerprint, is_out_of_memory

__all__ = ["Features", "OneAtATime", "are_near", "copy_of", "without_compiler"]

_NOTHING = 1e-6


class OneAtATime(nn.Module):
    """Runs a module in one thread at a time: unknown code may keep things on itself."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        # One for each process: after a fork that of the parent may be held for ever.
        self._locks: dict[int, threading.Lock] = {}

    def forward(self, values: Tensor) -> Tensor:
        """Return the features."""
        with self._locks.setdefault(os.getpid(), threading.Lock()):
            try:
                features: Tensor = self.module(values)
                return features.clone()  # which may lie where those of the next rows will
            except Exception as error:
                if is_out_of_memory(error) or isinstance(error, RuntimeError):
                    raise
                # Whatever it is, it comes of these rows, not of skembed nor of its files.
                raise RuntimeError(f"{type(error).__name__}: {error}") from error


class Features(nn.Module):
    """A module whose output is a tensor, whatever it was wrapped in."""

    def __init__(self, module: nn.Module, names: Sequence[str], title: str) -> None:
        super().__init__()
        self.module, self.names, self.title = module, tuple(names), title

    def forward(self, values: Tensor) -> Tensor:
        """Return the features."""
        output = self.module(values)
        if isinstance(output, (Tensor, Proxy)):  # a proxy stands for what tracing has not computed
            return output  # type: ignore[return-value]
        if isinstance(output, Mapping):
            named, what = (
                dict(output),
                f"a mapping with {', '.join(map(repr, output)) or 'nothing'}",
            )
        elif hasattr(output, "_asdict"):
            named = output._asdict()
            what = f"a tuple with the fields {', '.join(map(repr, named))}"
        else:
            named, what = {}, f"a {type(output).__name__}"
        for name in self.names:
            found = named.get(name)
            if isinstance(found, Tensor):
                return found
        if isinstance(output, (tuple, list)):
            tensors = [each for each in output if isinstance(each, Tensor)]
            if len(tensors) == 1:
                return tensors[0]
            what += f" of {len(output)}, {len(tensors)} of them tensors"
        raise UnsupportedModelError(
            f"{self.title} gives {what}; expected a tensor, or a mapping with "
            f"{', '.join(map(repr, self.names))}. Choose a layer that gives a tensor, or wrap "
            "the module in one whose forward returns the features."
        )


def without_compiler(module: nn.Module) -> nn.Module:
    """Return the module within a compiled one, which computes the same."""
    dynamo = sys.modules.get("torch._dynamo.eval_frame")  # a second to import, and then unneeded
    if dynamo is not None and isinstance(module, dynamo.OptimizedModule):
        fingerprint(module)  # which refuses what would be lost with the compiler
        inner: nn.Module = module._orig_mod
        return inner
    return module


def copy_of(module: nn.Module, name: str) -> nn.Module:
    """Return a copy of a module of the user's: float32, on the CPU, in evaluation mode.

    Raises
    ------
    UnsupportedModelError
        If it cannot be copied.
    """
    try:
        copied = copy.deepcopy(module)
    except Exception as error:
        raise UnsupportedModelError(
            f"{name} cannot be copied, and skembed does not run the module itself, so as not to "
            f"change it: {type(error).__name__}: {error}. copy.deepcopy(model) has to work."
        ) from error
    return copied.cpu().float().eval().requires_grad_(False)


def are_near(some: Tensor, others: Tensor, share: float) -> bool:
    """Return whether features differ by no more than a share of the largest."""
    if some.shape != others.shape:
        return False
    scale = float(others.abs().nan_to_num(0, 0, 0).max()) if others.numel() else 0.0
    if scale < _NOTHING:  # what rounding has left of zeros
        return True
    return torch.allclose(some, others, rtol=share, atol=share * scale, equal_nan=True)
