"""What models are read from: a folder, a file, or nothing, where weights are random.

Knows files and their digests, not what is in them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from skembed._backbone import Source
from skembed.exceptions import UnsupportedModelError
from skembed.weights._digest import file_sha256, folder_digest
from skembed.weights._releases import releases_of

__all__ = ["FileSource", "FolderSource", "RandomSource"]

_KINDS = {".safetensors", ".bin", ".pt", ".pth", ".ckpt"}


class FolderSource(Source):
    """A folder with configuration and weights.

    Parameters
    ----------
    name : str
        The name as the user gave it.
    folder : Path
        Where it is.
    origin : {"folder", "package", "hub"}
        Whether the user named the folder, or it belongs to an installed package or to the hub's
        cache.
    revision : str or None
        The commit of a model of the hub, where known.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        origin: Literal["folder", "package", "hub"] = "folder",
        revision: str | None = None,
    ) -> None:
        self.name, self.folder, self.origin, self.revision = name, folder, origin, revision
        self.digest = folder_digest(folder)

    def n_bytes(self) -> int:
        """Return the size of the weight files."""
        paths = (path for path in self.folder.rglob("*") if path.suffix in _KINDS)
        return sum(path.stat().st_size for path in paths)

    def check_unchanged(self) -> None:
        """Check that no file has changed."""
        if folder_digest(self.folder) != self.digest:
            raise UnsupportedModelError(
                f"The files in {self.folder} changed while the model was in use. Call again when "
                "they are all written."
            )


class FileSource(Source):
    """A file with a state dict."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path
        self.digest = bytes.fromhex(file_sha256(path))

    def n_bytes(self) -> int:
        """Return the size of the file."""
        return self.path.stat().st_size

    def check_unchanged(self) -> None:
        """Check that the file has not changed."""
        if bytes.fromhex(file_sha256(self.path)) != self.digest:
            raise UnsupportedModelError(
                f"{self.path} changed while the model was in use. Call again when it is written."
            )


class RandomSource(Source):
    """Random weights, the same in every process: torch's release decides them."""

    def __init__(self, name: str, count_bytes: Callable[[], int]) -> None:
        self.name, self._count_bytes = name, count_bytes
        self.digest = hashlib.blake2b(
            f"random weights {releases_of('torch')['torch']}".encode(), digest_size=16
        ).digest()

    def n_bytes(self) -> int:
        """Return the size of the weights."""
        return self._count_bytes()

    def check_unchanged(self) -> None:
        """Do nothing."""
