"""Packed rows: attention over rows that lie end to end in one sequence, without padding or mask.

`transformers` lets a library register attention and mask functions by name. Under the name
`PACKED`, a model's linear layers see one long sequence and attention runs row by row: on CPUs rows
of equal length together, on CUDA a kernel for sequences of variable length. A model is switched to
it with `model.set_attn_implementation(PACKED)` and called inside `packed_rows(...)`.

Knows tensors and lengths, not what a token is.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["PACKED", "Rows", "packed_rows", "register_packed_attention"]

PACKED = "skembed_packed"

# The longest rows for which batched products in float32 attend faster than torch's fused kernel on
# a CPU, and the scores that are in the cache together. Length alone decides, so that a row is
# computed the same way in every batch. 12 heads of 32 in bfloat16, 4,096 tokens on 2 Zen 4 cores:
# 17 tokens a row 5.6 for 8.1 ms, 61 tokens 8.2 for 11.1, 128 tokens 9.8 for 13.1, 256 tokens 16.6
# for 16.8. Products in bfloat16 would take 3.4, 7.1 and 9.2 ms, but oneDNN compiles them anew for
# every number of rows and length, 2 ms and 1.4 MiB each time.
_MOST_LENGTH, _SCORES_AT_ONCE = 128, 1 << 19

_now = threading.local()


@dataclass(frozen=True)
class Rows:
    """Where the rows of a packed sequence lie.

    Parameters
    ----------
    lengths : sequence of int
        Tokens of each row, in order. Rows of equal length should be neighbours: they share one
        attention call.
    """

    lengths: Sequence[int]

    @functools.cached_property
    def groups(self) -> list[tuple[int, int, int]]:
        """Runs of equal length as (first token, rows, length)."""
        groups, start = [], 0
        for length, run in groupby(self.lengths):
            n_rows = sum(1 for _ in run)
            groups.append((start, n_rows, length))
            start += n_rows * length
        return groups

    def positions(self, device: torch.device, offset: int = 0) -> Tensor:
        """Return each token's position in its row, shape (tokens,), counted from `offset`."""
        parts = [
            torch.arange(offset, offset + length).repeat(n_rows)
            for _, n_rows, length in self.groups
        ]
        return torch.cat(parts).to(device)

    @functools.cached_property
    def boundaries(self) -> Tensor:
        """First token of each row and the end, shape (rows + 1,), int32, on the CPU."""
        ends = torch.tensor([0, *self.lengths]).cumsum(0)
        return ends.to(torch.int32)


@contextmanager
def packed_rows(rows: Rows) -> Iterator[None]:
    """Tell the packed attention of this thread where rows lie."""
    _now.rows = rows
    _now.boundaries = None
    try:
        yield
    finally:
        del _now.rows, _now.boundaries


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
    unknown = [
        name for name in ("position_bias", "softcap", "s_aux") if kwargs.get(name) is not None
    ]
    if unknown or attention_mask is not None:
        raise NotImplementedError(f"packed attention does not know {unknown or 'masks'}")
    if is_causal is None:
        is_causal = bool(getattr(module, "is_causal", False))
    run = _attend_varlen if _has_varlen(query) else _attend_by_length
    # (tokens, heads, d): how the projections lie in memory, so that slices of rows are views.
    q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))
    return run(_now.rows, q, k, v, scaling, is_causal, sliding_window).unsqueeze(0), None


def _attend_by_length(
    rows: Rows,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None,
    is_causal: bool,
    window: int | None,
) -> Tensor:
    """Attend with one call for each run of rows of equal length."""
    out = torch.empty(q.shape[0], q.shape[1], v.shape[2], dtype=q.dtype, device=q.device)
    for start, n_rows, length in rows.groups:
        here = slice(start, start + n_rows * length)
        q_here, k_here, v_here, out_here = (
            t[here].unflatten(0, (n_rows, length)).transpose(1, 2) for t in (q, k, v, out)
        )
        mask = _window_mask(length, window, is_causal, q.device)
        is_plain = mask is None and not is_causal and q.shape[1] == k.shape[1]
        if is_plain and _has_batched_products(q) and length <= _MOST_LENGTH:
            _attend_by_products(q_here, k_here, v_here, scale, out_here)
            continue
        attended = F.scaled_dot_product_attention(
            q_here,
            k_here,
            v_here,
            attn_mask=mask,
            is_causal=is_causal and mask is None,
            scale=scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        out_here.copy_(attended)
    return out


def _has_batched_products(q: Tensor) -> bool:
    """Return whether many small products are fast here: MKL has them, others loop."""
    return q.device.type == "cpu" and torch.backends.mkl.is_available()


def _attend_by_products(q: Tensor, k: Tensor, v: Tensor, scale: float | None, out: Tensor) -> None:
    """Attend with two batched matrix products, all tensors of shape (rows, heads, length, d).

    The fused kernel runs head by head; for rows this short its calls cost more than they compute.
    """
    n_heads, length, width = q.shape[1:]
    scale = width**-0.5 if scale is None else scale
    dtype = torch.float64 if q.dtype is torch.float64 else torch.float32
    n_at_once = max(1, _SCORES_AT_ONCE // (n_heads * length * length))
    for start in range(0, len(q), n_at_once):
        some = slice(start, start + n_at_once)
        # One pass over each: head by head, in the format of the products.
        q_some, k_some, v_some = (
            torch.empty(t[some].shape, dtype=dtype).copy_(t[some]).flatten(0, 1) for t in (q, k, v)
        )
        none = q_some.new_empty(1, 1, 1)
        scores = torch.baddbmm(none, q_some, k_some.transpose(1, 2), beta=0, alpha=scale)
        torch.softmax(scores, -1, out=scores)
        out_some = out[some]
        out_some.copy_(torch.bmm(scores, v_some).view(out_some.shape))


def _window_mask(
    length: int, window: int | None, is_causal: bool, device: torch.device
) -> Tensor | None:
    """Return which tokens see which, shape (length, length), or None where all do."""
    if window is None or length <= window:
        return None
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
    seen = distance.abs() < window
    return seen & (distance >= 0) if is_causal else seen


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


def _has_varlen(query: Tensor) -> bool:
    return (
        query.is_cuda
        and query.dtype in (torch.bfloat16, torch.float16)
        and _varlen_attn() is not None
    )


def _attend_varlen(
    rows: Rows,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None,
    is_causal: bool,
    window: int | None,
) -> Tensor:
    """Attend with the variable-length kernel."""
    if _now.boundaries is None:
        _now.boundaries = rows.boundaries.to(q.device, non_blocking=True)
    boundaries, longest = _now.boundaries, max(rows.lengths)
    attend = _varlen_attn()
    assert attend is not None
    left = -1 if window is None else window - 1
    attended: Tensor = attend(
        q.contiguous(),
        k.contiguous(),
        v.contiguous(),
        boundaries,
        boundaries,
        longest,
        longest,
        scale=scale,
        window_size=(left, 0 if is_causal else left),
        enable_gqa=q.shape[1] != k.shape[1],
        num_splits=1,  # a row's result must not depend on the longest row of its batch
    )
    return attended
