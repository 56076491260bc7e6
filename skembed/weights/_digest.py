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
from collections.abc import Mapping
from pathlib import Path

from skembed.weights._files import model_files
from skembed.weights._locks import KeyLocks
from skembed.weights._remember import read_fact, write_fact

__all__ = ["digest_files", "file_sha256", "folder_digest"]

# Smaller files are remembered by this process only: reading them costs little.
_MIN_REMEMBERED = 1 << 20
_N_SMALL = 10_000
_N_FOLDERS = 64

# As in git's index: a file changed so shortly before it was hashed may change again within the
# resolution of its time stamps (2 s on FAT), and no one could tell. Such a hash is not remembered.
_RACY_SECONDS = 2.5

_READ_BYTES = 1 << 20
_NAMESPACE = "sha256"

_now = time.time
_locks = KeyLocks()
_small: dict[str, str] = {}

# Name, size, times of change, inode and device of every file of a folder.
_State = tuple[tuple[str, int, int, int, int, int], ...]

_folders: dict[str, tuple[_State, bytes]] = {}


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


def folder_digest(folder: Path) -> bytes:
    """Return a digest of the content of a model folder, wherever the folder stands.

    It is of all files that a model may be read from: configuration, vocabulary, code and weights
    (`.json`, `.txt`, `.model`, `.py`, `.safetensors`, `.bin`, `.pt`, ...), also in subfolders,
    without those of other frameworks (`onnx/`, `openvino/`, ...), hidden ones and training
    checkpoints.

    Every call looks at every file's size, times, inode and device; files are read again only if
    these have changed.

    Parameters
    ----------
    folder : Path
        A model folder.

    Returns
    -------
    bytes
        16 bytes of BLAKE2b over relative names and contents.

    Raises
    ------
    OSError
        A file cannot be read.
    """
    folder = Path(folder)
    state = _look(folder)
    seen, digest = _folders.get(str(folder), (None, b""))
    if seen == state:
        return digest
    changed = max((max(times) for _, _, *times, _, _ in state), default=0)
    is_settled = _now() - changed / 1e9 > _RACY_SECONDS
    digest = digest_files({name: file_sha256(folder / name) for name, *_ in state})
    if is_settled:
        # A file that has changed since has other times than `state` says.
        if len(_folders) >= _N_FOLDERS:
            _folders.clear()
        _folders[str(folder)] = state, digest
    return digest


def digest_files(hashes: Mapping[str, str]) -> bytes:
    """Return the digest of a folder with files of these relative names and SHA-256."""
    digest = hashlib.blake2b(digest_size=16, person=b"skembed.folder")
    for name in sorted(hashes):
        # JSON keeps names and hashes apart: no two lists of files give the same bytes.
        digest.update(json.dumps([name, hashes[name]]).encode() + b"\n")
    return digest.digest()


def _look(folder: Path) -> _State:
    """Return what tells whether a folder's files are still the same, reading none."""
    base = str(folder)
    state = []
    for name in model_files(folder):
        stat = os.stat(f"{base}/{name}")  # noqa: PTH116  (a Path takes longer than the call)
        times = stat.st_mtime_ns, stat.st_ctime_ns
        state.append((name, stat.st_size, *times, stat.st_ino, stat.st_dev))
    return tuple(state)


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
