"""Words and their vectors as they are used: converted once into files that open at once.

The copy lies in the user's cache folder under the digest of what it was made of. It is written once
and never changed, so that it can be mapped into memory: processes share its pages, and only those
that are read take memory. If the folder cannot be used, the table is made in memory.
"""

from __future__ import annotations

import bisect
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skembed.exceptions import SkembedWarning, UnsupportedModelError, warn_user
from skembed.store._locks import lock_file
from skembed.text.static._fasttext import Ngrams, compose_words
from skembed.text.static._formats import open_words
from skembed.weights import FilesSource, user_cache_folder

__all__ = ["WordTable", "find_table"]

_FORMAT = 1
_FACTS = "facts.json"
_PARTS: dict[str, np.dtype[Any]] = {
    "vectors": np.dtype("<f4"),
    "text": np.dtype("u1"),
    "ends": np.dtype("<i8"),
    "hashes": np.dtype("<u8"),
    "order": np.dtype("<i8"),
}
"""The files of a table, and what they are made of."""


@dataclass(frozen=True)
class _Facts:
    """What is small: sizes, whether words have capitals, n-grams."""

    n_rows: int
    n_words: int
    n_bytes: int
    width: int
    has_capitals: bool
    ngrams: tuple[int, int, int] | None


@dataclass(frozen=True, eq=False)
class WordTable:
    """Vectors of words, then those of groups of letters; and where each word is.

    `vectors` has shape (n_rows, width). The UTF-8 of all words is `text`, end to end; `ends` says
    where each ends. `hashes` are sorted, and `order` has the word of each.
    """

    vectors: NDArray[np.float32]
    text: NDArray[np.uint8]
    ends: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    order: NDArray[np.int64]
    facts: _Facts

    def __len__(self) -> int:
        return self.facts.n_words

    @property
    def has_capitals(self) -> bool:
        """Whether some word has a capital letter."""
        return self.facts.has_capitals

    @property
    def is_mapped(self) -> bool:
        """Whether it lies in files."""
        return isinstance(self.vectors, np.memmap)

    @cached_property
    def ngrams(self) -> Ngrams | None:
        """The groups of letters that have rows after those of the words."""
        return None if self.facts.ngrams is None else Ngrams(*self.facts.ngrams)

    @cached_property
    def _sorted(self) -> memoryview:
        found: Any = self.hashes
        return memoryview(found)

    def find(self, word: str) -> int:
        """Return the row of a word; -1 of one that is not here. Of equal words the first counts."""
        content = word.encode("utf-8", "surrogatepass")
        wanted = _hash(content)
        at = bisect.bisect_left(self._sorted, wanted)
        while at < len(self._sorted) and self._sorted[at] == wanted:
            row = int(self.order[at])
            if self._content(row) == content:
                return row
            at += 1
        return -1

    def word(self, row: int) -> str:
        """Return a word."""
        return self._content(row).decode("utf-8", "replace")

    def _content(self, row: int) -> bytes:
        start = int(self.ends[row - 1]) if row else 0
        return self.text[start : int(self.ends[row])].tobytes()


def _hash(content: bytes) -> int:
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "little")


def find_table(source: FilesSource) -> WordTable:
    """Return the table of a file of word vectors."""
    path = source.paths[0]
    place = user_cache_folder() / "words" / f"{source.digest.hex()[:32]}-{_FORMAT}"
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_others_folder(place.parent)
        with _in_turn(place.with_suffix(".lock")):
            table = _open(place)
            if table is None:
                _convert_into(place, source)
                table = _open(place)
        if table is not None:
            return table
        problem = "it was taken away meanwhile"
    except UnsupportedModelError:
        raise
    except OSError as error:
        if not path.is_file():
            raise
        problem = f"{error}"
    warn_user(
        f"The vectors of {path} cannot be kept in {place.parent} ({problem}): this process reads "
        "the whole file into memory, and so will the next. SKEMBED_HOME can name another folder.",
        SkembedWarning,
        once=f"words in memory {path}",
    )
    return source.read(lambda: _convert_in_memory(path))


def _refuse_others_folder(folder: Path) -> None:
    """Refuse what others may have written: it is not looked at closer."""
    if hasattr(os, "getuid") and folder.stat().st_uid not in (os.getuid(), 0):
        raise PermissionError("it belongs to another user")


@contextmanager
def _in_turn(path: Path) -> Iterator[None]:
    """Hold a lock, so that of several processes one converts and the others wait for it."""
    descriptor = lock_file(path)
    while descriptor is None:
        time.sleep(0.05)
        descriptor = lock_file(path)
    try:
        yield
    finally:
        os.close(descriptor)


def _open(place: Path) -> WordTable | None:
    """Map a table that is there and whole."""
    try:
        values = json.loads((place / _FACTS).read_text(encoding="utf-8"))
        facts = _Facts(**values)
        shapes = _shapes(facts)
        paths = {name: place / name for name in _PARTS}
        for name, found in paths.items():
            if found.stat().st_size != np.prod(shapes[name]) * _PARTS[name].itemsize:
                return None
    except (OSError, ValueError, TypeError):
        return None
    # Of the vectors a writable view, of which writing would change nothing on the disk: torch
    # takes no other without a warning.
    modes: dict[str, Any] = {name: "c" if name == "vectors" else "r" for name in _PARTS}
    parts = {n: np.memmap(p, _PARTS[n], modes[n], shape=shapes[n]) for n, p in paths.items()}
    return WordTable(**parts, facts=facts)


def _shapes(facts: _Facts) -> dict[str, tuple[int, ...]]:
    of_words = dict.fromkeys(("ends", "hashes", "order"), (facts.n_words,))
    return {"vectors": (facts.n_rows, facts.width), "text": (facts.n_bytes,), **of_words}


def _convert_into(place: Path, source: FilesSource) -> None:
    """Write the table of a file; it appears at its place when it is whole, and the file's own."""
    draft = place.with_name(f".{place.name}-{uuid.uuid4().hex}")
    draft.mkdir(mode=0o700)
    try:
        source.read(lambda: _write(draft, source.paths[0]))
        for each in draft.iterdir():
            each.chmod(0o400)  # not to be changed
        if place.exists():  # damaged
            shutil.rmtree(place)
        draft.rename(place)
    finally:
        with suppress(OSError):
            shutil.rmtree(draft)


def _write(draft: Path, path: Path) -> None:
    with open_words(path) as found:
        words: list[bytes] = []
        with (draft / "vectors").open("wb") as file:
            for some, rows in found.blocks:
                _check(rows, some, len(words), path)
                words += some
                file.write(np.ascontiguousarray(rows, "<f4").data)
            n_rows = file.tell() // (4 * found.width)
        _refuse_none(words, path)
        vectors: Any = np.memmap(draft / "vectors", "<f4", "r+", shape=(n_rows, found.width))
        facts, parts = _finished(words, vectors, found.ngrams)
        vectors.flush()
        del vectors
    for name, array in parts.items():
        array.tofile(draft / name)
    (draft / _FACTS).write_text(json.dumps(asdict(facts)), encoding="utf-8")


def _convert_in_memory(path: Path) -> WordTable:
    words: list[bytes] = []
    found = []
    with open_words(path) as source:
        for some, rows in source.blocks:
            _check(rows, some, len(words), path)
            words += some
            found.append(rows)
        _refuse_none(words, path)
        vectors = np.concatenate(found, dtype=np.float32)
        facts, parts = _finished(words, vectors, source.ngrams)
    return WordTable(vectors=vectors, **parts, facts=facts)


def _finished(
    words: list[bytes], vectors: NDArray[np.float32], ngrams: Ngrams | None
) -> tuple[_Facts, dict[str, NDArray[Any]]]:
    """Compose words of their n-grams; return what finds them."""
    if ngrams is not None:
        compose_words(vectors, words, ngrams)
    hashes = np.fromiter(map(_hash, words), np.uint64, len(words))
    order = np.argsort(hashes, kind="stable")  # of equal words the first stays the first
    text = np.frombuffer(b"".join(words), np.uint8)
    said = text.tobytes().decode("utf-8", "replace")
    facts = _Facts(
        n_rows=len(vectors),
        n_words=len(words),
        n_bytes=len(text),
        width=vectors.shape[1],
        has_capitals=said != said.lower(),
        ngrams=None if ngrams is None else (ngrams.shortest, ngrams.longest, ngrams.n_buckets),
    )
    ends = np.cumsum(np.fromiter(map(len, words), np.int64, len(words)))
    parts = {"text": text, "ends": ends, "hashes": hashes[order], "order": order}
    return facts, {name: np.asarray(array, _PARTS[name]) for name, array in parts.items()}


def _check(rows: NDArray[np.float32], words: list[bytes], n_before: int, path: Path) -> None:
    is_bad = ~np.isfinite(rows).all(axis=1)
    if is_bad.any():
        row = int(np.flatnonzero(is_bad)[0])
        named = f" ({words[row].decode('utf-8', 'replace')!r:.60})" if row < len(words) else ""
        raise UnsupportedModelError(
            f"{path}: vector {n_before + row:,}{named} has values that are not finite. Download "
            "the file again, or remove that word."
        )


def _refuse_none(words: list[bytes], path: Path) -> None:
    if not any(words):
        raise UnsupportedModelError(f"{path} has no words.")
