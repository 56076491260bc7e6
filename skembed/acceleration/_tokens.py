"""The fastest way to run a transformer over tokens that is proven to give the same hidden states.

A few rows of random tokens are run in every candidate way, and their states are compared: layouts
for rows of different lengths, packed linear layers, linear layers in int8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from skembed.acceleration._attention import PACKED, packed_rows, register_packed_attention
from skembed.acceleration._int8 import quantize_linear_layers
from skembed.acceleration._linear import pack_linear_layers, steady_size
from skembed.acceleration._passes import are_alike, convert
from skembed.acceleration._processor import is_bfloat16_faster_on_cpu, is_onednn_faster_on_cpu
from skembed.exceptions import UnsupportedModelError
from skembed.modules import Rows, TokenBatch, TokenTransformer
from skembed.weights import available_memory

__all__ = ["FastTransformer", "accelerate_tokens", "pack_for_training"]

_LEAST_COSINE_IN_INT8 = 0.95
_PROBE_LENGTHS = (11, 7, 7, 3)

_ATTENDED_LENGTH = 96
"""Of the row on which attention with rounded scores is compared with the exact one."""

_CALIBRATION_LENGTHS = tuple(range(64, 2, -3))
"""Some 700 tokens: on MiniLM the scales found on them lose as little as those of real texts."""

_JUDGED_LENGTHS = (96, 47, 33, 18, 11, 5)

_Ids = NDArray[np.int64]


class FastTransformer(TokenTransformer):
    """A frozen transformer, in the layout that is proven for it.

    `position_offset` is the number of the first position in packed rows. `is_steady`: packed
    batches are padded to a few sizes, for which kernels are compiled. `is_exact`: packed attention
    keeps its scores in float32. `is_trained`: gradients pass through packed attention.
    """

    is_trained = False

    def __init__(
        self,
        plain: TokenTransformer,
        layout: Literal["packed", "padded", "equal"],
        position_offset: int = 0,
    ) -> None:
        super().__init__(
            *(plain.model, plain.pad_token_id, plain.special_token_ids),
            is_placed=plain.is_placed,
        )
        self.layout = layout
        self.position_offset = position_offset
        self.is_steady = self.is_exact = False

    @property
    def token_table(self) -> nn.Module | None:
        """What looks up the ids of packed batches, and no others."""
        if self.layout != "packed":
            return None
        try:
            found: nn.Module = self.model.get_input_embeddings()
        except NotImplementedError:
            return None
        return found

    def forward(self, batch: TokenBatch) -> Tensor:
        """Return the states of all rows end to end, shape (tokens, d)."""
        if self.layout != "packed":
            return super().forward(batch)
        n_more = self._n_more(batch.rows.n_tokens)
        ids = batch.ids
        if n_more:
            # Not the padding token: some models name one that they do not have.
            ids = torch.cat([ids, ids[-1:].expand(n_more)])
        return self._run(batch.rows, batch.positions, n_more, input_ids=ids[None])

    def read(self, states: Tensor) -> Tensor:
        """Return the states of rows (rows, tokens, d) that are embedded already."""
        if self.layout != "packed":
            return super().read(states)
        n_rows, length = states.shape[:2]
        n_more = self._n_more(n_rows * length)
        flat = F.pad(states.flatten(0, 1), (0, 0, 0, n_more))
        positions = torch.arange(length, device=states.device).repeat(n_rows)
        hidden = self._run(Rows([length] * n_rows), positions, n_more, inputs_embeds=flat[None])
        rows: Tensor = hidden.unflatten(0, (n_rows, length))
        return rows

    def _n_more(self, n_tokens: int) -> int:
        """Return how many tokens are put after so many."""
        is_steady = self.is_steady
        if (
            self.is_trained
            and self.model.device.type == "cpu"
            and (torch.is_autocast_enabled("cpu") or is_onednn_faster_on_cpu())
        ):
            # Not where states of frozen blocks are kept, which are those of rows alone.
            is_steady = not any("stays_frozen" in vars(each) for each in self.modules())
        return steady_size(n_tokens) - n_tokens if is_steady else 0

    def _run(self, rows: Rows, positions: Tensor, n_more: int, **packed: Tensor) -> Tensor:
        """Return the states of packed rows, without those of the tokens put after them."""
        positions = F.pad(positions, (0, n_more)) + self.position_offset
        rows = replace(rows, n_more=n_more, is_exact=self.is_exact)
        with packed_rows(rows, is_trained=self.is_trained):
            hidden: Tensor = self.model(position_ids=positions[None], **packed).last_hidden_state
        own: Tensor = hidden[0, : rows.n_tokens]
        return own


def accelerate_tokens(
    core: TokenTransformer, *, device: torch.device, dtype: torch.dtype
) -> FastTransformer:
    """Return the transformer on its device, as fast as is proven to change nothing.

    The layout is proven, not assumed: a few rows of different lengths run together and alone, and
    the fastest layout whose hidden states agree is taken, in the format that the weights came in,
    before they are converted.
    """
    if core.is_placed:
        return _find_layout(core, device, core.model.config._attn_implementation)
    is_int8 = dtype is torch.int8
    if is_int8:  # of all that is no linear layer
        dtype = torch.bfloat16 if is_bfloat16_faster_on_cpu() else torch.float32
    core = core.to(device)
    loaded_as = next(core.parameters()).dtype
    implementation: str = core.model.config._attn_implementation
    fast = _find_layout(core, device, implementation)
    if is_int8:
        fast.is_steady = True
        _quantize_layers(fast, dtype)
    convert(fast, dtype)
    if fast.layout == "packed" and device.type == "cuda" and dtype is not loaded_as:
        # Another kernel than the one just proven.
        fast = _find_layout(core, device, implementation)
    if fast.layout == "packed" and device.type == "cpu" and dtype is torch.bfloat16:
        _choose_attention(fast)
    if device.type == "cpu" and not is_int8 and _has_room_for_copy(fast):
        fast.is_steady = True
        fast.is_steady = _pack_layers(fast)
    return fast


@torch.no_grad()
def pack_for_training(core: TokenTransformer, *, device: torch.device) -> TokenTransformer:
    """Return a transformer that can be trained, in the fastest layout that is proven for it.

    It has the weights of `core` under their names, in its mode.
    """
    is_training = core.training
    fast = _find_layout(
        core.eval(), device, core.model.config._attn_implementation, is_trained=True
    )
    return fast.train(is_training)


def _find_layout(
    core: TokenTransformer, device: torch.device, implementation: str, *, is_trained: bool = False
) -> FastTransformer:
    """Return the fastest layout whose hidden states are those of each row alone.

    `implementation` is the attention that transformers chose for the model. `is_trained`: gradients
    are to pass.
    """
    model = core.model
    model.set_attn_implementation(implementation)
    sequences = _probe_sequences(core)
    alone = FastTransformer(core, "equal")
    batch = TokenBatch.of(sequences).to(device)
    expected = torch.cat([alone(TokenBatch.of([ids]).to(device)) for ids in sequences])
    # Packed attention knows windows, not chunks, which only rows longer than one would show.
    is_chunked = getattr(model.config.get_text_config(), "attention_chunk_size", None)
    if getattr(model, "_supports_attention_backend", False) and not is_chunked:
        register_packed_attention()
        model.set_attn_implementation(PACKED)
        # RoBERTa and its kin number positions from the padding token's id + 1.
        for offset in (0, core.pad_token_id + 1):
            candidate = FastTransformer(core, "packed", offset)
            candidate.is_trained = is_trained
            try:
                if are_alike(candidate(batch), expected):
                    return candidate
            except (NotImplementedError, RuntimeError, IndexError, TypeError, ValueError):
                continue  # this architecture cannot be packed: that is what the probe is for
        model.set_attn_implementation(implementation)
    padded = FastTransformer(core, "padded")
    return padded if are_alike(padded(batch), expected) else alone


def _choose_attention(fast: FastTransformer) -> None:
    """Keep attention's scores in float32 where rounding them loses too much."""
    lengths = (min(_ATTENDED_LENGTH, _n_positions(fast) - 2),)
    batch = TokenBatch.of(_random_sequences(fast, lengths))
    rounded = fast(batch)
    fast.is_exact = True
    fast.is_exact = not are_alike(rounded, fast(batch))


def _has_room_for_copy(fast: FastTransformer) -> bool:
    """Return whether the weights fit into memory twice: they are laid out anew beside the old."""
    room = available_memory()
    return room is None or room > sum(each.nbytes for each in fast.parameters())


def _pack_layers(fast: FastTransformer) -> bool:
    """Speed up the linear layers, if the hidden states stay what they are; return whether so."""
    sequences = _probe_sequences(fast)
    batch = TokenBatch.of(sequences if fast.layout != "equal" else sequences[:1])
    expected = fast(batch)
    return pack_linear_layers(fast.model, lambda: are_alike(fast(batch), expected))


def _quantize_layers(fast: FastTransformer, dtype: torch.dtype) -> None:
    """Put int8 layers in the place of the linear ones; refuse a model that loses too much."""
    cosines: list[float] = []
    before, after = (np.array(ids, dtype=np.int64) for ids in fast.special_token_ids)
    # RoBERTa and its kin have two positions that no token takes.
    room = _n_positions(fast) - len(before) - len(after) - 2

    def rows(lengths: Sequence[int], seed: int) -> list[_Ids]:
        fitting = sorted({max(1, min(length, room)) for length in lengths}, reverse=True)
        ids = _random_sequences(fast, fitting, seed)
        return [np.concatenate([before, row, after]) for row in ids]

    def run(sequences: list[_Ids]) -> list[Tensor]:
        # The lengths all differ: where rows of one length share a batch, each is alone.
        groups = [sequences] if fast.layout != "equal" else [[ids] for ids in sequences]
        states = torch.cat([fast(TokenBatch.of(group)) for group in groups])
        return list(states.float().split([len(ids) for ids in sequences]))

    def agrees() -> bool:
        convert(fast, dtype)
        found = run(judged)
        cosine = nn.functional.cosine_similarity
        of_tokens = cosine(torch.cat(found), torch.cat(expected)).mean()
        of_rows = [
            cosine(a.mean(0), b.mean(0), dim=0) for a, b in zip(found, expected, strict=True)
        ]
        cosines.append(float(torch.stack([of_tokens, *of_rows]).min()))
        return cosines[-1] >= _LEAST_COSINE_IN_INT8

    # Other rows than those that the scales are found on.
    calibration, judged = rows(_CALIBRATION_LENGTHS, seed=0), rows(_JUDGED_LENGTHS, seed=1)
    expected = run(judged)
    if not quantize_linear_layers(fast.model, lambda: run(calibration), agrees, dtype=dtype):
        why = "none of its layers can be replaced"
        if cosines:
            why = (
                f"its states have a cosine of {max(cosines):.3f} to exact ones, where "
                f"{_LEAST_COSINE_IN_INT8} is the least"
            )
        raise UnsupportedModelError(f"This model cannot run in int8: {why}. Use dtype='auto'.")


def _probe_sequences(core: TokenTransformer) -> list[_Ids]:
    """Return token ids of a few rows, one longer than the attention's window if it has one."""
    window = getattr(core.model.config, "sliding_window", None) or 0
    limit = _n_positions(core)
    lengths = [min(int(window) + 5, limit)] if 0 < window < limit else []
    return _random_sequences(core, (*lengths, *_PROBE_LENGTHS))


def _n_positions(core: TokenTransformer) -> int:
    return getattr(core.model.config, "max_position_embeddings", None) or 512


def _random_sequences(core: TokenTransformer, lengths: Sequence[int], seed: int = 0) -> list[_Ids]:
    """Return rows of random token ids, always the same, without the padding token."""
    generator = torch.Generator().manual_seed(seed)
    n_tokens = core.model.config.get_text_config().vocab_size
    sequences = []
    for length in lengths:
        ids = torch.randint(0, n_tokens, (length,), generator=generator)
        ids[ids == core.pad_token_id] = (core.pad_token_id + 1) % n_tokens
        sequences.append(ids.numpy())
    return sequences
