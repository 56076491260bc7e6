"""Packed rows: attention over rows that lie end to end in one sequence, without padding or mask.

`transformers` lets a library register attention and mask functions by name. Under the name
`PACKED`, a model's linear layers see one long sequence and attention runs row by row: on CPUs rows
of equal length together, on CUDA a kernel for sequences of variable length; where gradients are
wanted, rows of like length. A model is switched to it with `model.set_attn_implementation(PACKED)`
and called inside `packed_rows(...)`.

Knows tensors and lengths, not what a token is.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from skembed.acceleration._padded_attention import attend_in_buckets
from skembed.acceleration._products import ProductPlan, most_length
from skembed.modules import Rows

__all__ = ["PACKED", "packed_rows", "register_packed_attention"]

PACKED = "skembed_packed"

_now = threading.local()


@contextmanager
def packed_rows(rows: Rows, *, is_trained: bool = False) -> Iterator[None]:
    """Tell the packed attention of this thread where rows lie, and whether gradients are wanted."""
    _now.rows, _now.is_trained = rows, is_trained
    _now.boundaries = {}
    try:
        yield
    finally:
        del _now.rows, _now.is_trained, _now.boundaries


@functools.cache
def register_packed_attention() -> None:
    """Make `PACKED` known to transformers."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(PACKED, _packed_attention)
    AttentionMaskInterface.register(PACKED, _no_mask)


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None


def _packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend within each row.

    Shapes: query (1, heads, tokens, d), key and value (1, key heads, tokens, d); returns
    (1, tokens, heads, d).
    """
    unknown = [name for name in ("position_bias", "s_aux") if kwargs.get(name) is not None]
    if unknown or attention_mask is not None:
        raise NotImplementedError(f"packed attention does not know {unknown or 'masks'}")
    if is_causal is None:
        is_causal = bool(getattr(module, "is_causal", False))
    how = _How(scaling, is_causal, sliding_window, kwargs.get("softcap"))
    if how.softcap is not None and dropout:
        raise NotImplementedError("packed attention has no dropout after a soft cap")
    is_half = query.dtype in (torch.bfloat16, torch.float16)
    run: Callable[..., Tensor] = _attend_by_length
    if how.softcap is not None:
        run = _attend_capped
    elif query.is_cuda and is_half and not dropout and _varlen_attn():
        run = _attend_varlen
    elif _now.is_trained:
        run = partial(_attend_in_buckets, dropout=dropout)
    elif query.device.type == "cpu":
        run = _attend_on_cpu
    # (tokens, heads, d): how the projections lie in memory, so that slices of rows are views.
    q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))
    return run(_now.rows, q, k, v, how).unsqueeze(0), None


@dataclass(frozen=True)
class _How:
    scale: float | None
    is_causal: bool
    window: int | None
    softcap: float | None = None


def _attend_in_buckets(
    rows: Rows, q: Tensor, k: Tensor, v: Tensor, how: _How, dropout: float
) -> Tensor:
    """Attend so that gradients pass."""
    return attend_in_buckets(
        *(rows, q, k, v),
        scale=how.scale,
        is_causal=how.is_causal,
        window=how.window,
        dropout=dropout,
    )


def _attend_on_cpu(rows: Rows, q: Tensor, k: Tensor, v: Tensor, how: _How) -> Tensor:
    """Attend with products where they are faster, else with one call for each length."""
    most = 0 if rows.is_exact and q.dtype is torch.bfloat16 else most_length(q, k)
    key = (most, *q.shape[1:], q.dtype, how)
    if key not in rows.plans:
        rows.plans[key] = _plan_products(rows, q, most, how)
    plan = rows.plans[key]
    if plan is None:
        return _attend_by_length(rows, q, k, v, how)
    out: Tensor = plan.attend(q, k, v, how.scale)
    if max(rows.lengths) > most:
        _attend_by_length(rows, q, k, v, how, out, more_than=most)
    return out


def _plan_products(rows: Rows, q: Tensor, most: int, how: _How) -> ProductPlan | None:
    """Plan products for the rows of at most so many tokens; None if there are none."""
    lengths = np.array(rows.lengths)
    few = lengths <= most
    if not few.any():
        return None

    def seen(length: int) -> Tensor | None:
        mask = _window_mask(length, how, q.device)
        if mask is None and how.is_causal:
            return torch.ones(length, length, dtype=torch.bool).tril_()
        return mask

    return ProductPlan(
        rows.starts[:-1][few],
        lengths[few],
        len(q),
        n_heads=q.shape[1],
        width=q.shape[2],
        dtype=q.dtype,
        seen=seen,
    )


def _attend_by_length(
    rows: Rows,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    how: _How,
    out: Tensor | None = None,
    more_than: int = 0,
) -> Tensor:
    """Attend with one call for each run of rows of equal length that have `more_than` tokens."""
    if out is None:
        out = q.new_zeros(q.shape[0], q.shape[1], v.shape[2])
    for start, n_rows, length in rows.groups:
        if length <= more_than:
            continue
        here = slice(start, start + n_rows * length)
        q_here, k_here, v_here, out_here = (
            t[here].unflatten(0, (n_rows, length)).transpose(1, 2) for t in (q, k, v, out)
        )
        mask = _window_mask(length, how, q.device)
        attended = F.scaled_dot_product_attention(
            q_here,
            k_here,
            v_here,
            attn_mask=mask,
            is_causal=how.is_causal and mask is None,
            scale=how.scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        out_here.copy_(attended)
    return out


def _attend_capped(rows: Rows, q: Tensor, k: Tensor, v: Tensor, how: _How) -> Tensor:
    """Attend with scores that a tanh keeps below the soft cap (Gemma 2), which no kernel knows."""
    assert how.softcap is not None
    attended = []
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    scale = q.shape[2] ** -0.5 if how.scale is None else how.scale
    for start, n_rows, length in rows.groups:
        here = slice(start, start + n_rows * length)
        own = [t[here].unflatten(0, (n_rows, length)).transpose(1, 2) for t in (q, k, v)]
        scores = torch.tanh(own[0] @ own[1].transpose(2, 3) * (scale / how.softcap)) * how.softcap
        seen = _window_mask(length, how, q.device)
        if seen is None and how.is_causal:
            seen = torch.ones(length, length, dtype=torch.bool, device=q.device).tril_()
        if seen is not None:
            scores = scores.masked_fill(~seen, -torch.inf)
        shares = scores.softmax(-1, dtype=torch.float32).to(q.dtype)
        attended.append((shares @ own[2]).transpose(1, 2).flatten(0, 1))
    out = torch.cat(attended)
    return F.pad(out, (0, 0, 0, 0, 0, len(q) - len(out)))


def _window_mask(length: int, how: _How, device: torch.device) -> Tensor | None:
    """Return which tokens see which, shape (length, length), or None where no window hides any."""
    if how.window is None or length <= how.window:
        return None
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
    seen = distance.abs() < how.window
    return seen & (distance >= 0) if how.is_causal else seen


@functools.cache
def _varlen_attn() -> Callable[..., Any] | None:
    """Return torch's attention for sequences of variable length, if this torch has it."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = inspect.signature(varlen_attn).parameters
    wanted = {"scale", "window_size", "enable_gqa", "num_splits"}
    return varlen_attn if wanted <= set(known) else None


def _attend_varlen(rows: Rows, q: Tensor, k: Tensor, v: Tensor, how: _How) -> Tensor:
    """Attend with the variable-length kernel."""
    if q.device not in _now.boundaries:  # a model may lie on several
        _now.boundaries[q.device] = rows.boundaries.to(q.device, non_blocking=True)
    boundaries, longest = _now.boundaries[q.device], max(rows.lengths)
    attend = _varlen_attn()
    assert attend is not None
    left = -1 if how.window is None else how.window - 1
    attended: Tensor = attend(
        q.contiguous(),
        k.contiguous(),
        v.contiguous(),
        boundaries,
        boundaries,
        longest,
        longest,
        scale=how.scale,
        window_size=(left, 0 if how.is_causal else left),
        enable_gqa=q.shape[1] != k.shape[1],
        num_splits=1,  # a row's result must not depend on the longest row of its batch
    )
    return attended
