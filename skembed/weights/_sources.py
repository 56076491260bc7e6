"""What a model is read from: a folder, one file, or nothing but an architecture.

Owns their digests. Must not know models or how they are loaded.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Literal, TypeVar

from skembed._backbone import Source
from skembed.exceptions import UnsupportedModelError
from skembed.weights._digest import file_sha256, folder_digest
from skembed.weights._files import model_files, wanted_files
from skembed.weights._load import KINDS

__all__ = ["FileSource", "FilesSource", "FolderSource", "RandomSource", "releases_of"]

T = TypeVar("T")


def releases_of(*libraries: str) -> dict[str, str]:
    """Return each library's release as major.minor: fixes are taken to change no vector."""
    releases = {name: _release_of(name) for name in libraries}
    return {name: ".".join(release.split(".")[:2]) for name, release in releases.items()}


def _release_of(library: str) -> str:
    found: str | None = getattr(import_module(library), "__version__", None)
    return found or version(library)


def _changed(place: Path) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{place} changed while the model was in use. Call again once it is complete."
    )


class _Files(Source):
    """What lies on the disk and may change there."""

    @abstractmethod
    def _look(self) -> tuple[Path, bytes]:
        """Return where the files are, and their digest as they are now."""

    @abstractmethod
    def _paths(self) -> list[Path]:
        """Return the files."""

    @cached_property
    def digest(self) -> bytes:  # type: ignore[override]
        """Return the digest of the files as they were when it was first asked for."""
        return self._look()[1]

    def check_unchanged(self) -> None:
        """Check that the files are still those of the digest."""
        place, digest = self._look()
        if digest != self.digest:
            raise _changed(place)

    def read(self, make: Callable[[], T]) -> T:
        """Return what `make` reads of the files; refuse it if they changed, even for a moment."""
        before = self._stamps()
        try:
            made = make()
        except Exception as error:
            if self._stamps() != before:  # it may have met half a file
                raise _changed(self._look()[0]) from error
            raise
        self.check_unchanged()
        if self._stamps() != before:  # and back again
            raise _changed(self._look()[0])
        return made

    def _stamps(self) -> list[tuple[str, int, int, int, int]]:
        """Return what changes with every change of a file."""
        found = [(str(path), path.stat()) for path in self._paths() if path.exists()]
        return [(name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for name, s in found]


@dataclass(frozen=True)
class FolderSource(_Files):
    """A folder with the configuration and the weights of a model, named as the user did.

    The revision is the commit of a model of the hub, where known.
    """

    name: str
    folder: Path
    origin: Literal["folder", "package", "hub"] = "folder"
    revision: str | None = None

    def _look(self) -> tuple[Path, bytes]:
        return self.folder, folder_digest(self.folder)

    def _paths(self) -> list[Path]:
        return [self.folder / name for name in model_files(self.folder)]

    def n_bytes(self) -> int:
        """Return the size of the weight files; of several formats of one model, that of one."""
        names = wanted_files(model_files(self.folder))
        weights = [name for name in names if Path(name).suffix in KINDS]
        return sum((self.folder / name).stat().st_size for name in weights)


@dataclass(frozen=True)
class FileSource(_Files):
    """A single weight file, whose digest is its SHA-256."""

    name: str
    path: Path

    def _look(self) -> tuple[Path, bytes]:
        return self.path, bytes.fromhex(file_sha256(self.path))

    def _paths(self) -> list[Path]:
        return [self.path]

    def n_bytes(self) -> int:
        """Return the size of the file."""
        return self.path.stat().st_size


@dataclass(frozen=True)
class FilesSource(_Files):
    """Several files of one model, by what each is for, not by its name."""

    name: str
    paths: tuple[Path, ...]

    def _look(self) -> tuple[Path, bytes]:
        digests = [file_sha256(path) for path in self.paths]
        return self.paths[0].parent, blake2b(" ".join(digests).encode(), digest_size=16).digest()

    def _paths(self) -> list[Path]:
        return list(self.paths)

    def n_bytes(self) -> int:
        """Return the size of the files."""
        return sum(path.stat().st_size for path in self.paths)


@dataclass(frozen=True)
class RandomSource(Source):
    """Random weights of a model, always the same for a release of torch."""

    name: str
    count_bytes: Callable[[], int]

    @cached_property
    def digest(self) -> bytes:  # type: ignore[override]
        """Return a digest of the model and torch's release, whose random numbers they are."""
        told = f"random {self.name} {releases_of('torch')}"
        return blake2b(told.encode(), digest_size=16).digest()

    def n_bytes(self) -> int:
        """Return the size of the weights."""
        return self.count_bytes()

    def check_unchanged(self) -> None:
        """Do nothing: there are no files."""
