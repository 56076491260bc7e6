"""The user's own modules, whose code is unknown: copied, tried out, run with care.

Knows torch modules, not what goes into them.
"""

from __future__ import annotations

import copy
import itertools
import os
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from skembed._backbone import Source
from skembed.exceptions import SkembedError, UnsupportedModelError
from skembed.modules._layers import first_that_runs, run_apart
from skembed.weights import fingerprint, is_out_of_memory

__all__ = ["FEATURES", "Features", "ModuleSource", "OneAtATime", "copy_of", "try_out"]

FEATURES = ("embeddings", "embedding", "features", "pooler_output", "last_hidden_state")
"""What modules call their features where they give several things, the most finished first."""

_NOTHING = 1e-6

# Rounding in bfloat16, in which a module may compute on its own, and more in batches of two.
_MOST_OF_NEIGHBOURS = 0.03


class ModuleSource(Source):
    """A module of the user's in memory, which is copied and never changed."""

    def __init__(self, module: nn.Module) -> None:
        self.module = _without_compiler(module)
        self.name = type(self.module).__name__
        self.digest = fingerprint(self.module)

    def n_bytes(self) -> int:
        """Return the size of parameters and buffers, in float32."""
        return sum(4 * each.numel() for each in [*self.module.parameters(), *self.module.buffers()])

    def check_unchanged(self) -> None:
        """Check that neither weights, attributes nor code have changed."""
        if fingerprint(self.module) != self.digest:
            raise UnsupportedModelError(
                f"{self.name} has been changed since this embedder was fitted (its weights, "
                "attributes or code). Fit the embedder again."
            )

    def copy(self) -> nn.Module:
        """Return a copy of the module: float32, on the CPU, in evaluation mode."""
        try:
            copied: nn.Module = copy_of(self.module)
        except Exception as error:
            raise UnsupportedModelError(
                f"{self.name} cannot be copied, and skembed does not run the module itself, so as "
                f"not to change it: {type(error).__name__}: {error}. copy.deepcopy(model) has to "
                "work."
            ) from error
        return copied.cpu().float().eval().requires_grad_(False)


class Features(nn.Module):
    """Takes features out of what a module gives: a tensor, a mapping, a tuple or a dataclass.

    They are the first of `names` that it has, or its only tensor; messages say `title`.
    """

    def __init__(self, module: nn.Module, names: Sequence[str], title: str) -> None:
        super().__init__()
        self.module, self.names, self.title = module, tuple(names), title

    def forward(self, values: Tensor) -> Tensor:
        """Return the features."""
        output = self.module(values)
        if _is_tensor(output):
            return output  # type: ignore[no-any-return]
        if hasattr(output, "_asdict"):
            output = output._asdict()
        elif is_dataclass(output) and not isinstance(output, Mapping):
            output = vars(output)
        if isinstance(output, Mapping):
            named = dict(output)
            what = f"a mapping with {', '.join(map(repr, named)) or 'nothing'}"
        elif isinstance(output, (tuple, list)):
            named = dict(enumerate(output))
            what = f"a {type(output).__name__} of {len(output)}"
        else:
            named, what = {}, f"a {type(output).__name__}"
        tensors: dict[Any, Tensor] = {
            name: value for name, value in named.items() if _is_tensor(value)
        }
        for name in self.names:
            if name in tensors:
                return tensors[name]
        if len(tensors) == 1:
            return next(iter(tensors.values()))
        raise UnsupportedModelError(
            f"{self.title} gives {what}, {len(tensors)} of them tensors; expected one tensor, or a "
            f"mapping with {', '.join(map(repr, self.names))}. Choose a layer that gives a tensor, "
            "or wrap the module in one whose forward returns the features."
        )


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


@torch.inference_mode()
def try_out(
    module: nn.Module,
    probes: Iterable[Tensor],
    others: Iterable[Tensor] = (),
    *,
    row: str,
    shapes: str,
    name: str,
    advice: str,
) -> tuple[Tensor, Tensor]:
    """Return the first values that a module runs on, and its features of a batch of them.

    `probes` and `others` are rows without the batch's dimension: the first that runs, and another
    one, are taken; without others, the first one changed a little. An UnsupportedModelError says if
    it fails on all, gives no features, or others of the same row: random, or beside other rows.
    """
    run = partial(run_apart, module)
    tried: list[str] = []

    def run_one(values: Tensor) -> Tensor:
        kind = str(values.dtype).removeprefix("torch.")
        tried.append(f"a {kind} tensor of shape {(1, *values.shape)}")
        features: Tensor = run(values[None])
        return features

    try:
        values, features = first_that_runs(run_one, probes)
    except SkembedError:
        raise
    except Exception as error:
        more = f" (and on {len(tried) - 1} of other sizes)" if len(tried) > 1 else ""
        raise UnsupportedModelError(
            f"{name} failed on a {row}, {tried[0]}{more}: {type(error).__name__}: {error}. {advice}"
        ) from error
    shape = tuple(features.shape)
    if not 2 <= len(shape) <= 4 or shape[0] != 1 or not features.is_floating_point():
        raise UnsupportedModelError(
            f"{name} gives {features.dtype} of shape {shape} for a batch of one {row}; expected "
            f"floats of shape {shapes}. Keep the batch's dimension in forward, or choose another "
            "layer."
        )
    # Of other statistics, if it takes such.
    changed = [values.flip(-1) / 2, values.flip(-1), values]
    other, _ = first_that_runs(run_one, itertools.chain(others, changed))
    if not _are_near(run(values[None]), features, 1e-3):
        raise UnsupportedModelError(
            f"{name} is random, or keeps something of the {row}s before: it gave different "
            f"features of one {row} in evaluation mode. Does it call functional.dropout without "
            "training=self.training?"
        )
    if other.shape == values.shape:  # others never share a batch
        _check_pair(run, values, other, features, row=row, name=name)
    return values, features


def _check_pair(
    run: Any, values: Tensor, other: Tensor, features: Tensor, *, row: str, name: str
) -> None:
    """Check that a row's features are the same beside another one."""
    try:
        pair = run(torch.stack([values, other]))
    except Exception as error:
        raise UnsupportedModelError(
            f"{name} runs on a batch of one {row} and fails on one of two: "
            f"{type(error).__name__}: {error}. Keep the batch's dimension in forward."
        ) from error
    if pair.shape != (2, *features.shape[1:]):
        raise UnsupportedModelError(
            f"{name} gives features of shape {tuple(pair.shape)} for two {row}s and of "
            f"{tuple(features.shape)} for one. Keep the batch's dimension in forward."
        )
    if not _are_near(pair[:1], features, _MOST_OF_NEIGHBOURS):
        raise UnsupportedModelError(
            f"{name} mixes the {row}s of a batch: it gave a {row} other features beside another "
            "one, which would make vectors depend on other rows. Does it have a BatchNorm with "
            "track_running_stats=False?"
        )


def copy_of(value: Any) -> Any:
    """Return a deep copy; of tensors in modules that others were computed from, the values.

    torch refuses to copy those, such as the weight of `nn.utils.weight_norm`.
    """
    memo: dict[int, Any] = {}
    for module in value.modules() if isinstance(value, nn.Module) else ():
        for each in vars(module).values():
            if isinstance(each, Tensor) and not each.is_leaf:
                memo[id(each)] = each.detach().clone()
    return copy.deepcopy(value, memo)


def _without_compiler(module: nn.Module) -> nn.Module:
    """Return the module within a compiled one, which computes the same."""
    dynamo = sys.modules.get("torch._dynamo.eval_frame")  # a second to import, and then unneeded
    if dynamo is not None and isinstance(module, dynamo.OptimizedModule):
        fingerprint(module)  # which refuses what would be lost with the compiler
        inner: nn.Module = module._orig_mod
        return inner
    return module


def _is_tensor(value: Any) -> bool:
    return isinstance(value, (Tensor, Proxy))  # a proxy stands for what tracing has not computed


def _are_near(some: Tensor, others: Tensor, share: float) -> bool:
    """Return whether features differ by no more than a share of the largest."""
    if some.shape != others.shape:
        return False
    scale = float(others.abs().nan_to_num(0, 0, 0).max()) if others.numel() else 0.0
    if scale < _NOTHING:  # what rounding has left of zeros
        return True
    return torch.allclose(some, others, rtol=share, atol=share * scale, equal_nan=True)
