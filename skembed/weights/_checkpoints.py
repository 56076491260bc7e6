"""Single weight files known by their URL, in the cache shared with torch.hub.

Owns where such a file is looked for and when it is trusted. Must not know models or what the files
contain. torch is imported when the first file is needed.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from skembed._forks import KeyLocks
from skembed.exceptions import InvalidParameterError, ModelNotFoundError
from skembed.store import write_whole
from skembed.weights._digest import file_sha256
from skembed.weights._hub import is_offline

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
    with another hash is replaced.
    """
    import torch

    parts = urlsplit(url)
    name = Path(parts.path).name
    if parts.scheme not in ("http", "https") or not name:
        raise InvalidParameterError(f"expected the http or https URL of a file, got {url!r}.")
    path = Path(os.path.expanduser(torch.hub.get_dir())) / "checkpoints" / name  # noqa: PTH111
    found = re.search(r"-([0-9a-f]{8,64})\.\w+$", name)
    prefix = found[1] if found else ""
    with _one_at_a_time.hold(path):
        try:
            if prefix:
                _check(file_sha256(path), prefix)
            else:
                path.stat()
            return path
        except (OSError, ValueError) as error:
            is_there = not isinstance(error, FileNotFoundError)
            tried = f"  1. the file {path}: {error if is_there else 'not there'}"
        message = f"No weight file {name}. Tried, in order:\n{tried}\n  2. {url}: "
        advice = f"\nWhat to do:\n  - download {url} elsewhere and put the file at {path}"
        if is_offline():
            message += "not asked: offline mode is on (HF_HUB_OFFLINE)"
            advice += "\n  - unset HF_HUB_OFFLINE to let it be downloaded"
            raise ModelNotFoundError(message + advice)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, _download(url, prefix, name))  # torch.hub's own is not checked
        except (OSError, ValueError, HTTPException) as error:  # of the network, the disk, _check
            message += f"{type(error).__name__}: {error}"
            raise ModelNotFoundError(message + advice) from None
        return path


def _check(digest: str, prefix: str) -> None:
    if not digest.startswith(prefix):
        found = digest[: len(prefix)]
        raise ValueError(f"damaged: its SHA-256 begins with {found}, its name says {prefix}")


def _download(url: str, prefix: str, name: str) -> Iterator[bytes]:
    """Fetch a file; a ValueError at its end if it is not whole, or another one."""
    from tqdm import tqdm

    request = Request(url, headers={"User-Agent": "skembed"})
    digest, n_bytes = hashlib.sha256(), 0
    with urlopen(request, timeout=_TIMEOUT) as answer:
        size = int(answer.headers.get("Content-Length") or 0)
        options = {"unit": "B", "unit_scale": True, "delay": _BAR_DELAY}
        with tqdm(total=size or None, desc=name, **options) as bar:
            while chunk := answer.read(_READ_BYTES):
                yield chunk
                digest.update(chunk)
                n_bytes += len(chunk)
                bar.update(len(chunk))
        if size and n_bytes != size:
            raise ValueError(f"cut short: {n_bytes} bytes came of {size}")
    _check(digest.hexdigest(), prefix)
