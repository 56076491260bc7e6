"""Faster linear layers on CPUs, for any model made of `nn.Linear`.

oneDNN runs a product fastest on weights that lie in its own layout. On 2 Zen 5 cores, 4,096 tokens
from 384 to 1,536 in bfloat16: 7.4 ms as torch calls it and 5.7 ms on weights laid out once. In
float32 all of MiniLM takes 13% less time on 4,096 tokens and 27% less on one row.

In training weights change with every step, and oneDNN is asked only where it is faster on weights
as they lie: on AMD's processors, for which MKL, torch's own choice in float32, has no 512-bit code.
On one Zen 5 core, 4,096 tokens from 384 to 1,536: 238 against 106 billion operations a second, 241
against 104 in the gradient of the tokens, 189 against 105 in that of the weights.

The operators are private to torch: where they are missing or refuse, layers stay as they are. Knows
modules and tensors, not what they are for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skembed.acceleration._passes import has_hooks, replace_modules
from skembed.acceleration._processor import is_onednn_faster_on_cpu

__all__ = [
    "linear",
    "pack_linear_layers",
    "run_steadily",
    "speed_up_linear",
    "steady_size",
]

_TOKENS = 4096
"""Rows of the products that the layout is chosen for."""

_SIZES_PER_OCTAVE = 8

_DTYPES = (torch.bfloat16, torch.float32)

_LEAST_WIDTH = _LEAST_ROWS = 32
"""Of layers, and of what they are given, that oneDNN computes as they lie: a call takes 10
microseconds longer than MKL's."""

_MOST_NARROW = 256
"""Wider layers are trained on steady numbers of rows, as all are used on: of 120 numbers, three
layers of wav2vec 2.0 keep 1.5 GiB."""


def steady_size(n: int) -> int:
    """Return the least number of rows, not below n, that products are run with: buckets.

    oneDNN compiles a product for every number of rows (1 to 7 ms) and keeps memory of the output's
    size for each: 12 MiB at 4,096 tokens from 384 to 1,536, so that batches of 40 different sizes
    keep 460. Eight sizes between a power of two and the next bound both.
    """
    step = 1 << max(0, (n - 1).bit_length() - 1 - (_SIZES_PER_OCTAVE.bit_length() - 1))
    return -(-n // step) * step


def run_steadily(run: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Run a product on inputs of shape (..., features), padded to a steady number of rows.

    Returns what came out for the rows that came in, shape (..., features out).
    """
    shape = inputs[0].shape[:-1]
    n_rows = shape.numel()
    n_more = steady_size(n_rows) - n_rows
    rows = [x.reshape(n_rows, x.shape[-1]).contiguous() for x in inputs]
    if n_more:
        rows = [F.pad(x, (0, 0, 0, n_more)) for x in rows]
    out = run(*rows)[:n_rows]
    return out.view(*shape, out.shape[-1])


class PackedLinear(nn.Module):
    """A linear layer in bfloat16 or float32 on weights in oneDNN's layout."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        # Not parameters: an opaque layout has no gradient and cannot be saved.
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _TOKENS)
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, input: Tensor) -> Tensor:
        """Map an input of shape (..., in_features) to (..., out_features)."""
        return run_steadily(
            lambda rows: torch.ops.mkldnn._linear_pointwise(
                rows, self.weight, self.bias, "none", [], ""
            ),
            input,
        )


def pack_linear_layers(module: nn.Module, agrees: Callable[[], bool]) -> bool:
    """Replace the linear layers of a model on the CPU, if that proves to change nothing.

    Layers in other formats than bfloat16 and float32 stay as they are; `agrees` as in
    `replace_modules`.
    """

    def make() -> dict[nn.Module, nn.Module]:
        return {layer: PackedLinear(layer) for layer in module.modules() if _is_packable(layer)}

    return replace_modules(module, make, agrees)


def _is_packable(module: nn.Module) -> TypeGuard[nn.Linear]:
    # Subclasses may compute something else.
    is_plain = type(module) is nn.Linear and not has_hooks(module)
    return is_plain and module.weight.dtype in _DTYPES


class OneDNNLinear(nn.Linear):
    """A linear layer that oneDNN computes as it lies, if in float32 on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """Map an input of shape (..., in_features) to (..., out_features)."""
        return linear(input, self.weight, self.bias)


def speed_up_linear(module: nn.Module) -> None:
    """Let the linear layers of a module on the CPU be faster ones that can be trained, in place."""
    if not is_onednn_faster_on_cpu():
        return
    for each in module.modules():
        # Subclasses may compute something else.
        if type(each) is nn.Linear and min(each.weight.shape) >= _LEAST_WIDTH:
            each.__class__ = OneDNNLinear


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `torch.nn.functional.linear`, by oneDNN in float32 on a CPU where that is faster.

    What comes out is no view, if `x` is (n, d) and n steady: it may be changed in place.
    """
    if not _is_for_onednn(x, weight):
        return F.linear(x, weight, bias)
    # Contiguous: of other strides oneDNN's product of the weight's gradient is slow.
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    n_rows, steady = len(rows), len(rows)
    if min(weight.shape) > _MOST_NARROW or not torch.is_grad_enabled():
        steady = steady_size(n_rows)
    if steady > n_rows:
        found: Tensor = _Linear.apply(F.pad(rows, (0, 0, 0, steady - n_rows)), weight, bias)
        found = found[:n_rows]
    else:
        found = _Linear.apply(rows, weight, bias)
    return found if x.ndim == 2 else found.view(*x.shape[:-1], found.shape[-1])


def _is_for_onednn(x: Tensor, weight: Tensor) -> bool:
    is_plain = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    return (
        is_plain
        and x.layout is torch.strided
        and not x.is_nested
        and x.shape[-1:] == weight.shape[1:]
        and x.shape[:-1].numel() >= _LEAST_ROWS
        and not torch.is_autocast_enabled("cpu")
        and is_onednn_faster_on_cpu()
    )


class _Linear(torch.autograd.Function):
    """Rows (n, d) by the rows of a weight, with the gradients of both and of the bias."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        of_rows, of_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(rows if of_weight else None, weight if of_rows else None)
        return _product(rows, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        of_rows = of_weight = of_bias = None
        # By itself, not by `_product`: a gradient may have a gradient.
        if ctx.needs_input_grad[0]:
            of_rows = _Linear.apply(gradient, weight.T, None)
        if ctx.needs_input_grad[1]:  # the first is copied if it is turned: the smaller one
            if gradient.shape[1] > rows.shape[1]:
                of_weight = _Linear.apply(rows.T, gradient.T, None).T
            else:
                of_weight = _Linear.apply(gradient.T, rows.T, None)
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum(0)
        return of_rows, of_weight, of_bias


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `rows @ weight.T + bias`."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return found
