"""Reading weights from disk without running anything that came with them.

Owns which formats are read and how pickles are kept harmless. Must not know models: it returns
tensors by name. torch is imported when the first file is read.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skembed.exceptions import ModelNotFoundError, UnsafeModelError, UnsupportedModelError
from skembed.weights._files import check_header, find_weights
from skembed.weights._memory import is_out_of_memory

if TYPE_CHECKING:
    import torch

__all__ = ["KINDS", "check_weights", "load_content", "load_state"]

_TORCH_KINDS = {".bin", ".pt", ".pth", ".ckpt"}
KINDS = {".safetensors", *_TORCH_KINDS}

# Where training scripts put the weights beside the optimizer, the epoch, ...
_STATE_KEYS = ("state_dict", "model_state_dict", "model_state", "model")

_ADVICE = (
    "Ask for the model as safetensors, or convert it where you may trust it "
    "(`torch.load(path, weights_only=False)`, then `safetensors.torch.save_file`)."
)


def load_state(
    path: str | Path, is_wanted: Callable[[str], bool] = lambda name: True
) -> dict[str, torch.Tensor]:
    """Read tensors by name from a weight file, on the CPU; only those whose name `is_wanted`.

    A file of `torch.save` holds a state dict, alone or under a key such as "state_dict". A pickle
    of more than tensors, which would run code, is an UnsafeModelError. The tensors are read, never
    mapped: whoever overwrites a mapped file changes them, and who cuts it short kills the process.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelNotFoundError(f"There is no weight file {path}.")
    if path.suffix not in KINDS:
        kinds = ", ".join(sorted(KINDS))
        raise UnsupportedModelError(f"{path} is not a weight file: expected one of {kinds}.")
    check_header(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path, is_wanted)
    found = _find_state(path, load_content(path))
    return {name: value for name, value in found.items() if is_wanted(name)}


def _read_safetensors(path: Path, is_wanted: Callable[[str], bool]) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", backend="pread") as file:
            names = filter(is_wanted, file.keys())
            return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise UnsupportedModelError(
            f"{path} is damaged: {error}. Download the model again."
        ) from error


def check_weights(folder: str | Path) -> list[Path]:
    """Return the weight files of a transformers folder that will be read, having checked them.

    Safetensors are preferred to PyTorch's pickles, one file to shards. Only headers are read.
    """
    folder = Path(folder)
    files = find_weights(folder)
    # transformers takes the adapter where peft is installed and leaves it where it is not: the
    # same files would give two different models.
    if (folder / "adapter_config.json").exists():
        raise UnsupportedModelError(
            f"{folder} holds an adapter (adapter_config.json) beside whole weights. Merge it into "
            "the model (peft's `merge_and_unload`) and save that, or remove adapter_config.json."
        )
    for path in files:
        # Files older than torch 1.6 are no zip archives; torch refuses them at load time if unsafe.
        if path.suffix in _TORCH_KINDS and zipfile.is_zipfile(path):
            unsafe = _unsafe_globals(path)
            if unsafe:
                raise _refusal(path, f"it names {', '.join(unsafe)}")
    return files


def load_content(path: Path) -> Any:
    """Return what `torch.save` stored: tensors and plain values, nothing that would run."""
    import torch

    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            names = {Path(name).name for name in archive.namelist()}
        if "constants.pkl" in names:
            raise _refusal(path, "it is a TorchScript archive, a program")
    else:
        with path.open("rb") as file:
            if file.read(1) != pickle.PROTO:
                raise _damage(path, "it is neither a zip archive nor a pickle")
    try:
        with warnings.catch_warnings():
            # Of pickles that torch did not write itself; they are refused below.
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except pickle.UnpicklingError as error:
        if "truncated" in str(error):
            raise _damage(path, "it ends too early") from None
        named = re.findall(r"GLOBAL (\S+)", str(error)) or (_unsafe_globals(path) if is_zip else [])
        reason = f"it names {', '.join(named)}" if named else _reason(error)
        raise _refusal(path, reason) from None
    except Exception as error:  # many kinds, on bytes that are no pickle, or one cut short
        if is_out_of_memory(error):
            raise
        raise _damage(path, _reason(error)) from None


def _unsafe_globals(path: Path) -> list[str]:
    """Name what unpickling would call and torch does not know as safe; [] if torch cannot tell."""
    import torch

    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except Exception:  # torch refuses the file when it is loaded
        return []


def _damage(path: Path, reason: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{path} is damaged, or was not written by torch.save: {reason}. Download it again."
    )


def _refusal(path: Path, reason: str) -> UnsafeModelError:
    return UnsafeModelError(
        f"{path} is not loaded: reading it would run code that came with it ({reason}). {_ADVICE}"
    )


def _find_state(path: Path, content: Any) -> dict[str, torch.Tensor]:
    """Return the state dict within what `torch.save` stored."""
    import torch

    kind, found = f"a {type(content).__name__}", [content]
    if isinstance(content, Mapping):
        kind += f" with {', '.join(map(repr, list(content)[:10])) or 'nothing in it'}"
        found += [content.get(key) for key in _STATE_KEYS]
    for state in found:
        if isinstance(state, Mapping) and state:
            pairs = state.items()
            if all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in pairs):
                return dict(pairs)
    keys = ", ".join(map(repr, _STATE_KEYS))
    raise UnsupportedModelError(
        f"{path} holds no state dict: expected tensors by name, alone or under {keys}, got {kind}."
    )


def _reason(error: BaseException) -> str:
    """Return the heart of torch's messages, which surround it with general advice."""
    text = str(error).strip()
    found = re.search(r"WeightsUnpickler error: *(.+)", text)
    heart = found[1] if found else text.rpartition("\n")[2]
    return heart.rstrip(". ") or type(error).__name__
