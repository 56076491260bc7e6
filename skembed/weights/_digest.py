"""Digests of files and model folders.

Owns which hashes identify content and when a remembered hash may be trusted. Must not know what
the files hold.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from skembed.exceptions import InvalidParameterError
from skembed.weights._files import model_files
from skembed.weights._locks import KeyLocks
from skembed.weights._remember import read_fact, write_fact

__all__ = ["file_sha256", "folder_digest"]

# Smaller files are remembered by this process only: reading them costs little.
_MIN_REMEMBERED = 1 << 20
_N_SMALL = 10_000

# As in git's index: a file changed so shortly before it was hashed may change again within the
# resolution of its time stamps (2 s on FAT), and no one could tell. Such a hash is not remembered.
_RACY_SECONDS = 2.5

_READ_BYTES = 1 << 20
_NAMESPACE = "sha256"

_now = time.time
_locks = KeyLocks()
_small: dict[str, str] = {}


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's content in hexadecimal.

    The digest of a file of 1 MiB or more is remembered by its identity (real path, size, times of
    change, inode and device), in this process and in the user's cache folder.

    Parameters
    ----------
    path : str or path
        A file; links are followed.

    Returns
    -------
    str
        64 hexadecimal digits.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    real = Path(path).resolve(strict=True)
    if real.stat().st_size < _MIN_REMEMBERED:
        return _hash_small(real)
    with _locks.hold(real):
        identity = _identity(real)
        known = read_fact(_NAMESPACE, identity)
        if known is not None and re.fullmatch("[0-9a-f]{64}", known):
            return known
        is_settled = _is_settled(real)
        digest = _hash(real)
        if is_settled and _identity(real) == identity:
            write_fact(_NAMESPACE, identity, digest)
        return digest


def folder_digest(folder: Path, files: Iterable[str] | None = None) -> bytes:
    """Return a digest of the content of a model folder, wherever the folder stands.

    Parameters
    ----------
    folder : Path
        A model folder.
    files : iterable of str, optional
        The files that matter, relative to the folder. By default all that a model may be read
        from: configuration, vocabulary and weights (`.json`, `.txt`, `.model`, `.safetensors`,
        `.bin`, `.pt`, ...), also in subfolders, without those of other frameworks
        (`onnx/`, `openvino/`, ...), hidden ones and training checkpoints.

    Returns
    -------
    bytes
        16 bytes of BLAKE2b over relative names and contents.

    Raises
    ------
    InvalidParameterError
        A name in `files` leads out of the folder.
    OSError
        A file cannot be read.
    """
    folder = Path(folder)
    names = model_files(folder) if files is None else sorted(set(files))
    digest = hashlib.blake2b(digest_size=16, person=b"skembed.folder")
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise InvalidParameterError(
                f"files must be relative to the folder and stay in it, got {name!r}."
            )
        # JSON keeps names and hashes apart: no two lists of files give the same bytes.
        line = json.dumps([Path(name).as_posix(), file_sha256(folder / name)])
        digest.update(line.encode() + b"\n")
    return digest.digest()


def _hash_small(path: Path) -> str:
    identity = _identity(path)
    digest = _small.get(identity)
    if digest is None:
        is_settled = _is_settled(path)
        digest = _hash(path)
        if is_settled and len(_small) < _N_SMALL and _identity(path) == identity:
            _small[identity] = digest
    return digest


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _identity(path: Path) -> str:
    stat = path.stat()
    # st_ctime tells of content replaced with its modification time kept (cp -p, rsync -t).
    numbers = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]
    return json.dumps([str(path), *numbers])


def _is_settled(path: Path) -> bool:
    stat = path.stat()
    return _now() - max(stat.st_mtime, stat.st_ctime) > _RACY_SECONDS
