"""Files of word vectors as others write them: text of GloVe and word2vec, binary, NumPy.

Knows formats, not what words are for. Nothing is unpickled, and files are read, never mapped:
whoever cuts a mapped file short kills the process.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from skembed.exceptions import UnsupportedModelError
from skembed.text.static._fasttext import Ngrams, read_fasttext
from skembed.text.static._kinds import format_of_words
from skembed.text.static._stream import CutShortError, Stream

__all__ = ["Block", "WordFile", "files_of", "open_words"]

Block = tuple[list[bytes], NDArray[np.float32]]
"""Words in UTF-8, and the rows of as many or more vectors."""

_LINES_AT_ONCE = 2048
_MOST_FEATURES = 100_000


@dataclass(frozen=True)
class WordFile:
    """An open file: its words and vectors in blocks, and the n-grams whose rows follow them."""

    width: int
    blocks: Iterator[Block]
    ngrams: Ngrams | None = None


def files_of(path: Path) -> list[Path]:
    """Return the files that word vectors are read from: an array's words lie beside it."""
    if format_of_words(path) != "npy":
        return [path]
    beside = [path.with_suffix(suffix) for suffix in (".txt", ".json")]
    found = [each for each in beside if each.is_file()]
    if not found:
        raise UnsupportedModelError(
            f"{path} holds vectors without their words: expected {beside[0].name}, one word a "
            f"line, or {beside[1].name}, a list of words, beside it."
        )
    return [path, found[0]]


@contextmanager
def open_words(path: Path) -> Iterator[WordFile]:
    """Open a file of word vectors; what is damaged in it is an UnsupportedModelError."""
    kind = format_of_words(path)
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        try:
            if kind == "npy":
                yield _read_npy(file, *files_of(path))
            elif kind == "fasttext":
                width, ngrams, blocks = read_fasttext(Stream(file))
                yield WordFile(width, blocks, ngrams)
            elif kind == "binary":
                yield _read_binary(Stream(file))
            elif kind == "text":
                yield _read_text(file)
            else:
                raise ValueError("it is no file of word vectors in a known format")
        except (CutShortError, EOFError) as error:
            raise UnsupportedModelError(
                f"{path} ends too early ({error}). Download or save it again."
            ) from None
        except UnsupportedModelError as error:
            raise UnsupportedModelError(f"{path}: {error}") from None
        except ValueError as error:
            raise UnsupportedModelError(f"{path} cannot be read: {error}.") from None


def _read_text(file: BinaryIO | Any) -> WordFile:
    """Read a word and its numbers a line, after a header or not."""
    first = _without_mark(file.readline())
    header = re.fullmatch(rb"\s*(\d+) +(\d+) *\r?\n", first)
    if header:
        n_words, width = int(header[1]), _checked_width(int(header[2]))
        return WordFile(width, _lines(file, [], width, n_words))
    width = _checked_width(first.strip().count(b" "))
    return WordFile(width, _lines(file, [first], width, None))


def _lines(file: Any, lines: list[bytes], width: int, n_words: int | None) -> Iterator[Block]:
    n_done, n_before = 0, 1 + (n_words is not None)
    while True:
        lines += file.readlines(1 << 22)
        if not lines:
            break
        for start in range(0, len(lines), _LINES_AT_ONCE):
            some = lines[start : start + _LINES_AT_ONCE]
            yield _parse(some, width, n_before + n_done + start)
        n_done += len(lines)
        lines = []
    if n_words is not None and n_done != n_words:
        raise CutShortError(f"its header says {n_words:,} words, and it has {n_done:,}")


def _parse(lines: list[bytes], width: int, number: int) -> Block:
    """Return words and numbers of lines, of which the first has a number in the file."""
    words, numbers = [], []
    for i, line in enumerate(lines):
        word, _, rest = line.rstrip().partition(b" ")
        n_more = rest.count(b" ") + 1 - width
        if n_more > 0:  # spaces inside of a word, as GloVe of Common Crawl has them
            word, *parts = line.rstrip().rsplit(b" ", width)
            rest = b" ".join(parts)
        elif n_more < 0:
            raise ValueError(f"line {number + i:,} has {width + n_more} numbers, expected {width}")
        words.append(word)
        numbers.append(rest)
    try:
        values = _parse_numbers(b" ".join(numbers), len(lines) * width)
    except ValueError:
        for i, each in enumerate(numbers):
            try:
                _parse_numbers(each, width)
            except ValueError:
                what = f"line {number + i:,} has something that is not a number"
                raise ValueError(what) from None
        raise
    return words, values.reshape(-1, width)


def _parse_numbers(text: bytes, n: int) -> NDArray[np.float32]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # of what is no number, as of 2.x
        try:
            values = np.fromstring(text, dtype=np.float32, sep=" ")
        except DeprecationWarning as error:
            raise ValueError(str(error)) from None
    if len(values) != n:
        raise ValueError(f"expected {n} numbers, got {len(values)}")
    return values


def _read_binary(stream: Stream) -> WordFile:
    """Read word2vec's binary: a header, then a word, a space and its floats, perhaps a new line."""
    n_words, width = map(int, stream.until(b"\n", 64).split())
    return WordFile(width, _records(stream, n_words, _checked_width(width)))


def _records(stream: Stream, n_words: int, width: int) -> Iterator[Block]:
    for start in range(0, n_words, _LINES_AT_ONCE):
        words, raw = [], []
        for _ in range(min(_LINES_AT_ONCE, n_words - start)):
            words.append(stream.until(b" ", 1 << 16).lstrip(b"\n"))
            raw.append(stream.take(4 * width))
        yield words, np.frombuffer(b"".join(raw), "<f4").reshape(-1, width)


def _read_npy(file: Any, path: Path, words_path: Path) -> WordFile:
    words = _read_list(words_path)
    version = np.lib.format.read_magic(file)
    read = getattr(np.lib.format, f"read_array_header_{version[0]}_0", None)
    if read is None:
        raise ValueError(f"it is of NumPy's format {version}")
    shape, is_fortran, dtype = read(file)
    if dtype.hasobject or dtype.kind not in "fiu" or len(shape) != 2:
        raise ValueError(f"expected a 2-D array of numbers, got {dtype} of shape {shape}")
    if len(words) != shape[0]:
        raise ValueError(f"it has {shape[0]:,} vectors, and {words_path.name} {len(words):,} words")
    width = _checked_width(shape[1])
    if is_fortran:  # column by column: no row is whole before the end
        file.seek(0)
        values = np.lib.format.read_array(file, allow_pickle=False)
        file = io.BytesIO(np.ascontiguousarray(values).data)
    return WordFile(width, _rows(Stream(file), words, width, dtype))


def _rows(stream: Stream, words: list[bytes], width: int, dtype: Any) -> Iterator[Block]:
    for start in range(0, len(words), _LINES_AT_ONCE):
        some = words[start : start + _LINES_AT_ONCE]
        values = np.frombuffer(stream.take(len(some) * width * dtype.itemsize), dtype)
        yield some, values.reshape(-1, width).astype(np.float32)


def _without_mark(content: bytes) -> bytes:
    """Return what follows the byte-order mark that editors under Windows begin a text with."""
    return content.removeprefix(codecs.BOM_UTF8)


def _read_list(path: Path) -> list[bytes]:
    if path.suffix == ".txt":
        content = _without_mark(path.read_bytes()).replace(b"\r\n", b"\n")
        return content.removesuffix(b"\n").split(b"\n")
    words = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"expected a list of words in {path.name}")
    return [word.encode("utf-8", "surrogatepass") for word in words]


def _checked_width(width: int) -> int:
    if not 0 < width <= _MOST_FEATURES:
        raise ValueError(f"its vectors would have {width:,} features")
    return width
