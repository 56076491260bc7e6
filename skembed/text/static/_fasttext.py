"""fastText's own binary files, and the groups of letters that its vectors of words are made of.

Bojanowski, Grave, Joulin and Mikolov, "Enriching Word Vectors with Subword Information", TACL 2017,
arXiv:1607.04606. The layout is that of fastText 0.9 (format version 12).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from skembed.exceptions import UnsupportedModelError
from skembed.text.static._kinds import FASTTEXT
from skembed.text.static._stream import Stream

__all__ = ["Ngrams", "compose_words", "read_fasttext"]

_VERSIONS = (11, 12)
_SUPERVISED = 3
_END_OF_SENTENCE = b"</s>"
_ROWS_AT_ONCE = 4096
_PRIME, _BASIS = np.uint32(16777619), np.uint32(2166136261)  # of 32-bit FNV-1a


@dataclass(frozen=True)
class Ngrams:
    """Groups of `shortest` to `longest` letters, hashed to `n_buckets` rows."""

    shortest: int
    longest: int
    n_buckets: int

    def rows_of(self, words: Sequence[bytes]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows of all words' groups, end to end, and how many each word has.

        Groups are taken of "<word>"; its two ends alone are none.
        """
        marked = [b"<" + word + b">" if word != _END_OF_SENTENCE else b"" for word in words]
        data = np.frombuffer(b"".join(marked), dtype=np.uint8)
        word_of = np.repeat(np.arange(len(words)), list(map(len, marked)))
        starts = np.flatnonzero((data & 0xC0) != 0x80)  # of letters in UTF-8
        ends = np.append(starts[1:], len(data))
        word_of = word_of[starts]
        n_letters = np.bincount(word_of, minlength=len(words))
        last = np.cumsum(n_letters)[word_of]  # beyond the last letter of the word
        first = last - n_letters[word_of]
        # fastText takes bytes for signed, by which those of letters beyond ASCII differ.
        signed = data.view(np.int8).astype(np.int32).view(np.uint32)
        hashes = np.full(len(starts), _BASIS)
        found, of_word = [], []
        for n in range(1, self.longest + 1):
            at = np.flatnonzero(np.arange(len(starts)) + n <= last)
            letter = at + n - 1
            for i in range(int((ends - starts).max(initial=0))):
                place = starts[letter] + i
                is_of_it = place < ends[letter]
                some = at[is_of_it]
                hashes[some] = (hashes[some] ^ signed[place[is_of_it]]) * _PRIME
            if n < self.shortest:
                continue
            if n == 1:
                at = at[(at != first[at]) & (at + 1 != last[at])]
            found.append(hashes[at] % np.uint32(self.n_buckets))
            of_word.append(word_of[at])
        words_found = np.concatenate(of_word) if of_word else np.empty(0, np.int64)
        order = np.argsort(words_found, kind="stable")
        rows = np.concatenate(found)[order] if found else words_found
        return rows.astype(np.int64), np.bincount(words_found, minlength=len(words))


def compose_words(vectors: NDArray[np.float32], words: Sequence[bytes], ngrams: Ngrams) -> None:
    """Replace the rows of words by their vectors: the means of their own rows and their groups'.

    The rows of groups follow those of words, and stay.
    """
    for start in range(0, len(words), _ROWS_AT_ONCE):
        some = words[start : start + _ROWS_AT_ONCE]
        rows, counts = ngrams.rows_of(some)
        ends = np.concatenate([[0], np.cumsum(counts)])
        ones = np.ones(len(rows), np.float32)
        groups = csr_array((ones, rows + len(words), ends), shape=(len(some), len(vectors)))
        own = vectors[start : start + len(some)]
        own += groups @ vectors
        own /= (counts + 1)[:, None].astype(np.float32)


def read_fasttext(
    stream: Stream,
) -> tuple[int, Ngrams | None, Iterator[tuple[list[bytes], NDArray[np.float32]]]]:
    """Return the width, the n-grams and blocks of words and rows, those of n-grams at the end."""
    (version,) = struct.unpack("<i", stream.take(8)[len(FASTTEXT) :])
    if version not in _VERSIONS:
        raise UnsupportedModelError(
            f"it is of fastText's format {version}; skembed reads {_VERSIONS[0]} and "
            f"{_VERSIONS[1]}."
        )
    settings = struct.unpack("<12id", stream.take(56))
    width, _, _, _, _, _, _, model, n_buckets, shortest, longest, _, _ = settings
    if version == 11 and model == _SUPERVISED:
        longest = 0  # as fastText itself does: these were trained without
    n_entries, n_words, _, _, n_pruned = struct.unpack("<iiiqq", stream.take(28))
    words = []
    for i in range(n_entries):
        word = stream.until(b"\0", 1 << 16)
        stream.take(9)  # how often it was counted, and whether it is a label: those come last
        if i < n_words:
            words.append(word)
    is_quantized = stream.take(1) != b"\0"
    if is_quantized or n_pruned >= 0:
        raise UnsupportedModelError(
            "it is quantized (`fasttext quantize`), which skembed does not read. Pass the .bin "
            "that it was made from."
        )
    n_rows, n_features = struct.unpack("<qq", stream.take(16))
    has_ngrams = longest > 0 and n_buckets > 0
    if (
        n_features != width
        or not 0 < width <= 100_000
        or n_words < 1
        or n_rows < n_words + (n_buckets if has_ngrams else 0)
    ):
        raise ValueError(f"it is damaged: {n_rows:,} rows of {n_features:,} for {n_words:,} words")
    ngrams = Ngrams(max(shortest, 1), longest, n_buckets) if has_ngrams else None
    n_read = n_words + n_buckets if has_ngrams else n_words
    return width, ngrams, _blocks(stream, words, n_read, width)


def _blocks(
    stream: Stream, words: list[bytes], n_rows: int, width: int
) -> Iterator[tuple[list[bytes], NDArray[np.float32]]]:
    for start in range(0, n_rows, _ROWS_AT_ONCE):
        n_some = min(_ROWS_AT_ONCE, n_rows - start)
        rows = np.frombuffer(stream.take(4 * width * n_some), "<f4").reshape(-1, width)
        yield words[start : start + n_some], rows
