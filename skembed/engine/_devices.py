"""The one authority on devices and precision.

Every decision about where a model runs and in which number format is made here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from skembed.acceleration import has_int8, is_bfloat16_faster_on_cpu
from skembed.engine._own_device import own_cuda_device
from skembed.exceptions import InvalidParameterError, SkembedError, did_you_mean
from skembed.weights import is_out_of_memory

if TYPE_CHECKING:
    import torch

__all__ = [
    "DTYPES",
    "is_of_a_row",
    "is_out_of_memory",
    "resolve_device",
    "resolve_devices",
    "resolve_dtype",
]

DTYPES = ("auto", "float32", "bfloat16", "float16", "int8", "int4")

_KINDS = ("cpu", "cuda", "mps")
_OTHER_NAMES = {"cpu": "cpu", "gpu": "cuda", "nvidia": "cuda", "apple": "mps", "metal": "mps"}

# What torch's errors of a device, its libraries or a number format hold.
_OF_DEVICES = (
    *("CUDA", "cuDNN", "CUDNN", "CUBLAS", "CUSOLVER", "NCCL", "MPS backend", "find an engine"),
    *("tensors to be on the same device", "expected scalar type", "not implemented for '"),
)


def is_of_a_row(error: Exception) -> bool:
    """Return whether a model's error may come from what it was given.

    Not of the machine, nor of what skembed itself found wrong.
    """
    import torch

    if is_out_of_memory(error) or isinstance(error, (SkembedError, OSError, ImportError)):
        return False
    if isinstance(error, getattr(torch, "AcceleratorError", ())):
        return False
    is_of_torch = isinstance(error, RuntimeError)
    return not (is_of_torch and any(word in str(error) for word in _OF_DEVICES))


def resolve_device(device: str) -> torch.device:
    """Resolve "auto" or a device's name to a device that is there.

    "auto" is the first CUDA device (in joblib's workers, the next that none of them has), else
    Apple's GPU ("mps"), else the CPU.

    Raises
    ------
    InvalidParameterError
        If torch does not know the name or the machine does not have the device.
    """
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            chosen = torch.cuda.current_device()
            return torch.device("cuda", own_cuda_device(torch.cuda.device_count(), chosen))
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    if device == "balanced":
        raise InvalidParameterError(
            "device='balanced': only TextEmbedder spreads a model over devices, and it takes the "
            "word alone, not in a list."
        )
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError):
        close = did_you_mean(device.partition(":")[0], _OTHER_NAMES, meaning=_OTHER_NAMES)
        raise InvalidParameterError(
            f"device={device!r} is not a device that torch knows.{close} Use 'auto', 'cpu', "
            "'cuda', 'cuda:1' or 'mps'."
        ) from None
    if resolved.type not in _KINDS:
        raise InvalidParameterError(
            f"device={device!r}: skembed runs on 'cpu', 'cuda' and 'mps' devices."
        )
    if resolved.type == "cpu":
        return torch.device("cpu")  # torch has one, by any number
    if resolved.type == "cuda":
        n_devices = torch.cuda.device_count()
        if n_devices == 0:
            raise InvalidParameterError(
                f"device={device!r}: torch sees no CUDA device here. Use device='auto', or install "
                "a CUDA build of torch and its driver."
            )
        index = torch.cuda.current_device() if resolved.index is None else resolved.index
        if index >= n_devices:
            raise InvalidParameterError(
                f"device={device!r}: this machine has {n_devices} CUDA device(s), numbered from 0."
            )
        return torch.device("cuda", index)
    if resolved.type == "mps" and not torch.backends.mps.is_available():
        raise InvalidParameterError("device='mps': torch sees no Apple GPU here; use 'auto'.")
    return resolved


def resolve_devices(device: str | Sequence[str]) -> tuple[torch.device, ...]:
    """Resolve a device's name, or the names of several that share the work.

    Raises
    ------
    InvalidParameterError
        If there is no name or one that `resolve_device` refuses, if the devices are of different
        kinds, or if a GPU is named twice. (The CPU may be: its replicas share the model.)
    """
    if isinstance(device, str):
        return (resolve_device(device),)
    others = [name for name in device if not isinstance(name, str)]
    if others or not device:
        found = ", ".join(f"{type(name).__name__} {name!r}" for name in others) or "an empty list"
        raise InvalidParameterError(
            f"device={device!r}: expected a device's name or a list of such names, got {found}. "
            "Use 'auto', 'cuda:1' or ['cuda:0', 'cuda:1']."
        )
    resolved = tuple(resolve_device(name) for name in device)
    kinds = sorted({each.type for each in resolved})
    if len(kinds) > 1:
        raise InvalidParameterError(
            f"device={device!r}: expected devices of one kind, got {' and '.join(kinds)}, which "
            "compute in different formats. Name devices of one kind only."
        )
    if kinds != ["cpu"]:
        names = [str(each) for each in resolved]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise InvalidParameterError(
                f"device={device!r}: expected each device once, got {', '.join(repeated)} more "
                "than once, which would hold the model twice and be no faster. Name it once."
            )
    return resolved


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Resolve "auto" or a dtype's name to the dtype in which a model runs.

    "auto" is bfloat16 on CUDA GPUs that compute in it (compute capability 8.0 and later), and on a
    CPU where a short probe finds it at least 1.3 times faster than float32; float32 elsewhere.

    Raises
    ------
    InvalidParameterError
        If the name is none of `DTYPES`, or int8 or int4 is asked for where nothing computes in it.
    """
    import torch

    if dtype not in DTYPES:
        raise InvalidParameterError(
            f"dtype={dtype!r} is not one of {', '.join(map(repr, DTYPES))}."
        )
    is_possible = device.type == "cuda" or (device.type == "cpu" and has_int8())
    if dtype == "int8" and not is_possible:
        raise InvalidParameterError(
            f"dtype='int8' needs a CUDA GPU or a CPU with instructions for it (x86-64 with VNNI), "
            f"and skembed knows of none on {str(device)!r}. Use dtype='auto'."
        )
    if dtype == "int4" and device.type not in ("cpu", "cuda"):
        raise InvalidParameterError(
            f"dtype='int4' needs a CUDA GPU or a CPU, got device={str(device)!r}. Use dtype='auto'."
        )
    if dtype != "auto":
        resolved: torch.dtype = getattr(torch, dtype)
        return resolved
    if device.type == "cuda":
        is_accelerated = torch.cuda.get_device_capability(device) >= (8, 0)
    elif device.type == "cpu":
        is_accelerated = is_bfloat16_faster_on_cpu()
    else:
        is_accelerated = False
    return torch.bfloat16 if is_accelerated else torch.float32
