"""Models over token ids: a transformer as published, or the user's own module.

Knows modules and batches of tokens, not tokenizers or how the states are used.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from skembed.modules._own import Features, OneAtATime
from skembed.modules._rows import TokenBatch

__all__ = ["TokenModule", "TokenTransformer"]

# What modules call their features, the most finished first.
_OUTPUT_NAMES = ("sentence_embedding", "text_embeds", "last_hidden_state", "token_embeddings")


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
    is_placed : bool
        Whether a library has put the model onto its devices and into its format, where it stays.

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
        *,
        is_placed: bool = False,
    ) -> None:
        super().__init__()
        self.model: Any = model
        self.pad_token_id = pad_token_id
        self.special_token_ids = special_token_ids
        self.is_placed = is_placed

    def forward(self, batch: TokenBatch) -> Tensor:
        """Return the states of all rows end to end, shape (tokens, d)."""
        ids, is_token = batch.padded(self.pad_token_id)
        hidden: Tensor = self.model(input_ids=ids, attention_mask=is_token.long()).last_hidden_state
        return hidden[is_token]

    def embed(self, ids: Tensor) -> Tensor:
        """Return what enters the first layer for token ids (tokens,), shape (tokens, d)."""
        states: Tensor = self.model.get_input_embeddings()(ids)
        return states

    def read(self, states: Tensor) -> Tensor:
        """Return the states of rows (rows, tokens, d) that are embedded already."""
        hidden: Tensor = self.model(inputs_embeds=states).last_hidden_state
        return hidden


class TokenModule(nn.Module):
    """Maps the tokens of rows to states or vectors by a module of the user's.

    It is called as a tokenizer's output is passed on: with `input_ids` and `attention_mask`, if its
    `forward` names them, else with the ids and, if it requires two arguments, the mask. Messages
    call it `name`; `most_finished` is what is taken where it gives vectors and states.
    """

    layout: Literal["padded", "equal"] = "equal"

    def __init__(
        self, module: nn.Module, pad_token_id: int, name: str, *, most_finished: bool = True
    ) -> None:
        super().__init__()
        names = _OUTPUT_NAMES if most_finished else _OUTPUT_NAMES[::-1]
        self.module = OneAtATime(Features(_Called(module), names, name))
        self.pad_token_id = pad_token_id

    def forward(self, batch: TokenBatch) -> Tensor:
        """Return states of all rows end to end (tokens, d), or vectors (rows, d)."""
        ids, is_token = batch.padded(self.pad_token_id)
        features = self.run(ids, is_token.long())
        return features if features.ndim == 2 else features[is_token]

    def run(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return what the module gives for padded ids."""
        features: Tensor = self.module({"input_ids": ids, "attention_mask": mask})
        return features


class _Called(nn.Module):
    """Hands a tokenizer's output to a module, as its `forward` takes it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        parameters = inspect.signature(module.forward).parameters
        kinds = [each.kind for each in parameters.values()]
        takes_all = inspect.Parameter.VAR_KEYWORD in kinds
        self.names = {"input_ids", "attention_mask"} & (
            parameters.keys() | ({"attention_mask"} if takes_all else set())
        )
        required = [
            each
            for each in parameters.values()
            if each.default is each.empty and each.kind <= each.POSITIONAL_OR_KEYWORD
        ]
        self.n_required = max(len(required), 1)

    def forward(self, tokens: dict[str, Tensor]) -> Any:
        """Return what the module gives."""
        if "input_ids" in self.names:
            return self.module(**{name: tokens[name] for name in tokens if name in self.names})
        return self.module(*list(tokens.values())[: self.n_required])
