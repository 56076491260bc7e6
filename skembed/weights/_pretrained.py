"""Load transformers models: configuration and weights, safely and without side effects.

Loads safetensors, or pickles restricted to tensors; never changes the global random state, and
refuses checkpoints that leave weights uninitialised. Must not know what the models are for.
torch and transformers are imported when the first model is loaded.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from skembed._forks import one_at_a_time
from skembed._random_state import own_random_state
from skembed.exceptions import UnsafeModelError, UnsupportedModelError
from skembed.weights._files import read_json
from skembed.weights._load import check_weights, load_state
from skembed.weights._memory import is_out_of_memory

if TYPE_CHECKING:
    import torch

__all__ = [
    "copy_processor",
    "count_bytes",
    "has_processor",
    "kind_of",
    "load_config",
    "load_pretrained",
    "load_processor",
    "quiet_transformers",
    "refuse_code_from_elsewhere",
    "refuse_custom_code",
    "refuse_random_weights",
    "save_pretrained",
]

T = TypeVar("T")

_SINCE = {"embedding_gemma2": "5.19"}
"""The first release of transformers that has a kind of model, where that is later than 5.0."""

# The files whose `auto_map` names Python code.
_NAME_CODE = (
    "config.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
)


def load_config(folder: Path, *, trust_remote_code: bool) -> Any:
    """Read a model's configuration; refuse code that the user did not allow, and quantisation."""
    with one_at_a_time():
        from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise UnsafeModelError(
                f"The model in {folder} comes with its own Python code. If you have read it and "
                "trust it, set trust_remote_code=True."
            ) from error
        since = next((since for kind, since in _SINCE.items() if f"`{kind}`" in str(error)), None)
        hint = f" Models of this kind need transformers {since} or later." if since else ""
        raise UnsupportedModelError(
            f"transformers cannot read the configuration in {folder}: {error}{hint}"
        ) from error
    if getattr(config, "quantization_config", None):
        fault = f"The weights in {folder} are quantised; use float32, bfloat16 or float16 ones."
        raise UnsupportedModelError(fault)
    return config


def refuse_code_from_elsewhere(folder: Path) -> None:
    """Refuse a model whose code lies in another repository, where it is not part of any digest."""
    for name in _NAME_CODE:
        if not (folder / name).is_file():
            continue
        found = read_json(folder / name).get("auto_map") or {}
        places = found.values() if isinstance(found, Mapping) else [found]
        for place in places:
            if "--" in str(place):
                raise UnsafeModelError(
                    f"{folder / name} takes code from another repository ({place}). Copy the code "
                    "into the folder and name it in auto_map."
                )


def kind_of(folder: Path) -> str | None:
    """Return the `model_type` of a configuration, None where there is none that can be read."""
    try:
        found = read_json(folder / "config.json")
    except UnsupportedModelError:
        return None
    return found.get("model_type") if isinstance(found, dict) else None


def has_processor(folder: Path, part: str) -> bool:
    """Return whether a folder says how rows are prepared, for models of several parts for one."""
    if (folder / "preprocessor_config.json").is_file():
        return True
    nested = folder / "processor_config.json"
    return nested.is_file() and part in read_json(nested)


def load_processor(
    auto: str, folder: Path, make: Callable[[Any], T], *, what: str, trust_remote_code: bool
) -> T:
    """Return what `make` makes of a folder's processor, loaded by an Auto class of this name."""
    import transformers

    try:
        with quiet_transformers():
            load = getattr(transformers, auto).from_pretrained
            return make(load(folder, local_files_only=True, trust_remote_code=trust_remote_code))
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise UnsafeModelError(
                f"The {what} in {folder} is custom Python code, which skembed does not run. If "
                "you have read that code and trust it, set trust_remote_code=True."
            ) from error
        kind = "" if isinstance(error, UnsupportedModelError) else f"{type(error).__name__}: "
        raise UnsupportedModelError(
            f"The {what} in {folder} cannot be used: {kind}{error}"
        ) from error


def load_pretrained(
    folder: Path,
    config: Any,
    *,
    auto: Any,
    dtype: torch.dtype,
    trust_remote_code: bool,
    is_unused: Callable[[str], bool] = lambda name: False,
    left_out: tuple[str, ...] = (),
    part: str = "",
    **arguments: Any,
) -> Any:
    """Load a model's weights from a folder as `save_pretrained` writes it, on the CPU.

    `auto` is one of transformers' Auto classes, or a model's own class; a checkpoint may lack
    weights whose name `is_unused`; `arguments` are for the model's `__init__`. Weights whose names
    begin with one of `left_out` are not read: they belong to another part. `part` is what all names
    of the part that is loaded begin with, if it is a model of its own. With a `device_map` among
    the arguments accelerate puts the weights onto devices as they are read.
    """

    def is_wanted(name: str) -> bool:
        return name.startswith(part) and not name.startswith(left_out)

    files = check_weights(folder)
    where: dict[str, Any] = {"pretrained_model_name_or_path": folder}
    if "device_map" not in arguments:
        # Read here, as transformers maps files. They are then the module's own, without a copy.
        state = {
            name.removeprefix(part): value
            for path in files
            for name, value in load_state(path, is_wanted).items()
        }
        where = {"pretrained_model_name_or_path": None, "state_dict": state}
    # transformers' loading settings and torch's random state belong to the process.
    with own_random_state(), quiet_transformers():
        try:
            loader, config = _choose_class(auto, config, trust_remote_code)
            module, info = loader.from_pretrained(
                **where,
                config=config,
                dtype=dtype,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # reported below, by name
                output_loading_info=True,
                **arguments,
            )
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise UnsupportedModelError(
                f"transformers cannot load the weights in {folder}: {type(error).__name__}: {error}"
            ) from error
    refuse_random_weights(folder, info, is_unused)
    return module


def refuse_custom_code(name: str, trust_remote_code: bool) -> None:
    """Refuse to export a model that may run code of its own, which its weights are nothing without.

    Messages call it `name`.
    """
    if trust_remote_code:
        raise UnsupportedModelError(
            f"{name} runs with trust_remote_code=True; skembed exports only models that need no "
            "code of their own."
        )


def copy_processor(folder: Path, to: Path) -> None:
    """Copy what says how rows are prepared from one folder into another."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, to / name)


def save_pretrained(
    module: Any, folder: Path, *, is_left_out: Callable[[str], bool] = lambda name: False
) -> None:
    """Write a model of transformers, without the weights that are left out by name."""
    state = {name: value for name, value in module.state_dict().items() if not is_left_out(name)}
    with one_at_a_time(), quiet_transformers():
        module.save_pretrained(folder, state_dict=state)


def count_bytes(
    config: Any, *, auto: Any, n_bytes: Mapping[str, float], trust_remote_code: bool
) -> int:
    """Return the size of a model's weights, from its architecture alone.

    `n_bytes` is what a number takes, of a "linear" layer and of any "other" one.
    """
    import torch
    from torch import nn

    with one_at_a_time(), quiet_transformers(), torch.device("meta"):
        model = auto.from_config(copy.deepcopy(config), trust_remote_code=trust_remote_code)
    size = 0.0
    for module in model.modules():
        kind = "linear" if isinstance(module, nn.Linear) else "other"
        size += n_bytes[kind] * sum(p.numel() for p in module.parameters(recurse=False))
    return int(size)


def _choose_class(auto: Any, config: Any, trust_remote_code: bool) -> tuple[Any, Any]:
    """Return the class that an Auto class loads, which takes weights that were read before."""
    import torch

    config = copy.deepcopy(config)
    if not hasattr(auto, "from_config"):
        return auto, config
    with torch.device("meta"):  # a skeleton: 10 to 40 ms
        model = auto.from_config(copy.deepcopy(config), trust_remote_code=trust_remote_code)
    # Some Auto classes load a part, and take that part's configuration.
    return type(model), config if type(model.config) is type(config) else model.config


def refuse_random_weights(
    folder: Path, info: dict[str, Any], is_unused: Callable[[str], bool]
) -> None:
    """Refuse a checkpoint of which some weights stayed as they were initialised."""
    faults = [f"{key} is missing" for key in info["missing_keys"] if not is_unused(key)]
    faults += [
        f"{key} has shape {tuple(found)} where {tuple(expected)} is expected"
        for key, found, expected in info["mismatched_keys"]
        if not is_unused(key)
    ]
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise UnsupportedModelError(
            f"The checkpoint in {folder} lacks {len(faults)} weights of its own architecture: "
            f"{'; '.join(sorted(faults)[:5])}{more}. They would be random, and so the vectors."
        )


@contextmanager
def quiet_transformers() -> Iterator[None]:
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
