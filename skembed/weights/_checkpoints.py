"""Single weight files known by their URL, in the cache that they share with torch.hub.

Owns where such a file is looked for and when it is trusted. Must not know models nor what the
files hold. torch is imported when the first file is asked for.
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from skembed.exceptions import InvalidParameterError, ModelNotFoundError
from skembed.weights._digest import file_sha256
from skembed.weights._hub import is_offline
from skembed.weights._locks import KeyLocks

__all__ = ["find_checkpoint"]

_READ_BYTES = 1 << 20
_TIMEOUT = 30.0  # seconds without a byte
_BAR_DELAY = 2.0  # seconds; no bar for what is there sooner

_one_at_a_time = KeyLocks()


def find_checkpoint(url: str) -> Path:
    """Return the local file of a checkpoint known by its URL, downloading it if need be.

    It is looked for in torch.hub's folder of checkpoints (`torch.hub.set_dir`, `TORCH_HOME`), where
    torchvision and torchaudio put theirs, then downloaded to there. Where its name carries the
    beginning of its SHA-256 ("resnet50-11ad3fa6.pth") that is checked, in the folder, too: a file
    with another hash is not used, but replaced.

    Raises
    ------
    InvalidParameterError
        The URL names no file.
    ModelNotFoundError
        It is not there and cannot be downloaded; the message says what was tried, in order.
    """
    parts = urlsplit(url)
    name = Path(parts.path).name
    if parts.scheme not in ("http", "https") or not name:
        raise InvalidParameterError(f"expected the http or https URL of a file, got {url!r}.")
    path = _folder() / name
    found = re.search(r"-([0-9a-f]{8,64})\.\w+$", name)
    prefix = found[1] if found else ""
    with _one_at_a_time.hold(path):
        fault = _fault(path, prefix)
        if fault is None:
            return path
        tried = [f"the file {path}: {fault}"]
        if is_offline():
            tried.append(f"{url}: not asked: offline mode is on (HF_HUB_OFFLINE)")
            raise _not_found(name, path, url, tried)
        try:
            _download(url, path, prefix)
        except (OSError, ValueError, HTTPException) as error:
            # Network errors, a full disk, and what the checks of the download found.
            tried.append(f"{url}: {_explain(error)}")
            raise _not_found(name, path, url, tried) from error
    return path


def _folder() -> Path:
    import torch

    return Path(os.path.expanduser(torch.hub.get_dir())) / "checkpoints"  # noqa: PTH111


def _fault(path: Path, prefix: str) -> str | None:
    """Say why a file cannot be used; None if it can."""
    try:
        if not path.is_file():
            return "not there"
        return _wrong_hash(file_sha256(path), prefix) if prefix else None
    except OSError as error:
        return f"it cannot be read ({error})"


def _wrong_hash(digest: str, prefix: str) -> str | None:
    if digest.startswith(prefix):
        return None
    return f"damaged: its SHA-256 begins with {digest[: len(prefix)]}, its name says {prefix}"


def _download(url: str, path: Path, prefix: str) -> None:
    """Fetch a file; it gets its name when it is whole and checked.

    torch.hub's own function keeps files that were cut short where their name has no hash.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with draft.open("xb") as file:
            digest = _fetch(url, file)
        fault = _wrong_hash(digest, prefix)
        if fault is not None:
            raise ValueError(fault)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _fetch(url: str, file: BinaryIO) -> str:
    """Write what the URL gives to a file; return its SHA-256."""
    from tqdm import tqdm

    digest = hashlib.sha256()
    with urlopen(Request(url, headers={"User-Agent": "skembed"}), timeout=_TIMEOUT) as answer:
        size = int(answer.headers.get("Content-Length") or 0)
        options = {"unit": "B", "unit_scale": True, "delay": _BAR_DELAY}
        with tqdm(total=size or None, desc=Path(url).name, **options) as bar:
            while chunk := answer.read(_READ_BYTES):
                file.write(chunk)
                digest.update(chunk)
                bar.update(len(chunk))
    if size and file.tell() != size:
        raise ValueError(f"cut short: {file.tell()} bytes came of {size}")
    return digest.hexdigest()


def _explain(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return f"HTTP {error.code}: {error.reason}"
    if isinstance(error, ValueError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _not_found(name: str, path: Path, url: str, tried: list[str]) -> ModelNotFoundError:
    lines = [f"  {n}. {line}" for n, line in enumerate(tried, 1)]
    advice = [f"  - download {url} elsewhere and put the file at {path}"]
    if is_offline():
        advice.append("  - unset HF_HUB_OFFLINE to let it be downloaded")
    message = [f"No weight file {name}. Tried, in order:", *lines, "What to do:", *advice]
    return ModelNotFoundError("\n".join(message))
