"""Digests of files and model folders.

Owns which hashes identify content and when a remembered hash may be trusted. Must not know what
the files contain.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from skembed._files import is_settled, remembered_digest
from skembed.exceptions import UnsupportedModelError
from skembed.weights._files import model_files
from skembed.weights._remember import remembered

__all__ = ["file_sha256", "folder_digest"]

# Smaller files are remembered by this process only: reading them costs little.
_MIN_KEPT = 1 << 20
_READ_BYTES = 1 << 20
_NAMESPACE = "sha256"


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's content in hexadecimal.

    It is remembered by the file's identity (path, size, times of change, inode and device) in this
    process; that of a file of 1 MiB or more in the user's cache folder, too.
    """
    text = os.fspath(path)
    found = os.stat(text)  # noqa: PTH116  (a Path takes longer than the call)
    return remembered_digest(text, found, lambda: _compute(Path(text), found)).hex()


def folder_digest(folder: Path) -> bytes:
    """Return 16 bytes of BLAKE2b over names and contents of a model folder, wherever it stands.

    It is of all files that a model may be read from: see `model_files`.
    """
    digest = hashlib.blake2b(digest_size=16, person=b"skembed.folder")
    for name in model_files(folder):
        try:
            found = file_sha256(f"{folder}/{name}")
        except FileNotFoundError:
            raise UnsupportedModelError(
                f"{folder}/{name} is a link to a file that is not there, or was just deleted. "
                "Restore it, or remove the link."
            ) from None
        # JSON keeps names and hashes apart: no two lists of files give the same bytes.
        digest.update(json.dumps([name, found]).encode() + b"\n")
    return digest.digest()


def _compute(path: Path, found: os.stat_result) -> bytes:
    """Read a file, or take the digest of a large one from the user's cache folder."""
    if found.st_size < _MIN_KEPT or not is_settled(found):
        return _hash(path)
    real = path.resolve(strict=True)
    times = found.st_mtime_ns, found.st_ctime_ns
    key = json.dumps([str(real), found.st_size, *times, found.st_ino, found.st_dev])
    return bytes.fromhex(remembered(_NAMESPACE, key, lambda: _hash(real).hex()))


def _hash(path: Path) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
    return digest.digest()
