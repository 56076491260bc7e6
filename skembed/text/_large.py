"""Large models: whether they fit, and how accelerate and bitsandbytes put them where they fit.

Knows sizes, devices and formats, not texts. Libraries do the work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from skembed._optional import import_optional
from skembed.engine import resolve_dtype
from skembed.exceptions import MemoryWarning, UnsupportedModelError, warn_user
from skembed.weights import available_memory, free_memory

__all__ = ["INT4", "QUANTIZED", "check_room", "placement"]

INT4: torch.dtype = torch.int4  # type: ignore[attr-defined]  # its stubs have none

QUANTIZED = (torch.int8, INT4)
"""Formats of bitsandbytes; int8 on the CPU is skembed's own."""


def placement(
    name: str, device: torch.device, dtype: torch.dtype, is_sharded: bool
) -> dict[str, Any]:
    """Return what tells transformers to place a model so."""
    import_optional("accelerate", extra="quantized", purpose=f"{name} on several devices")
    found: dict[str, Any] = {"device_map": "balanced" if is_sharded else {"": device}}
    if dtype in QUANTIZED:
        import_optional("bitsandbytes", extra="quantized", purpose=f"{name} in {_word(dtype)}")
        from transformers import BitsAndBytesConfig

        is_4_bit = dtype is INT4
        found["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=is_4_bit,
            load_in_8bit=not is_4_bit,
            bnb_4bit_quant_type="nf4",  # made for weights, arXiv:2305.14314
            bnb_4bit_compute_dtype=resolve_dtype("auto", device),
        )
    return found


def check_room(
    name: str,
    count: Callable[[], int],
    *,
    at_most: int,
    device: torch.device,
    dtype: torch.dtype,
    is_sharded: bool,
) -> None:
    """Refuse a model that is larger than the memory there is; tell of one beyond half of it.

    `count` returns the bytes of its weights, which are `at_most` so many. Where the system does not
    say how much is free, nothing is said.
    """
    room = _room(device, is_sharded)
    if room is None or at_most <= room / 2:
        return
    needed = count()
    if needed > room and device.type == "cuda":
        free_memory()  # other models on the device
        room = _room(device, is_sharded) or room
    if needed <= room / 2:
        return
    where = "all devices together" if is_sharded else f"device {str(device)!r}"
    sizes = f"{_gib(needed)} in {_word(dtype)}, and {where} {'have' if is_sharded else 'has'}"
    if needed > room:
        ways = {torch.float32: "dtype='bfloat16' (half of it), dtype='int4' (an eighth)"}
        advice = ways.get(dtype, "dtype='int4' (a quarter of it)")
        smaller = "" if dtype is INT4 else f"set {advice}, "
        raise UnsupportedModelError(
            f"{name} does not fit: its weights take {sizes} {_gib(room)} free. Free memory, "
            f"{smaller}use device='balanced' where there are several devices, or take a smaller "
            "model."
        )
    warn_user(
        f"{name} takes {sizes} {_gib(room)} free. Loading it takes more for a while.",
        MemoryWarning,
        once=f"size of {name} in {dtype}",
    )


def _room(device: torch.device, is_sharded: bool) -> int | None:
    """Return the bytes free on a device, or on all GPUs and in main memory."""
    main = available_memory()
    if is_sharded:
        gpus = [_free_on(torch.device("cuda", i)) for i in range(torch.cuda.device_count())]
        return None if main is None else main + sum(gpus)
    return _free_on(device) if device.type == "cuda" else main


def _free_on(device: torch.device) -> int:
    free, _ = torch.cuda.mem_get_info(device)
    # What torch has taken and not given to tensors is as good as free.
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + kept


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f} GiB"


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
