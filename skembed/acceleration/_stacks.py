"""A model on stacks of equal shape (pictures, spectra, samples), made fast step by step.

Knows modules and tensors, not which model it is or where rows come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from skembed.acceleration._convolutions import fold_batch_norms, is_traceable, pack_convolutions
from skembed.acceleration._linear import pack_linear_layers
from skembed.acceleration._passes import are_alike, convert, replace_modules
from skembed.modules import OneAtATime, first_that_runs, run_apart

__all__ = ["accelerate_stacks"]


class _InFormat(nn.Module):
    """Gives a model its input in the format that it computes in, pictures with channels last."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module, self.dtype = module, dtype

    def forward(self, values: Tensor) -> Any:
        """Run the model."""
        return self.module(_in_format(values, self.dtype))


def _in_format(values: Tensor, dtype: torch.dtype) -> Tensor:
    values = values.to(dtype)
    return values.contiguous(memory_format=torch.channels_last) if values.ndim == 4 else values


def accelerate_stacks(
    core: nn.Module,
    probes: Iterable[Tensor],
    *,
    device: torch.device,
    dtype: torch.dtype,
    is_foreign: bool,
) -> nn.Module:
    """Return a module on its device that maps stacks (n, ...) as the core does, but faster.

    Batch normalisations are folded, pictures lie with their channels last, and on CPUs convolutions
    and linear layers run on packed weights. Every step is proven on the probes and left out where
    the features change by more than rounding. Of foreign code that may take another way on other
    values than the probes, nothing is folded; and it runs in one thread at a time.
    """

    def agrees_with(expected: Tensor) -> Callable[[nn.Module], bool]:
        return lambda module: are_alike(_rows(run_apart(module, values)), _rows(expected))

    values, features = first_that_runs(partial(run_apart, core), probes)
    exact = agrees_with(features)
    if not is_foreign or is_traceable(core):
        fold_batch_norms(core, lambda: run_apart(core, values), lambda: exact(core))
    if values.ndim == 4:
        core = core.to(memory_format=torch.channels_last)
    if dtype is torch.bfloat16 and device.type == "cpu":
        replace_modules(core, lambda: _kept_in_float32(core), lambda: True)
    if dtype is not torch.float32:
        _convert(core, values, dtype)
    values = _in_format(values, dtype)
    if device.type != "cpu":
        core = core.to(device)
        run_apart(core, values.to(device))  # what fails there is no fault of rows
    else:
        near = agrees_with(run_apart(core, values))
        if values.ndim == 4:
            core = pack_convolutions(core, values.clone(), near)
        pack_linear_layers(core, lambda: near(core))
    return _InFormat(OneAtATime(core) if is_foreign else core, dtype)


class _InFloat32(nn.Module):
    """Runs a convolution in float32 amid layers that do not; its weights are rounded as theirs."""

    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, values: Tensor) -> Tensor:
        """Run it, and give the format of the input."""
        layer: Any = self.convolution
        bias = None if layer.bias is None else layer.bias.float()
        found: Tensor = layer._conv_forward(values.float(), layer.weight.float(), bias)
        return found.to(values.dtype)


def _kept_in_float32(core: nn.Module) -> dict[nn.Module, nn.Module]:
    """Return stand-ins for the convolutions whose products in bfloat16 may be noise.

    Those of oneDNN 3.12 on processors with AMX are, for many lengths, where the rows of a kernel
    are made of fewer than 32 channels, an even number, and fill whole tiles of 32 values.
    """
    found: dict[nn.Module, nn.Module] = {}
    for each in core.modules():
        if isinstance(each, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            n_channels = each.in_channels // each.groups
            n_values = n_channels * each.kernel_size[-1]
            if n_channels % 2 == 0 and n_channels < 32 and n_values > 32 and n_values % 32 == 0:
                found[each] = _InFloat32(each)
    return found


def _rows(features: Tensor) -> Tensor:
    """Return features with what is compared last: of a map, where places may be 0, all of it."""
    return features.flatten(1) if features.ndim == 4 else features


def _convert(core: nn.Module, values: Tensor, dtype: torch.dtype) -> None:
    """Convert a model; statistics and tables stay in float32 where the model runs so."""
    for module in core.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.to(dtype)
    convert(core, dtype)
    core.train().eval()  # which drops what models keep of their weights, as LeViT its biases
    try:
        core(values.to(dtype, copy=True))
    except RuntimeError:  # it adds up numbers of both formats
        for buffer in core.buffers():
            if buffer.is_floating_point():
                buffer.data = buffer.data.to(dtype)
        for module in core.modules():
            for name, kept in vars(module).items():  # of an earlier pass, as rotary positions
                if isinstance(kept, Tensor) and kept.is_floating_point():
                    setattr(module, name, kept.to(dtype))
