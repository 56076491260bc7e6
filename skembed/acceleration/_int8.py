"""Linear layers in int8 on CPUs, for any model made of `nn.Linear`.

Weights are rounded to 8 bits by output feature, what comes in by input feature, with scales found
once on a few rows: they belong to the model, so that a row's vector does not depend on the other
rows of its batch. Large features are shared between both as in SmoothQuant (Xiao et al., 2023,
arXiv:2211.10438, eq. 4). A GELU between two layers is applied by the first, which hands 8-bit
numbers to the second; the few features that would stretch their scale go beside them, unrounded, as
in LLM.int8() (Dettmers et al., 2022, arXiv:2208.07339).

Knows modules and tensors, not what they are for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skembed.acceleration._linear import run_steadily
from skembed.acceleration._passes import find_consumers, gelu_kind, has_hooks, replace_modules

__all__ = ["quantize_linear_layers"]

_MIGRATION = 0.5
"""How much of an input feature's size goes into the weights (alpha of SmoothQuant)."""

_N_BESIDE = 16
"""Features of a GELU's output that stay unrounded: on MiniLM one to four in a layer reach 5 to 25,
the other 1,532 less than 4."""


@dataclass(frozen=True)
class _Range:
    """What a layer was seen to take in: least and most of every feature, shape (in_features,).

    `weight` is the largest that a feature meets in all layers that take it: queries, keys and
    values are rounded alike.
    """

    least: Tensor
    most: Tensor
    weight: Tensor

    @property
    def size(self) -> Tensor:
        return torch.maximum(self.least.abs(), self.most.abs()).clamp(min=1e-5)


@dataclass(frozen=True)
class _Rounding:
    """How 16- or 32-bit numbers become uint8: round(x * rate) + zero, cut to 0 ... 255.

    `rate` is of each feature, or one for all; `zero` is what 0 becomes, 128 where `apply` rounds.
    """

    rate: Tensor
    zero: int

    def apply(self, x: Tensor) -> Tensor:
        """Round x of shape (..., in_features)."""
        # Signed first: bfloat16 has all integers to 256, but no halves above 128.
        signed = (x * self.rate).round_().clamp_(-128, 127).to(torch.int8)
        return signed.view(torch.uint8).bitwise_xor_(128)


class _Beside(nn.Module):
    """Features of a GELU's output, between two linear layers, that are not rounded."""

    def __init__(
        self, before: nn.Linear, after: nn.Linear, features: Tensor, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.features = features
        self.into = before.weight.detach()[features].to(dtype)
        self.bias = None if before.bias is None else before.bias.detach()[features].to(dtype)
        self.out = after.weight.detach()[:, features].contiguous().to(dtype)


class Int8Linear(nn.Module):
    """A linear layer, and perhaps a GELU, in int8.

    `rounding` makes its input 8-bit numbers, `next_rounding` its output where the next layer takes
    those; else that has `dtype`. `gives` and `takes` are the unrounded features that go with its
    output and that came with its input.
    """

    def __init__(
        self,
        linear: nn.Linear,
        rounding: _Rounding,
        *,
        dtype: torch.dtype,
        gelu: str | None = None,
        next_rounding: _Rounding | None = None,
        gives: _Beside | None = None,
        takes: _Beside | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().float() / rounding.rate.float()
        if takes is not None:
            weight[:, takes.features] = 0
        self._scales = weight.abs().amax(1).clamp(min=1e-12) / 127
        rounded = torch.round(weight / self._scales[:, None]).to(torch.int8)
        # Not a parameter: an opaque layout has no gradient and cannot be saved.
        self.weight = torch.ops.onednn.qlinear_prepack(rounded, None)
        self._zeros = torch.zeros(self.out_features, dtype=torch.int64)
        self._bias = None if linear.bias is None else linear.bias.detach().float()
        self._rounding = rounding
        self._after: tuple[Any, ...] = ("gelu", [], gelu) if gelu else ("none", [], "")
        self._gives, self._takes = gives, takes
        # Scale, zero and format.
        self._output = (
            (1.0, 0, dtype)
            if next_rounding is None
            else (1 / float(next_rounding.rate), next_rounding.zero, torch.uint8)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map x of shape (..., in_features) to (..., out_features)."""
        rounded = x if x.dtype is torch.uint8 else self._rounding.apply(x)
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            rounded,
            1.0,
            self._rounding.zero,
            self.weight,
            self._scales,
            self._zeros,
            self._bias,
            *self._output,
            *self._after,
        )
        if self._gives is not None:
            beside = F.linear(x, self._gives.into, self._gives.bias)
            out.beside = F.gelu(beside, approximate=self._after[2])  # type: ignore[attr-defined]
        if self._takes is not None:
            weight = self._takes.out
            out = run_steadily(
                lambda *rows: torch.ops.mkldnn._linear_pointwise.binary(*rows, weight, None, "add"),
                x.beside,  # type: ignore[attr-defined]
                out,
            )
        return out


def quantize_linear_layers(
    module: nn.Module,
    run: Callable[[], Any],
    agrees: Callable[[], bool],
    *,
    dtype: torch.dtype,
) -> bool:
    """Replace the linear layers of a model on the CPU by int8 ones, if the model stays what it is.

    `run` and `agrees` as in `replace_modules`: scales are found on the rows that `run` runs, and
    `agrees` judges the model with its other parameters in `dtype`, the format between the layers.
    """
    with torch.inference_mode():
        ranges = _find_ranges(module, run)
        gelu_after = find_consumers(
            module, run, is_producer=ranges.__contains__, is_consumer=gelu_kind
        )
        next_to = find_consumers(
            module, run, is_producer=lambda m: m in set(gelu_after.values()), is_consumer=_is_linear
        )

    def make(next_to: Mapping[nn.Module, nn.Module]) -> dict[nn.Module, nn.Module]:
        pairs = _make_pairs(ranges, gelu_after, next_to, dtype)
        new: dict[nn.Module, nn.Module] = {gelu: nn.Identity() for gelu in gelu_after.values()}
        for layer, seen in ranges.items():
            assert isinstance(layer, nn.Linear)
            gelu = gelu_after.get(layer)
            first_of = next((pair for pair in pairs if pair.first is layer), None)
            second_of = next((pair for pair in pairs if pair.second is layer), None)
            new[layer] = Int8Linear(
                layer,
                second_of.rounding if second_of else _round_by_feature(seen, dtype),
                dtype=dtype,
                gelu=None if gelu is None else gelu_kind(gelu),
                next_rounding=first_of.rounding if first_of else None,
                gives=first_of.beside if first_of else None,
                takes=second_of.beside if second_of else None,
            )
        return new

    # First with 8-bit numbers handed on, then without: something else may take them as well.
    return any(
        replace_modules(module, functools.partial(make, followed), agrees)
        for followed in (next_to, {})
    )


def _is_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    # Subclasses may compute something else.
    return type(module) is nn.Linear and not has_hooks(module)


def _find_ranges(module: nn.Module, run: Callable[[], Any]) -> dict[nn.Module, _Range]:
    """Return what goes into every linear layer that is run."""
    ranges: dict[nn.Module, _Range] = {}
    # The tensors are kept: ids must not be used again.
    takers: dict[int, tuple[Tensor, list[nn.Module]]] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not inputs or inputs[0].dim() < 2:
            return  # stays as it is
        x = inputs[0].flatten(0, -2).float()
        least, most = x.amin(0), x.amax(0)
        if (seen := ranges.get(layer)) is not None:
            least, most = torch.minimum(least, seen.least), torch.maximum(most, seen.most)
        takers.setdefault(id(inputs[0]), (inputs[0], []))[1].append(layer)
        ranges[layer] = _Range(least, most, _largest_weight(layer))

    hooks = [m.register_forward_pre_hook(note) for m in module.modules() if _is_linear(m)]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    for _, layers in takers.values():
        weight = torch.stack([_largest_weight(each) for each in layers]).amax(0)
        ranges.update({each: replace(ranges[each], weight=weight) for each in layers})
    return ranges


def _largest_weight(layer: nn.Module) -> Tensor:
    assert isinstance(layer, nn.Linear)
    return layer.weight.detach().float().abs().amax(0).clamp(min=1e-5)


@dataclass(frozen=True)
class _Pair:
    """Two layers with a GELU between them, of which the first hands 8-bit numbers to the second."""

    first: nn.Linear
    second: nn.Linear
    rounding: _Rounding
    beside: _Beside


def _make_pairs(
    ranges: Mapping[nn.Module, _Range],
    gelu_after: Mapping[nn.Module, nn.Module],
    next_to: Mapping[nn.Module, nn.Module],
    dtype: torch.dtype,
) -> list[_Pair]:
    pairs = []
    for first, gelu in gelu_after.items():
        second = next_to.get(gelu)
        # A layer that follows several would need one scale for all that comes in.
        is_only = list(next_to.values()).count(second) == 1  # type: ignore[arg-type]
        if _is_linear(first) and second is not None and _is_linear(second) and is_only:
            seen = ranges[second]
            features = seen.size.topk(min(_N_BESIDE, second.in_features // 2)).indices
            beside = _Beside(first, second, features, dtype)
            pairs.append(_Pair(first, second, _round_alike(seen, features), beside))
    return pairs


def _round_by_feature(seen: _Range, dtype: torch.dtype) -> _Rounding:
    """Return a scale for every input feature, which takes part of its size into the weights."""
    smoothing = seen.size**_MIGRATION / seen.weight ** (1 - _MIGRATION)
    rate = 127 / (smoothing * (seen.size / smoothing).max())
    return _Rounding(rate.to(dtype), 128)


def _round_alike(seen: _Range, beside: Tensor) -> _Rounding:
    """Return one scale for all input features but those that go beside."""
    least, most = seen.least.clone(), seen.most.clone()
    least[beside] = most[beside] = 0
    low, high = min(float(least.min()), 0.0), max(float(most.max()), 1e-5)
    rate = 255 / (high - low)
    return _Rounding(torch.tensor(rate), round(-low * rate))
