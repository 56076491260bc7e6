"""A transformer over token ids, as it was published.

Knows transformers' models and batches of tokens, not tokenizers nor what becomes of the states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from skembed.modules._rows import TokenBatch

__all__ = ["TokenTransformer"]


class TokenTransformer(nn.Module):
    """Maps the tokens of rows to hidden states; rows are padded and masked.

    Parameters
    ----------
    model : PreTrainedModel
        A model of transformers that gives a `last_hidden_state`.
    pad_token_id : int
        Fills padded rows.
    special_token_ids : tuple of two sequences of int
        What the tokenizer puts before and after a text.

    Attributes
    ----------
    layout : {"packed", "padded", "equal"}
        Which rows may share a batch.
    """

    layout: Literal["packed", "padded", "equal"] = "padded"

    def __init__(
        self,
        model: nn.Module,
        pad_token_id: int,
        special_token_ids: tuple[Sequence[int], Sequence[int]] = ((), ()),
    ) -> None:
        super().__init__()
        self.model: Any = model
        self.pad_token_id = pad_token_id
        self.special_token_ids = special_token_ids

    def forward(self, batch: TokenBatch) -> Tensor:
        """Return the states of all rows end to end, shape (tokens, d)."""
        lengths = torch.tensor(list(batch.rows.lengths), device=batch.ids.device)
        longest = max(batch.rows.lengths)
        is_token = torch.arange(longest, device=batch.ids.device) < lengths[:, None]
        ids = batch.ids.new_full(is_token.shape, self.pad_token_id)
        ids[is_token] = batch.ids
        hidden: Tensor = self.model(input_ids=ids, attention_mask=is_token.long()).last_hidden_state
        return hidden[is_token]
