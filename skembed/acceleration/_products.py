"""Attention by batched matrix products: on CPUs, for rows that are not very long.

torch's fused kernel goes head by head; for rows of up to some hundred tokens its calls cost more
than they compute. Here rows are padded to a few lengths, padding is masked, and many rows
and all their heads share one product. A row's own length alone decides how it is computed, so that
its vector does not depend on its neighbours.

12 heads of 32 in bfloat16, 4,096 tokens on 2 Zen 5 cores, fused kernel and products: 32 tokens a
row 3.9 and 1.7 ms, 64 tokens 6.1 and 2.6, 128 tokens 10.6 and 4.1, 512 tokens 24 and 12.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skembed.acceleration._processor import is_bfloat16_faster_on_cpu

__all__ = ["ProductPlan", "most_length"]

_STEP = 16
"""Rows are padded to multiples: softmax meets whole vectors, and products few shapes."""

_FEW = 8
"""Up to so many tokens a row is not padded: copying more takes longer than odd lengths do."""

_NUMBERS_AT_ONCE = 1 << 20
"""Scores of all heads, or features of their queries if those are more. They stay in the cache from
the first product to the second, unless one row alone has more."""

_LEAST_WIDTH = 16
"""Of heads: MKL computes narrower and odd ones otherwise in every batch."""

_MOST_LENGTH = {torch.float32: 128, torch.bfloat16: 512}
"""Longest rows for which products are faster than the fused kernel, by the products' format."""

_Index = NDArray[np.int64]


def most_length(q: Tensor, k: Tensor) -> int:
    """Return the most tokens of a row that products attend faster; 0 if they never do.

    Shapes: (tokens, heads, d).
    """
    if not torch.backends.mkl.is_available() or q.shape[-1] < _LEAST_WIDTH:
        return 0  # other libraries loop over small products
    if q.dtype is torch.bfloat16 and _has_bfloat16():
        return _MOST_LENGTH[torch.bfloat16]
    # A key for each query's head costs more in float32 than it gains.
    return _MOST_LENGTH[torch.float32] if q.shape[1] == k.shape[1] else 0


_has_bfloat16 = functools.cache(is_bfloat16_faster_on_cpu)


def _format(length: int, dtype: torch.dtype, n_heads: int) -> tuple[int, torch.dtype]:
    """Return to how many tokens a row is padded, and what its products run in."""
    if dtype is torch.bfloat16 and length > _STEP and _has_bfloat16():
        # The softmax of bfloat16 is three times slower off multiples of 32.
        return -(-length // (2 * _STEP)) * 2 * _STEP, torch.bfloat16
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    # One product alone is computed otherwise than many, unless it is padded.
    is_odd = length <= _FEW and n_heads > 1
    return length if is_odd else -(-length // _STEP) * _STEP, wide


@dataclass(frozen=True)
class _Block:
    """Rows that share their products."""

    tokens: _Index  # (rows, length): which token stands where; the last one again as padding
    key_mask: Tensor | None  # (rows * heads, 1, length): added to the scores of each key
    pair_mask: Tensor | None  # (length, length): added to the scores of each query and key
    dtype: torch.dtype  # of the products
    slots: slice  # in the plan's output, as rows of one head of one token


class ProductPlan:
    """How rows are attended, worked out once for all the layers of a model.

    Rows of like length should be neighbours. `seen` takes a length and returns which tokens see
    which, booleans of shape (length, length), or None where all see all.
    """

    def __init__(
        self,
        starts: _Index,
        lengths: _Index,
        n_tokens: int,
        *,
        n_heads: int,
        width: int,
        dtype: torch.dtype,
        seen: Callable[[int], Tensor | None],
    ) -> None:
        self._n_heads = n_heads
        self._blocks: list[_Block] = []
        self._indices: dict[tuple[int, ...], list[Tensor]] = {}
        n_slots, heads = 0, np.arange(n_heads)
        back = np.zeros((n_tokens, n_heads), dtype=np.int64)
        formats = [_format(length, dtype, n_heads) for length in lengths.tolist()]
        for rows in _chunks(formats, n_heads, width):
            length, products = formats[rows.start]
            own = lengths[rows][:, None]
            place = np.arange(length)
            is_own = place < own
            at = starts[rows][:, None] + np.minimum(place, own - 1)
            end = n_slots + at.size * n_heads
            pairs = seen(length)
            # Where tokens see none that follow, they do not see what was added.
            hides_added = is_own.all() or (pairs is not None and not pairs.triu(1).any())
            keys = None if hides_added else torch.from_numpy(is_own.repeat(n_heads, 0))[:, None]
            masks = (_mask(keys, products), _mask(pairs, products))
            self._blocks.append(_Block(at, *masks, products, slice(n_slots, end)))
            # Slots are ordered by row, head, place.
            row = np.arange(len(at))[:, None]
            slot = n_slots + row * n_heads * length + place
            back[at[is_own]] = slot[is_own][:, None] + heads * length
            n_slots = end
        self._n_slots, self._back = n_slots, torch.from_numpy(back.ravel())

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        """Attend; all shapes are (tokens of the sequence, heads, d).

        What comes out for tokens of no row here is some other token's.
        """
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        n_features = v.shape[-1]
        slots = q.new_empty(self._n_slots, n_features)
        parts = zip(self._blocks, *(self._gather(t) for t in (q, k, v)), strict=True)
        for block, q_here, k_here, v_here in parts:
            masks = [mask for mask in (block.key_mask, block.pair_mask) if mask is not None]
            scores = torch.baddbmm(
                masks[0] if masks else q_here.new_empty(1),
                q_here,
                k_here.transpose(1, 2),
                beta=1 if masks else 0,
                alpha=scale,
            )
            for mask in masks[1:]:
                scores += mask
            torch.softmax(scores, -1, out=scores)
            out = slots[block.slots].view(v_here.shape)
            if block.dtype is q.dtype:
                torch.bmm(scores, v_here, out=out)
            else:
                out.copy_(torch.bmm(scores, v_here))
        return slots.index_select(0, self._back).view(-1, self._n_heads, n_features)

    def _gather(self, t: Tensor) -> Iterator[Tensor]:
        """Yield for each block what it needs of a tensor, shape (rows * heads, length, d)."""
        n_tokens, n_heads, width = t.shape
        if t.stride(2) != 1 or t.stride(0) % width or t.stride(1) % width:
            t = t.contiguous()
        # The memory as rows of one head of one token: one pass gathers and transposes.
        token, head = t.stride(0) // width, t.stride(1) // width
        n_rows = (n_tokens - 1) * token + (n_heads - 1) * head + 1
        flat = t.as_strided((n_rows, width), (width, 1))
        for block, index in zip(self._blocks, self._index(token, head, n_heads), strict=True):
            some = flat.index_select(0, index).to(block.dtype)
            yield some.view(-1, block.tokens.shape[1], width)

    def _index(self, token: int, head: int, n_heads: int) -> list[Tensor]:
        """Return where the blocks' rows lie in memory of these strides."""
        key = (token, head, n_heads)
        if key not in self._indices:
            # Several heads of the query may share one of the key.
            heads = np.arange(self._n_heads) * n_heads // self._n_heads * head
            self._indices[key] = [
                torch.from_numpy((block.tokens[:, None] * token + heads[:, None]).ravel())
                for block in self._blocks
            ]
        return self._indices[key]


def _chunks(
    formats: Sequence[tuple[int, torch.dtype]], n_heads: int, width: int
) -> Iterator[slice]:
    """Yield runs of rows of one format, not more at once than the cache takes."""
    start = 0
    for (length, dtype), run in groupby(formats):
        end = start + sum(1 for _ in run)
        most = max(1, _NUMBERS_AT_ONCE // (n_heads * length * max(length, width)))
        while start < end:
            n_rows = min(most, end - start)
            if dtype is torch.bfloat16:
                # oneDNN compiles a product for every shape, 2 ms and 1 MiB: powers of two are few.
                n_rows = 1 << (n_rows.bit_length() - 1)
            yield slice(start, start + n_rows)
            start += n_rows


def _mask(is_seen: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return what to add to the scores, so that only what is seen counts."""
    if is_seen is None:
        return None
    return torch.zeros(is_seen.shape, dtype=dtype).masked_fill_(~is_seen, -torch.inf)
