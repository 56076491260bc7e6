"""A transformer that turns token ids into hidden states, in the fastest layout proven exact for it.

Loads through transformers (safetensors, or pickles restricted to tensors), never changes the
global random state, and refuses checkpoints that leave weights uninitialised.
"""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skembed.engine import (
    PACKED,
    Rows,
    is_out_of_memory,
    keep_freed_memory,
    pack_linear_layers,
    packed_rows,
    quantize_linear_layers,
    register_packed_attention,
    resolve_dtype,
    steady_size,
)
from skembed.exceptions import UnsafeModelError, UnsupportedModelError
from skembed.weights import KeyLocks, check_weights

__all__ = ["TextTransformer", "load_config", "load_transformer"]

_T5_FAMILY = ("t5", "mt5", "umt5")
# Not run here, so a checkpoint may lack it.
_UNUSED = "pooler."
_MAX_PARAMETERS_PROBED_IN_FLOAT32 = 500_000_000
_LEAST_COSINE = {torch.float32: 0.999_999, torch.bfloat16: 0.999, torch.float16: 0.9999}
_LEAST_MEAN_COSINE_IN_INT8 = 0.95
_PROBE_LENGTHS = (11, 7, 7, 3)
_CALIBRATION_LENGTHS = tuple(range(64, 2, -3))

_one_at_a_time = KeyLocks()


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
    """

    module: nn.Module
    layout: Literal["packed", "padded", "equal"]
    position_offset: int = 0
    pad_token_id: int = 0
    is_steady: bool = False

    def collate(
        self, sequences: Sequence[NDArray[np.int64]], device: torch.device
    ) -> dict[str, Any]:
        """Assemble token ids, longest first, into the model's arguments (and their rows)."""
        rows = packed = Rows([len(ids) for ids in sequences])
        if self.layout == "packed":
            n_tokens = sum(rows.lengths)
            if self.is_steady and (n_more := steady_size(n_tokens) - n_tokens):
                # Rows of one token at the end, which nobody looks at.
                packed = Rows([*rows.lengths, *[1] * n_more])
                sequences = [*sequences, np.full(n_more, self.pad_token_id)]
            flat = torch.from_numpy(np.concatenate(sequences))
            batch = {
                "input_ids": flat[None],
                "position_ids": packed.positions(flat.device, self.position_offset)[None],
            }
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
        return {**moved, "rows": rows, "packed": packed}

    def hidden(self, batch: dict[str, Any]) -> Tensor:
        """Run the model; return hidden states end to end, shape (tokens, d)."""
        arguments = {name: batch[name] for name in batch if name not in ("rows", "packed")}
        if self.layout == "packed":
            with packed_rows(batch["packed"]):
                hidden: Tensor = self.module(**arguments).last_hidden_state
            return hidden[0, : sum(batch["rows"].lengths)]
        hidden = self.module(**arguments).last_hidden_state
        mask = arguments["attention_mask"]
        if self.layout == "equal":
            return hidden.flatten(0, 1)
        return hidden[mask.bool()]


def load_config(folder: Path, *, trust_remote_code: bool) -> Any:
    """Read a transformer's configuration.

    Raises
    ------
    UnsafeModelError
        If the model needs code of its own and the user did not allow that.
    UnsupportedModelError
        If transformers does not know the architecture.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise UnsafeModelError(
                f"The model in {folder} comes with Python code of its own, which skembed does not "
                "run. If you have read that code and trust it, set trust_remote_code=True."
            ) from error
        raise UnsupportedModelError(
            f"transformers cannot read the configuration in {folder}: {error}"
        ) from error
    if getattr(config, "quantization_config", None):
        raise UnsupportedModelError(
            f"The weights in {folder} are quantised, which skembed does not run: they would be "
            "taken for plain numbers. Use the model's float32, bfloat16 or float16 weights."
        )
    return config


def load_transformer(
    folder: Path,
    config: Any,
    *,
    device: torch.device,
    dtype: torch.dtype,
    pad_token_id: int,
    special_token_ids: tuple[Sequence[int], Sequence[int]],
    trust_remote_code: bool,
) -> TextTransformer:
    """Load a transformer and find its layout.

    `special_token_ids` are what the tokenizer puts before and after a text.

    The layout is proven, not assumed: a few rows of different lengths run together and alone, and
    the fastest layout whose hidden states agree is taken (in float32 where the model is small
    enough, before it is converted).
    """
    if device.type == "cpu":
        keep_freed_memory()
    # transformers' loading settings and torch's random state belong to the process.
    is_int8 = dtype is torch.int8
    if is_int8:
        dtype = resolve_dtype("auto", device)  # of all that is no linear layer
    with _one_at_a_time.hold("transformers"):
        module = _load_module(folder, config, dtype, trust_remote_code)
    module = module.eval().requires_grad_(False).to(device)
    loaded_as = next(module.parameters()).dtype
    implementation: str = module.config._attn_implementation  # type: ignore[union-attr,assignment]
    found = _find_layout(module, device, pad_token_id, implementation)
    if is_int8:
        _quantize_linear_layers(found, device, dtype, special_token_ids)
    _convert(module, dtype)
    if found.layout == "packed" and device.type == "cuda" and dtype is not loaded_as:
        # Another kernel than the one just proven.
        found = _find_layout(module, device, pad_token_id, implementation)
    if device.type == "cpu" and dtype is torch.bfloat16 and not is_int8:
        _pack_linear_layers(found, device)
    is_steady = device.type == "cpu" and (is_int8 or dtype is not torch.float32)
    return replace(found, is_steady=is_steady)


def _load_module(
    folder: Path, config: Any, dtype: torch.dtype, trust_remote_code: bool
) -> nn.Module:
    from transformers import AutoModel, AutoModelForTextEncoding

    weights = check_weights(folder)
    n_bytes = sum(path.stat().st_size for path in weights)
    # Four bytes a parameter: where the file is small, the float32 model is too.
    is_small = n_bytes <= 4 * _MAX_PARAMETERS_PROBED_IN_FLOAT32
    config = copy.deepcopy(config)
    config.use_cache = False
    auto = AutoModelForTextEncoding if config.model_type in _T5_FAMILY else AutoModel
    arguments: dict[str, Any] = {}
    known = getattr(auto, "_model_mapping", {})
    architecture = known.get(type(config), None)
    if inspect.isclass(architecture) and "add_pooling_layer" in (
        inspect.signature(architecture).parameters
    ):
        arguments["add_pooling_layer"] = False
    with _quiet_transformers(), torch.random.fork_rng(devices=[]):
        try:
            module, info = auto.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32 if is_small else dtype,
                local_files_only=True,
                use_safetensors=any(path.suffix == ".safetensors" for path in weights),
                trust_remote_code=trust_remote_code,
                ignore_mismatched_sizes=True,  # reported below, by name
                output_loading_info=True,
                **arguments,
            )
        except Exception as error:
            raise _loading_error(folder, error) from error
    _refuse_random_weights(folder, info)
    loaded: nn.Module = module
    return loaded


def _loading_error(folder: Path, error: Exception) -> Exception:
    """Return the error to raise for one that transformers raised."""
    if is_out_of_memory(error):
        return error
    if isinstance(error, pickle.UnpicklingError):
        return UnsafeModelError(
            f"The weights in {folder} are a pickle that is damaged or holds more than tensors, "
            "which loading would run. Ask for safetensors, or convert them where you trust them."
        )
    return UnsupportedModelError(
        f"transformers cannot load the weights in {folder}: {type(error).__name__}: {error}"
    )


def _refuse_random_weights(folder: Path, info: dict[str, Any]) -> None:
    """Refuse a checkpoint of which some weights stayed as they were initialised."""
    faults = [f"{key} is missing" for key in info["missing_keys"] if not key.startswith(_UNUSED)]
    faults += [
        f"{key} has shape {tuple(found)} where {tuple(expected)} is expected"
        for key, found, expected in info["mismatched_keys"]
    ]
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise UnsupportedModelError(
            f"The checkpoint in {folder} lacks {len(faults)} weights of its own architecture: "
            f"{'; '.join(sorted(faults)[:5])}{more}. They would be random, and so the vectors."
        )


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep the loading report and bar of transformers to itself; faults are raised instead."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    had_bar = logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bar:
            logging.enable_progress_bar()


def _convert(module: nn.Module, dtype: torch.dtype) -> None:
    """Convert parameters only: buffers (rotary frequencies) stay in float32, as they were made."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)


@torch.inference_mode()
def _pack_linear_layers(transformer: TextTransformer, device: torch.device) -> None:
    """Speed up the linear layers, if the hidden states stay what they are."""
    sequences = _probe_sequences(transformer.module, transformer.pad_token_id)
    by_length = sequences if transformer.layout != "equal" else sequences[:1]

    def run() -> Tensor:
        return transformer.hidden(transformer.collate(by_length, device))

    expected = run()
    pack_linear_layers(transformer.module, run, lambda: _are_alike(run(), expected))


@torch.inference_mode()
def _quantize_linear_layers(
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
    # Learned positions may start behind the padding token's.
    room = _n_positions(module) - len(before) - len(after) - transformer.pad_token_id - 1
    lengths = sorted({max(1, min(length, room)) for length in _CALIBRATION_LENGTHS}, reverse=True)
    sequences = [
        np.concatenate([before, ids, after])
        for ids in _random_sequences(module, lengths, transformer.pad_token_id)
    ]

    def run() -> Tensor:
        # The lengths all differ: where rows of one length share a batch, each is alone.
        groups = [sequences] if transformer.layout != "equal" else [[ids] for ids in sequences]
        return torch.cat(
            [transformer.hidden(transformer.collate(group, device)).float() for group in groups]
        )

    def agrees() -> bool:
        _convert(module, dtype)
        cosines.append(float(nn.functional.cosine_similarity(run(), expected).mean()))
        return cosines[-1] >= _LEAST_MEAN_COSINE_IN_INT8

    expected = run()
    if not quantize_linear_layers(module, run, agrees, dtype=dtype):
        why = "none of its layers can be replaced"
        if cosines:
            why = (
                f"its states have a mean cosine of {max(cosines):.3f} to exact ones, where "
                f"{_LEAST_MEAN_COSINE_IN_INT8} is the least"
            )
        raise UnsupportedModelError(f"This model cannot run in int8: {why}. Use dtype='auto'.")


def _are_alike(hidden: Tensor, expected: Tensor) -> bool:
    """Return whether each token's states point the same way, as near as the format tells."""
    cosine = nn.functional.cosine_similarity(hidden.float(), expected.float())
    return bool((cosine >= _LEAST_COSINE[hidden.dtype]).all())


@torch.inference_mode()
def _find_layout(
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
        return _are_alike(candidate.hidden(candidate.collate(sequences, device)), expected)

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
    module: nn.Module, lengths: Sequence[int], pad_token_id: int
) -> list[NDArray[np.int64]]:
    """Return rows of random token ids, always the same, without the padding token."""
    generator = torch.Generator().manual_seed(0)
    config: Any = module.config
    n_tokens = config.get_text_config().vocab_size
    sequences = []
    for length in lengths:
        ids = torch.randint(0, n_tokens, (length,), generator=generator)
        ids[ids == pad_token_id] = (pad_token_id + 1) % n_tokens
        sequences.append(ids.numpy())
    return sequences
