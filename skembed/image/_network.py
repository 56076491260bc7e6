"""A loaded model on its device, made as fast as is proven to change nothing.

Knows modules and tensors of pixels, not which model it is nor where rows come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn

from skembed.engine import (
    are_alike,
    convert,
    fold_batch_norms,
    is_traceable,
    keep_freed_memory,
    pack_convolutions,
    pack_linear_layers,
)
from skembed.modules import OneAtATime, first_that_runs, run_apart

__all__ = ["load_network"]


@torch.inference_mode()
def load_network(
    load: Callable[[], nn.Module],
    probes: Iterable[Tensor],
    *,
    device: torch.device,
    dtype: torch.dtype,
    is_foreign: bool = False,
) -> nn.Module:
    """Load a module and speed it up.

    Batch normalisations are folded, pixels lie with their channels side by side, and on CPUs
    convolutions and linear layers run on packed weights. Every step is proven on some pixels and
    left out where the features change by more than rounding.

    Parameters
    ----------
    load : callable
        Returns the module, in float32 on the CPU, in evaluation mode.
    probes : iterable of Tensor of shape (n, channels, height, width), float32
        Two or more different pictures as it may take them, on which every step is proven; of
        several sizes, the first that it does not fail on.
    device : torch.device
        Where it will run.
    dtype : torch.dtype
        In which format.
    is_foreign : bool
        Whether its code is unknown. If it may then take another way on other pixels than those,
        nothing is fused; and it runs in one thread at a time.

    Returns
    -------
    network : Module
        Maps pixels (n, channels, height, width) in that format to features (n, width).
    """
    if device.type == "cpu":
        keep_freed_memory()
    network = load().requires_grad_(False)

    def agrees_with(expected: Tensor) -> Callable[[nn.Module], bool]:
        return lambda module: are_alike(run_apart(module, pixels), expected)

    pixels, features = first_that_runs(partial(run_apart, network), probes)
    exact = agrees_with(features)
    is_steady = not is_foreign or is_traceable(network)
    if is_steady:
        fold_batch_norms(network, lambda: run_apart(network, pixels), lambda: exact(network))
    network = network.to(memory_format=torch.channels_last)
    if dtype is not torch.float32:
        network = _converted(network, pixels, dtype)
    pixels = pixels.to(dtype).contiguous(memory_format=torch.channels_last)
    if device.type != "cpu":
        network = network.to(device)
        run_apart(network, pixels.to(device))  # what fails there is no fault of rows
    else:
        near = agrees_with(run_apart(network, pixels))
        network = pack_convolutions(network, pixels.clone(), near)
        pack_linear_layers(
            network,
            lambda: run_apart(network, pixels),
            lambda: near(network),
            each_alone=not is_steady,
        )
    return OneAtATime(network) if is_foreign else network


def _converted(network: nn.Module, pixels: Tensor, dtype: torch.dtype) -> nn.Module:
    """Convert a model; statistics and tables stay in float32 where the model runs so."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.to(dtype)
    convert(network, dtype)
    try:
        network(pixels.to(dtype, copy=True))
    except RuntimeError:  # it adds up numbers of both formats
        for buffer in network.buffers():
            if buffer.is_floating_point():
                buffer.data = buffer.data.to(dtype)
    return network
