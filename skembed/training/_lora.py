"""LoRA through peft: small trained matrices beside the layers of a frozen module.

Knows modules and peft, not what they embed. References: arXiv:2106.09685.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from skembed._optional import import_optional
from skembed.acceleration import linear
from skembed.exceptions import InvalidParameterError
from skembed.training._depth import is_numbered

__all__ = ["add_lora", "find_targets", "lora_arrays", "lora_matrices", "lora_scale"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def lora_scale(rank: int, alpha: float) -> float:
    """Return the factor of the product of the matrices."""
    return alpha / rank


def add_lora(
    module: nn.Module,
    probe: Any,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    targets: str | Sequence[str],
) -> None:
    """Put trained matrices beside layers of a module, in place.

    `probe` is a batch as the module takes it. `targets` are ends of names, or "auto"; see
    `find_targets`.
    """
    peft: Any = import_optional("peft", extra="training", purpose="method='lora'")
    _leave_fast_path(module)
    layers = find_targets(module, probe, targets)
    most = max(map(_shorter_side, layers.values()))
    if rank > most:
        raise InvalidParameterError(
            f"training__lora_rank={rank}: expected at most {most}, the shorter side of the largest "
            "matrix that is adapted. Lower it, or use method='full'."
        )
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(layers),
        fan_in_fan_out=all(_is_conv1d_of_gpt2(each) for each in layers.values()),
    )
    peft.inject_adapter_in_model(config, module)
    module.train(module.training)  # new layers, as the others
    if not dropout:
        merged = type("Merged", (peft.tuners.lora.Linear,), {"forward": _run_merged})
        for each in module.modules():
            if type(each) is peft.tuners.lora.Linear and not _has_hooks(each.base_layer):
                each.__class__ = merged


def _has_hooks(layer: Any) -> bool:
    """Return whether something is called with a layer, as what takes its states is."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks)


def _run_merged(layer: Any, x: Tensor) -> Tensor:
    """Map what a linear layer of peft's maps, as it does without dropout, in one product."""
    base, device = layer.base_layer, x.device.type
    if torch.is_autocast_enabled(device):
        x = x.to(torch.get_autocast_dtype(device))
    weight = base.weight.T if layer.fan_in_fan_out else base.weight
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    rows = x.reshape(-1, x.shape[-1])
    with torch.autocast(device, enabled=False):  # it would round the matrices before their product
        mapped: Tensor = _Merged.apply(rows, weight, base.bias, a, b, layer.scaling["default"])
    return mapped if x.ndim == 2 else mapped.view(*x.shape[:-1], mapped.shape[-1])


class _Merged(torch.autograd.Function):
    """`x @ (W + scale B A).T + bias`, with gradients of x, A (rank, in) and B (out, rank) alone.

    Both matrices are added to the weight, and again in the backward pass, so that no sum is kept:
    that is little beside the products with thousands of rows. peft multiplies the rows by each
    matrix and adds what comes out; and autograd's gradient of B, (out, n) @ (n, rank), takes MKL as
    long as that of the whole weight, 75 ms of 3,500 rows from 384 to 1,536 in float32 on a core
    with AVX2. (rank, n) @ (n, out) takes 7.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, a, b)
        ctx.scale = scale
        merged = torch.addmm(weight, b, a, alpha=scale).to(x.dtype)
        found = linear(x, merged, None if bias is None else bias.to(x.dtype))
        return found.clone() if found._is_view() else found  # it may be changed in place

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b = ctx.saved_tensors
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = linear(gradient, torch.addmm(weight, b, a, alpha=ctx.scale).to(x.dtype).T)
        x, rows = (each.reshape(-1, each.shape[-1]) for each in (x, gradient))
        turned = (ctx.scale * b.T).to(x.dtype).contiguous()  # else 1.6 times as slow
        within = F.linear(rows, turned)  # the gradient of x @ A.T
        of_a = within.T @ x
        of_b = ((ctx.scale * F.linear(x, a.to(x.dtype))).T @ rows).T
        return of_x, None, None, of_a.to(a.dtype), of_b.to(b.dtype), None


def find_targets(
    module: nn.Module, probe: Any, targets: str | Sequence[str]
) -> dict[str, nn.Module]:
    """Return the layers that get matrices, by name.

    Those of "auto" are the linear layers of the blocks, attention's and feed-forward ones, without
    heads and poolers; convolutions where there are no linear layers. Only layers that are called
    when `probe` is run count: of others, such as those within `nn.MultiheadAttention`, only the
    weights are read, and matrices beside them would do nothing. (What peft 0.18 has for that one
    adds the product for its last layer twice.) Frozen blocks get none.
    """
    called = {
        name: each
        for name, each in _called(module, probe).items()
        if not getattr(each, "stays_frozen", False)
    }
    if targets == "auto":
        inside = {name: each for name, each in called.items() if name.startswith("core.")} or called
        inside = {name: each for name, each in inside.items() if _is_of_block(name)} or inside
        found = {n: each for n, each in inside.items() if not isinstance(each, _CONVOLUTIONS)}
        found = found or inside
        if not found:
            raise InvalidParameterError(
                "training__method='lora': the model calls neither linear layers nor convolutions "
                "that matrices can stand beside. Use method='full' or 'head'."
            )
        return found
    ends = [targets] if isinstance(targets, str) else list(targets)
    unknown = [end for end in ends if not any(_has_end(name, end) for name in called)]
    if unknown or not ends:
        last = dict.fromkeys(_end_of(name) for name in called)
        raise InvalidParameterError(
            f"training__lora_targets={targets!r}: no layer's name ends in "
            f"{', '.join(map(repr, unknown)) or 'nothing'}. The model's layers end in "
            f"{', '.join(map(repr, last)) or 'nothing: it has none'}."
        )
    return {n: each for n, each in called.items() if any(_has_end(n, end) for end in ends)}


def lora_matrices(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trained matrices, by their layer's name."""
    found = {}
    for name, parameter in module.named_parameters():
        for kind in ("lora_A", "lora_B"):
            marker = f".{kind}.default.weight"
            if name.endswith(marker):
                found[f"{name.removesuffix(marker)}.{kind}"] = parameter
    return found


def lora_arrays(module: nn.Module) -> dict[str, NDArray[np.float32]]:
    """Return the values of the trained matrices, by their layer's name."""
    return {
        name: parameter.detach().cpu().numpy().copy()
        for name, parameter in lora_matrices(module).items()
    }


@torch.no_grad()
def _called(module: nn.Module, probe: Any) -> dict[str, nn.Module]:
    """Return the layers that can be adapted and are called, by name."""
    names = {each: name for name, each in module.named_modules() if _is_adaptable(each)}
    called: set[nn.Module] = set()
    hooks = [
        each.register_forward_pre_hook(lambda layer, inputs: called.add(layer)) for each in names
    ]
    try:
        module(probe)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: each for each, name in names.items() if each in called}


def _is_adaptable(layer: nn.Module) -> bool:
    """Return whether a product of matrices can be added to what a layer multiplies by."""
    if "weight" not in layer._parameters:  # it is computed of others, as by weight norm
        return False
    if _is_conv1d_of_gpt2(layer):
        return True
    if isinstance(layer, nn.Linear):
        return type(layer).forward is nn.Linear.forward
    if isinstance(layer, _CONVOLUTIONS):
        is_plain = layer.groups == 1 and set(layer.dilation) == {1}
        own = type(layer).forward in {each.forward for each in _CONVOLUTIONS}
        return is_plain and own and layer.padding_mode == "zeros"
    return False


def _is_conv1d_of_gpt2(layer: nn.Module) -> bool:
    """Return whether it is transformers' linear layer whose weight stands the other way."""
    return type(layer).__name__ == "Conv1D" and type(layer).__module__.startswith("transformers.")


def _is_of_block(name: str) -> bool:
    return any(map(is_numbered, name.split(".")))


def _has_end(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def _end_of(name: str) -> str:
    """Return the end of a name that tells what a layer does: without numbers before it."""
    parts = name.split(".")
    return parts[-1] if not parts[-1].isdigit() else ".".join(parts[-2:])


def _shorter_side(layer: Any) -> int:
    weight: Tensor = layer.weight
    return min(len(weight), weight[0].numel())


def _leave_fast_path(module: nn.Module) -> None:
    """Keep torch's transformer layers from reading their weights past the layers that hold them."""
    layers: list[Any] = [
        each for each in module.modules() if isinstance(each, nn.TransformerEncoderLayer)
    ]
    for each in layers:
        each.activation_relu_or_gelu = 0  # as of an activation that has no fast path
