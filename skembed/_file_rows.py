"""Rows that are files: paths, bytes, file objects and dicts of them, for pictures and sound.

Knows what rows and foreign bytes look like, not how they are decoded.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Generic, TypeVar
from urllib.parse import unquote

import numpy as np

from skembed._files import (
    RowFile,
    digest_files,
    digest_of_file,
    hint_of_base64,
    is_path,
    path_of,
    read_file_object,
)
from skembed._inputs import CheckedRows, is_missing, is_tensor, shown

__all__ = ["FileRoom", "check_rows", "describe_bytes", "holds_array", "is_single_file"]

Item = TypeVar("Item")

# Patterns of the first bytes, and what they are; the first that fits.
_KINDS = (
    (rb"\x89PNG|GIF8|\xff\xd8\xff|RIFF.{4}WEBP|BM.{4}\0\0\0\0|II\*\0|MM\0\*", "an image"),
    (rb".{4}ftyp(heic|heix|hevc|heim|heis|mif1|msf1|avif)", "an image"),
    (rb"(RIF[FX]|RF64).{4}WAVE|riff\x2e|FORM.{4}AIF|fLaC|OggS|\.snd|caff|#!AMR", "a sound"),
    (rb".{4}ftypM4[AB]|ID3|\xff[\xe3\xf1-\xf3\xf9-\xfd]|\x0b\x77", "a sound"),
    (rb".{4}ftyp|\x1a\x45\xdf\xa3|RIFF.{4}AVI |FLV\x01|\0\0\x01\xba", "a video"),
    (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a WMA or WMV file"),
    (rb"MThd", "MIDI, which has notes but no sound; render it first"),
    (rb"%PDF", "a PDF document"),
    (rb"PK\x03\x04.{26}[^/]{1,60}/data\.pkl|\x80[\x02-\x05]", "a pickle, which is never opened"),
    (rb"PK\x03\x04|\x1f\x8b|BZh|7z\xbc\xaf|\xfd7zXZ|Rar!", "an archive; unpack it first"),
    (rb".{128}DICM", "a DICOM file; read it with pydicom and pass its pixel_array"),
    (rb"\0\x05\x16\x07", "metadata that macOS keeps next to a file ('._name'); leave it out"),
    (rb"PAR1|ARROW1", "a Parquet or Arrow table; read it and pass the column"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL; convert it first"),
    (rb"FUJIFILMCCD|.{4}ftypcrx", "a camera's raw file; develop it first"),
    (rb"\x93NUMPY", "a NumPy file; load it and pass the array"),
    (rb".{7}\0\{\"", "a safetensors file"),
    (rb"version https://git-lfs", "a Git LFS pointer; fetch the file itself with git lfs pull"),
    (rb"(?i)(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body)", "an HTML page; a failed download?"),
    (rb"(?i)\s*(<\?xml[^>]*>\s*)?(<!.*?>\s*)*<svg", "an SVG drawing; render it first"),
    (rb"\s*<\?xml", "an XML document"),
    (rb"\s*(\{\s*[\"}]|\[\s*[\[{\"\]])", "JSON"),
    (rb"\0{64}", "zeros"),
)
_N_BYTES_SEEN = 512

# Of dicts as the Hugging Face library for data sets has them.
_KEYS = ("bytes", "path")


def describe_bytes(data: bytes, *, but: Sequence[str] = ()) -> str | None:
    """Say what a file looks like by its first bytes; None if that is unknown or one of `but`."""
    start = data[:_N_BYTES_SEEN]
    if not start:
        return "an empty file"
    for pattern, kind in _KINDS:
        if re.match(pattern, start, re.DOTALL):
            return None if kind in but else kind
    is_text = start.isascii() and all(byte >= 32 or byte in b"\t\n\r\f" for byte in start)
    return "text" if is_text and not start.startswith(b"NIST_1A") else None


@dataclass(frozen=True)
class FileRoom(Generic[Item]):
    """What a room makes of its rows.

    `why_not` says what is wrong with a file that should be `what` ("an image") as far as its header
    tells. `of_file` makes an item of a file; `check_others` gives an item, or what is wrong, for
    each of the rows that are no files.
    """

    what: str
    why_not: Callable[[bytes], str | None]
    of_file: Callable[[RowFile], Item]
    check_others: Callable[[list[Any]], Sequence[Item | str]]
    most_bytes: int = 1 << 30


def check_rows(column: Sequence[Any], room: FileRoom[Any]) -> CheckedRows:
    """Check rows that are files or whatever else the room reads; files are read several at once."""
    items: dict[int, Any] = {}
    faults: dict[int, str] = {}
    paths: dict[int, str] = {}
    others: dict[int, Any] = {}

    def note(row: int, found: Any) -> None:
        (faults if isinstance(found, str) else items)[row] = found

    for row, value in enumerate(column):
        try:
            found = _as_file(value)
        except ValueError as error:
            faults[row] = str(error)
            continue
        if isinstance(found, str):
            paths[row] = found
        elif found is not None:
            note(row, _check_bytes(found, room))
        elif is_missing(value):
            faults[row] = f"missing ({value!r})"
        else:
            others[row] = value
    for row, checked in zip(others, room.check_others(list(others.values())), strict=True):
        note(row, checked)
    fault = None if items or paths else _fault_of_all(list(others.values()), room.what)
    if fault is not None:
        faults.update(dict.fromkeys(others, fault))
    digests = digest_files(
        list(paths.values()), room.why_not, what=room.what, most_bytes=room.most_bytes
    )
    for row, digest in zip(paths, digests, strict=True):
        note(row, digest if isinstance(digest, str) else room.of_file(RowFile(paths[row], digest)))
    positions = np.array(sorted(items), dtype=np.int64)
    good = [items[row] for row in positions.tolist()]
    return CheckedRows(good, positions, len(column), dict(sorted(faults.items())))


def _fault_of_all(values: list[Any], what: str) -> str | None:
    """Say what is wrong with a whole column, which is then said once, and how to mend it."""
    kinds = {type(value).__name__ for value in values}
    if len(values) < 2 or len(kinds) > 1:
        return None
    (kind,) = kinds
    if all(isinstance(value, (Real, np.generic)) for value in values):
        return (
            f"expected {what} (a path, encoded bytes or an array), got {kind}; choose the column "
            "that has them, or, if these are the numbers of a single one, use [np.asarray(X)]"
        )
    if all(map(_is_around_one, values)):
        return f"expected {what}, got a {kind} of one value; use [row[0] for row in X]"
    return None


def _is_around_one(value: Any) -> bool:
    """Return whether a row is a list around one value that is no part of an array."""
    if not isinstance(value, (list, tuple)) or len(value) != 1:
        return False
    return not (isinstance(value[0], (list, tuple, Real)) or holds_array(value[0]))


def is_single_file(X: Any) -> bool:
    """Return whether X is one file instead of a collection; str and bytes are refused elsewhere."""
    return isinstance(X, (os.PathLike, memoryview)) or callable(getattr(X, "read", None))


def holds_array(value: Any) -> bool:
    """Return whether a row is an array, a tensor, or what gives one (of h5py, xarray, ...)."""
    if isinstance(value, np.ndarray) or is_tensor(value):
        return True
    return hasattr(value, "__array__") and not isinstance(value, np.generic)


def _as_file(value: Any) -> str | bytes | None:
    """Return the path or the bytes of a row that is a file, None for another; or raise why not."""
    if isinstance(value, Mapping) and value.get("array") is None:
        for key in _KEYS:
            if not is_missing(value.get(key)):
                return _as_file(value[key])
        if set(_KEYS) & set(value):
            raise ValueError(f"missing ({shown(value)})")
    if isinstance(value, (str, os.PathLike)):
        path = path_of(value)
        return _of_data_url(path) if path[:5].lower() == "data:" else path
    kind = type(value).__name__
    try:
        if isinstance(value, (bytes, bytearray, memoryview)):
            return bytes(value)
        if callable(getattr(value, "read_bytes", None)):  # zipfile.Path and its like
            return bytes(value.read_bytes())
    except Exception as error:
        raise ValueError(
            f"a {kind} that cannot be read: {error or type(error).__name__}"
        ) from error
    return read_file_object(value) if callable(getattr(value, "read", None)) else None


def _of_data_url(url: str) -> bytes:
    head, _, body = url.partition(",")
    try:
        if not head.lower().endswith(";base64"):
            raise binascii.Error("not in base64")
        return base64.b64decode("".join(unquote(body).split()), validate=True)
    except binascii.Error as error:
        raise ValueError(f"a data URL that cannot be read ({error}): {url[:60]!r}...") from error


def _check_bytes(data: bytes, room: FileRoom[Item]) -> Item | str:
    if not data:
        return "empty bytes, expected an encoded file"
    if reason := room.why_not(data):
        return f"{len(data):,} bytes: {reason}{_hint_of_bytes(data)}"
    return room.of_file(RowFile(data, digest_of_file(data)))


def _hint_of_bytes(data: bytes) -> str:
    if is_path(data):
        return "; pass a path as str or Path, not as bytes"
    if data[:5].lower() == b"data:":
        return "; pass a data URL as str, not as bytes"
    return hint_of_base64(data[:1000].decode("latin-1"))
