"""The fastest way to run a transformer that is proven to give the same hidden states.

A few rows of random tokens run in every way that is tried, and their states are compared: layouts
of rows of different length, packed linear layers, linear layers in int8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skembed.engine import (
    PACKED,
    Rows,
    are_alike,
    convert,
    pack_linear_layers,
    packed_rows,
    quantize_linear_layers,
    register_packed_attention,
    steady_size,
)
from skembed.exceptions import UnsupportedModelError

__all__ = [
    "TextTransformer",
    "choose_attention",
    "find_layout",
    "pack_layers",
    "quantize_layers",
]

_LEAST_COSINE_IN_INT8 = 0.95
_PROBE_LENGTHS = (11, 7, 7, 3)

_ATTENDED_LENGTH = 96
"""Of the row on which attention with rounded scores is compared with the exact one."""

_CALIBRATION_LENGTHS = tuple(range(64, 2, -3))
"""Some 700 tokens: on MiniLM the scales found on them lose as little as those of real texts."""

_JUDGED_LENGTHS = (96, 47, 33, 18, 11, 5)


@dataclass(frozen=True)
class TextTransformer:
    """A loaded transformer.

    Parameters
    ----------
    module : Module
        The model, in evaluation mode, on its device.
    layout : {"packed", "padded", "equal"}
        How rows of different length share a batch.
    position_offset : int
        Number of the first position, for packed rows.
    pad_token_id : int
        Fills padded rows.
    is_steady : bool
        Whether packed batches are filled up to a few sizes, for which kernels are compiled.
    is_exact : bool
        Whether packed attention keeps its scores in float32.
    projection : Module or None
        What puts a text's pooled state into the space shared with pictures, in float32.
    """

    module: nn.Module
    layout: Literal["packed", "padded", "equal"]
    position_offset: int = 0
    pad_token_id: int = 0
    is_steady: bool = False
    is_exact: bool = False
    projection: nn.Module | None = None

    def collate(
        self, sequences: Sequence[NDArray[np.int64]], device: torch.device
    ) -> dict[str, Any]:
        """Assemble token ids, longest first, into the model's arguments (and their rows)."""
        rows = Rows([len(ids) for ids in sequences], is_exact=self.is_exact)
        if self.layout == "packed":
            if self.is_steady:
                rows = replace(rows, n_more=steady_size(rows.n_tokens) - rows.n_tokens)
            # Not the padding token: some models name one that they do not have.
            more = np.repeat(sequences[-1][:1], rows.n_more)
            ids = torch.from_numpy(np.concatenate([*sequences, more]))
            positions = torch.from_numpy(rows.positions(self.position_offset))
            batch = {"input_ids": ids[None], "position_ids": positions[None]}
        else:
            ids = torch.full((len(sequences), max(rows.lengths)), self.pad_token_id)
            mask = torch.zeros_like(ids)
            for row, sequence in enumerate(sequences):
                ids[row, : len(sequence)] = torch.from_numpy(sequence)
                mask[row, : len(sequence)] = 1
            batch = {"input_ids": ids, "attention_mask": mask}
        if device.type == "cuda":
            batch = {name: t.pin_memory() for name, t in batch.items()}
        moved: dict[str, Any] = {name: t.to(device, non_blocking=True) for name, t in batch.items()}
        return {**moved, "rows": rows}

    def hidden(self, batch: dict[str, Any]) -> Tensor:
        """Run the model; return hidden states end to end, shape (tokens, d)."""
        arguments = {name: batch[name] for name in batch if name != "rows"}
        if self.layout == "packed":
            with packed_rows(batch["rows"]):
                hidden: Tensor = self.module(**arguments).last_hidden_state
            return hidden[0, : batch["rows"].n_tokens]
        hidden = self.module(**arguments).last_hidden_state
        mask = arguments["attention_mask"]
        if self.layout == "equal":
            return hidden.flatten(0, 1)
        return hidden[mask.bool()]

    def project(self, pooled: Tensor) -> Tensor:
        """Map pooled states (rows, d) to the space shared with pictures."""
        assert self.projection is not None
        projected: Tensor = self.projection(pooled)
        return projected


@torch.inference_mode()
def choose_attention(transformer: TextTransformer, device: torch.device) -> TextTransformer:
    """Return the transformer with the fastest packed attention that is near enough to the exact."""
    exact = replace(transformer, is_exact=True)
    lengths = (min(_ATTENDED_LENGTH, _n_positions(transformer.module) - 2),)
    sequences = _random_sequences(transformer.module, lengths, transformer.pad_token_id)
    states = [each.hidden(each.collate(sequences, device)) for each in (transformer, exact)]
    return transformer if are_alike(*states) else exact


@torch.inference_mode()
def pack_layers(transformer: TextTransformer, device: torch.device) -> bool:
    """Speed up the linear layers, if the hidden states stay what they are; return whether so."""
    sequences = _probe_sequences(transformer.module, transformer.pad_token_id)
    by_length = sequences if transformer.layout != "equal" else sequences[:1]

    def run() -> Tensor:
        return transformer.hidden(transformer.collate(by_length, device))

    expected = run()
    return pack_linear_layers(transformer.module, run, lambda: are_alike(run(), expected))


@torch.inference_mode()
def quantize_layers(
    transformer: TextTransformer,
    device: torch.device,
    dtype: torch.dtype,
    special_token_ids: tuple[Sequence[int], Sequence[int]],
) -> None:
    """Put int8 layers in the place of the linear ones.

    Raises
    ------
    UnsupportedModelError
        If the hidden states lose too much, or no layer could be replaced.
    """
    module: Any = transformer.module
    cosines: list[float] = []
    before, after = (np.array(ids, dtype=np.int64) for ids in special_token_ids)
    # RoBERTa and its kin have two positions that no token takes.
    room = _n_positions(module) - len(before) - len(after) - 2

    def rows(lengths: Sequence[int], seed: int) -> list[NDArray[np.int64]]:
        fitting = sorted({max(1, min(length, room)) for length in lengths}, reverse=True)
        ids = _random_sequences(module, fitting, transformer.pad_token_id, seed)
        return [np.concatenate([before, row, after]) for row in ids]

    def run(sequences: list[NDArray[np.int64]]) -> list[Tensor]:
        # The lengths all differ: where rows of one length share a batch, each is alone.
        groups = [sequences] if transformer.layout != "equal" else [[ids] for ids in sequences]
        states = [transformer.hidden(transformer.collate(group, device)) for group in groups]
        return list(torch.cat(states).float().split([len(ids) for ids in sequences]))

    def agrees() -> bool:
        convert(module, dtype)
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
    if not quantize_linear_layers(module, lambda: run(calibration), agrees, dtype=dtype):
        why = "none of its layers can be replaced"
        if cosines:
            why = (
                f"its states have a cosine of {max(cosines):.3f} to exact ones, where "
                f"{_LEAST_COSINE_IN_INT8} is the least"
            )
        raise UnsupportedModelError(f"This model cannot run in int8: {why}. Use dtype='auto'.")


@torch.inference_mode()
def find_layout(
    module: nn.Module, device: torch.device, pad_token_id: int, implementation: str
) -> TextTransformer:
    """Return the fastest layout whose hidden states are those of each row alone.

    `implementation` is the attention that transformers chose for the model.
    """
    module.set_attn_implementation(implementation)  # type: ignore[operator]
    sequences = _probe_sequences(module, pad_token_id)
    alone = TextTransformer(module, "equal", pad_token_id=pad_token_id)
    expected = torch.cat([alone.hidden(alone.collate([ids], device)) for ids in sequences])

    def agrees(candidate: TextTransformer) -> bool:
        return are_alike(candidate.hidden(candidate.collate(sequences, device)), expected)

    if getattr(module, "_supports_attention_backend", False):
        register_packed_attention()
        module.set_attn_implementation(PACKED)  # type: ignore[operator]
        # RoBERTa and its kin number positions from the padding token's id + 1.
        for offset in (0, pad_token_id + 1):
            candidate = TextTransformer(module, "packed", offset, pad_token_id)
            try:
                if agrees(candidate):
                    return candidate
            except (NotImplementedError, RuntimeError, IndexError, TypeError, ValueError):
                continue  # this architecture cannot be packed: that is what the probe is for
        module.set_attn_implementation(implementation)  # type: ignore[operator]
    padded = TextTransformer(module, "padded", pad_token_id=pad_token_id)
    return padded if agrees(padded) else alone


def _probe_sequences(module: nn.Module, pad_token_id: int) -> list[NDArray[np.int64]]:
    """Return token ids of a few rows, one longer than the attention's window if it has one."""
    config: Any = module.config
    window = getattr(config, "sliding_window", None) or 0
    limit = _n_positions(module)
    lengths = [min(int(window) + 5, limit)] if 0 < window < limit else []
    return _random_sequences(module, (*lengths, *_PROBE_LENGTHS), pad_token_id)


def _n_positions(module: nn.Module) -> int:
    config: Any = module.config
    return getattr(config, "max_position_embeddings", None) or 512


def _random_sequences(
    module: nn.Module, lengths: Sequence[int], pad_token_id: int, seed: int = 0
) -> list[NDArray[np.int64]]:
    """Return rows of random token ids, always the same, without the padding token."""
    generator = torch.Generator().manual_seed(seed)
    config: Any = module.config
    n_tokens = config.get_text_config().vocab_size
    sequences = []
    for length in lengths:
        ids = torch.randint(0, n_tokens, (length,), generator=generator)
        ids[ids == pad_token_id] = (pad_token_id + 1) % n_tokens
        sequences.append(ids.numpy())
    return sequences
