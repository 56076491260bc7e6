"""WavLM's attention, biased by the distance between frames, within each of many clips."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skembed.modules import Rows

__all__ = ["PositionBias", "RelativeAttention"]


class PositionBias(nn.Module):
    """WavLM's bias of attention by the distance between frames; the first layer has the table."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.table = attention.rel_attn_embed
        self._bucket = attention._relative_positions_bucket

    def forward(self, rows: Rows) -> list[tuple[slice, int, Tensor]]:
        """Return tokens, rows and bias (heads, length, length) of each run of equal length."""
        groups = []
        for start, n_rows, length in rows.groups:
            distances = torch.arange(1 - length, length, device=self.table.weight.device)
            by_distance = self.table(self._bucket(distances)).t()
            # Query i sees from distance -i on.
            bias = by_distance.contiguous().unfold(1, length, 1).flip(1)
            groups.append((slice(start, start + n_rows * length), n_rows, bias))
        return groups


class RelativeAttention(nn.Module):
    """WavLM's attention within each clip, with its position bias gated by each frame."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.q_proj, self.k_proj = attention.q_proj, attention.k_proj
        self.v_proj, self.out_proj = attention.v_proj, attention.out_proj
        self.n_heads = int(attention.num_heads)
        # The reference adds up the linear layer's outputs by fours.
        linear = attention.gru_rel_pos_linear
        self.gate_weight = nn.Parameter(linear.weight.detach().unflatten(0, (2, 4)).sum(1), False)
        self.gate_bias = nn.Parameter(linear.bias.detach().unflatten(0, (2, 4)).sum(1), False)
        self.gate_scale = nn.Parameter(attention.gru_rel_pos_const.detach().flatten(), False)

    def forward(
        self, states: Tensor, position_bias: Any = None, **kwargs: Any
    ) -> tuple[Tensor, None, Any]:
        """Attend; `position_bias` is what `PositionBias` gives."""
        by_head = states[0].unflatten(1, (self.n_heads, -1))
        gates = F.linear(by_head, self.gate_weight, self.gate_bias).sigmoid()
        gate = gates[..., 0] * (gates[..., 1] * self.gate_scale - 1.0) + 2.0
        q, k, v = (
            project(states)[0].unflatten(1, (self.n_heads, -1))
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = torch.zeros_like(q)
        for here, n_rows, bias in position_bias:
            shape = (n_rows, bias.shape[1])
            q_here, k_here, v_here, out_here = (
                t[here].unflatten(0, shape).transpose(1, 2) for t in (q, k, v, out)
            )
            mask = gate[here].unflatten(0, shape).transpose(1, 2)[..., None] * bias
            out_here.copy_(F.scaled_dot_product_attention(q_here, k_here, v_here, mask))
        return self.out_proj(out.flatten(1)[None]), None, position_bias
