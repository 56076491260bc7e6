"""Arrays and facts as bytes: a safetensors file with JSON in its header, which says if it is whole.

Does not import torch. Nothing in it is executed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

__all__ = ["facts_in", "pack", "under", "unpack"]

_FACTS, _CHECK = "skembed", "crc32"
_NAMES = {
    "<f4": "F32",
    "<f8": "F64",
    "<f2": "F16",
    "<i8": "I64",
    "<i4": "I32",
    "|u1": "U8",
    "|b1": "BOOL",
}


def pack(arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> list[memoryview]:
    """Return arrays by name and facts, which JSON knows, as the pieces of one file.

    No array is copied: there may be gigabytes.
    """
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    text = json.dumps(facts)
    told = {_FACTS: text, _CHECK: str(_check(whole, text))}
    header: dict[str, Any] = {"__metadata__": told}
    pieces, end = [], 0
    for name, array in whole.items():
        start, end = end, end + array.nbytes
        kind = {"dtype": _NAMES[array.dtype.str], "shape": array.shape}
        header[name] = {**kind, "data_offsets": [start, end]}
        pieces.append(_bytes_of(array))
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    return [memoryview(len(head).to_bytes(8, "little") + head), *pieces]


def unpack(data: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return what was packed; a ValueError if that is not what was written."""
    try:
        told = _told(data[8 : 8 + int.from_bytes(data[:8], "little")])
        arrays = safetensors.numpy.load(data)
        text, check = told[_FACTS], int(told[_CHECK])
    except Exception as error:  # of many kinds, as is what damage does
        raise ValueError(f"damaged: {error}") from error
    if _check(arrays, text) != check:
        raise ValueError("damaged: its checksum is another one")
    facts: dict[str, Any] = json.loads(text)
    return arrays, facts


def facts_in(path: Path) -> dict[str, Any]:
    """Return the facts in a file, whose arrays are not read; a ValueError if there are none."""
    with path.open("rb") as file:
        header = file.read(int.from_bytes(file.read(8), "little"))
    try:
        facts: dict[str, Any] = json.loads(_told(header)[_FACTS])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"damaged: {error}") from error
    return facts


def under(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return those arrays whose names begin with a prefix and a colon, without it."""
    start = f"{prefix}:"
    return {name.removeprefix(start): a for name, a in arrays.items() if name.startswith(start)}


def _told(header: bytes) -> dict[str, str]:
    told: dict[str, str] = json.loads(header)["__metadata__"]
    return told


def _check(arrays: Mapping[str, NDArray[Any]], text: str) -> int:
    found = crc32(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        found = crc32(f"{name} {array.dtype.str} {array.shape}".encode(), found)
        found = crc32(_bytes_of(array), found)
    return found


def _bytes_of(array: NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
