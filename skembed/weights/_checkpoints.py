"""Single weight files that are known by their URL, as torchvision and torchaudio publish them.

Owns where such a file is kept (torch's own cache folder) and whether it is the right one. Must not
know what is in it. torch is imported when a file is looked for.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

from skembed.exceptions import ModelNotFoundError
from skembed.weights._digest import file_sha256
from skembed.weights._hub import is_offline
from skembed.weights._locks import KeyLocks

__all__ = ["find_checkpoint"]

_one_at_a_time = KeyLocks()


def find_checkpoint(url: str) -> Path:
    """Return the local file of a URL, downloading it if need be.

    Files are kept in torch's cache folder (`torch.hub.get_dir()`, set by ``TORCH_HOME``), where
    torchvision itself looks for them. Where a file's name carries the beginning of its SHA-256, as
    in ``resnet50-11ad3fa6.pth``, the file is checked, also one that is there already.

    Parameters
    ----------
    url : str
        Address of the file.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ModelNotFoundError
        It is neither there nor can be downloaded, or is not the right one; the message says what
        was tried and what to do.
    """
    import torch

    name = PurePosixPath(urlparse(url).path).name
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    found = re.search(r"-([0-9a-f]{8,64})\.\w+$", name)
    start_of_hash = found.group(1) if found else ""
    with _one_at_a_time.hold(str(path)):
        if not path.is_file():
            _download(url, path, start_of_hash)
        _check(url, path, start_of_hash)
    return path


def _check(url: str, path: Path, start_of_hash: str) -> None:
    sha256 = file_sha256(path)
    if not sha256.startswith(start_of_hash):
        raise ModelNotFoundError(
            f"{path} is not the file that its name says: its SHA-256 begins {sha256[:8]}, expected "
            f"{start_of_hash}. Delete it, and it is downloaded again from {url}."
        )


def _download(url: str, path: Path, start_of_hash: str) -> None:
    import torch

    tried = f"Weights {path.name} were not found. Tried, in order:\n  1. {path}: not there\n"
    advice = f"Download {url} on a machine with a network and put it at {path}"
    if is_offline():
        raise ModelNotFoundError(
            f"{tried}  2. {url}: not asked, offline mode is on (HF_HUB_OFFLINE)\nWhat to do:\n"
            f"  - {advice}\n  - or unset HF_HUB_OFFLINE to let it be downloaded"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written beside it and renamed when whole.
        torch.hub.download_url_to_file(
            url, str(path), hash_prefix=start_of_hash or None, progress=False
        )
    # A network's errors are OSErrors; a wrong hash is a RuntimeError, a wrong URL a ValueError.
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelNotFoundError(
            f"{tried}  2. {url}: {type(error).__name__}: {error}\nWhat to do:\n  - {advice}"
        ) from error
