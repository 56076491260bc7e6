"""Load the transformer that turns token ids into hidden states.

Loads through transformers (safetensors, or pickles restricted to tensors), never changes the
global random state, and refuses checkpoints that leave weights uninitialised.
"""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from skembed.engine import is_out_of_memory, keep_freed_memory, resolve_dtype
from skembed.exceptions import UnsafeModelError, UnsupportedModelError
from skembed.text._layout import (
    TextTransformer,
    choose_attention,
    convert,
    find_layout,
    pack_layers,
    quantize_layers,
)
from skembed.weights import KeyLocks, check_weights

__all__ = ["load_config", "load_transformer"]

_T5_FAMILY = ("t5", "mt5", "umt5")
# Not run here, so a checkpoint may lack it.
_UNUSED = "pooler."
_MAX_PARAMETERS_PROBED_IN_FLOAT32 = 500_000_000

_one_at_a_time = KeyLocks()


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
    found = find_layout(module, device, pad_token_id, implementation)
    if is_int8:
        found = replace(found, is_steady=True)
        quantize_layers(found, device, dtype, special_token_ids)
    convert(module, dtype)
    if found.layout == "packed" and device.type == "cuda" and dtype is not loaded_as:
        # Another kernel than the one just proven.
        found = find_layout(module, device, pad_token_id, implementation)
    if found.layout == "packed" and device.type == "cpu" and dtype is torch.bfloat16:
        found = choose_attention(found, device)
    if device.type == "cpu" and not is_int8:
        steady = replace(found, is_steady=True)
        found = steady if pack_layers(steady, device) else found
    return found


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
