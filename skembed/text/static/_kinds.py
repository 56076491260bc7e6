"""Files and folders of static vectors, told by how they begin, without importing torch."""

from __future__ import annotations

import gzip
import json
import re
import struct
from pathlib import Path

__all__ = ["FASTTEXT", "format_of_words", "is_static", "is_static_folder"]

FASTTEXT = struct.pack("<i", 793712314)
NPY = b"\x93NUMPY"
_HEADER = re.compile(rb"\s*(\d{1,12}) +(\d{1,6}) *\r?\n")
_N_SNIFFED = 1 << 17


def is_static(place: Path) -> bool:
    """Return whether a path is that of a file or a folder of static vectors."""
    try:
        return format_of_words(place) is not None if place.is_file() else is_static_folder(place)
    except (OSError, ValueError):  # no path
        return False


def is_static_folder(folder: Path) -> bool:
    """Return whether a folder is model2vec's, or begins with a StaticEmbedding."""
    try:
        modules = folder / "modules.json"
        if modules.is_file():
            first = json.loads(modules.read_text(encoding="utf-8"))[0]["type"]
            return str(first).rpartition(".")[2] == "StaticEmbedding"
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        has_tokenizer = (folder / "tokenizer.json").is_file()
        return config.get("model_type", "model2vec") == "model2vec" and has_tokenizer
    except (OSError, ValueError, TypeError, AttributeError, LookupError):
        return False


def format_of_words(path: Path) -> str | None:
    """Return the format of a file of word vectors, by how it begins; None if it is none."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        try:
            head = file.read(_N_SNIFFED)
        except (OSError, EOFError):  # no gzip file, or part of one
            return None
    if head.startswith(FASTTEXT):
        return "fasttext"
    if head.startswith(NPY):
        return "npy"
    header = _HEADER.match(head)
    first = head[header.end() if header else 0 :].partition(b"\n")[0].strip()
    fields = first.split(b" ")
    if header and len(fields) > int(header[2]):
        fields = [b" ".join(fields[: -int(header[2])]), *fields[-int(header[2]) :]]
    try:
        n_numbers = len(list(map(float, fields[1:])))
    except ValueError:
        n_numbers = 0
    if header:
        return "text" if n_numbers == int(header[2]) else "binary"
    return "text" if n_numbers > 1 else None
