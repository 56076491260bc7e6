"""Texts to rows of a table of words: what is one word, and what is not known.

A text is split at white space. A piece that the vocabulary has is one word; of another, punctuation
around it is taken off, and the rest is a word, or is parted as treebanks part it ("do", "n't";
"John", "'s"), or at each mark inside. Knows words, not vectors.
"""

from __future__ import annotations

import functools
import re
import threading
import unicodedata
from collections.abc import Iterator
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from skembed.text.static._table import WordTable

__all__ = ["WordReader"]

_UNKNOWN = -1
_OTHERS = -2
"""Rows at and below stand for words outside the vocabulary that have groups of letters."""

_MOST_KEPT = 1 << 18
_LONGEST_KEPT = 100
_CLITICS = re.compile(r"(.+?)(n't|'(?:s|re|ve|ll|d|m))", re.IGNORECASE)


@functools.cache
def _runs() -> re.Pattern[str]:
    """Return what finds letters, digits and the marks upon them, as of vowels in Hindi."""
    marks = [c for c in map(chr, range(0x300, 0x1F000)) if unicodedata.category(c)[0] == "M"]
    return re.compile(rf"[\w{''.join(marks)}]+")


class WordReader:
    """Turns texts into rows of a table."""

    def __init__(self, table: WordTable) -> None:
        self._table = table
        self._known = _Pieces(table)

    def read(self, texts: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int64], _Pieces]:
        """Return the rows of all words, how many words each text has, and what the others are.

        A word that is not known has row -1, or one that `_Pieces.spread` replaces.
        """
        known = self._known
        if len(known) > _MOST_KEPT:
            known = self._known = _Pieces(self._table)
        find, rows, ends = known.__getitem__, list[int](), []
        for text in texts:
            rows.extend(chain.from_iterable(map(find, text.split())))
            ends.append(len(rows))
        return np.array(rows, dtype=np.int64), np.diff(np.array([0, *ends])), known


class _Pieces(dict[str, tuple[int, ...]]):
    """The rows of pieces between spaces, each found once."""

    def __init__(self, table: WordTable) -> None:
        super().__init__()
        self._table = table
        self._others: dict[str, int] = {}
        self._groups: dict[int, NDArray[np.int64]] = {}
        self._guard = threading.Lock()

    def __missing__(self, piece: str) -> tuple[int, ...]:
        found = tuple(self._parse(piece))
        if len(piece) <= _LONGEST_KEPT:
            self[piece] = found
        return found

    def spread(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        """Return the rows of words' groups of letters in the places of words, and how many."""
        is_other = rows <= _OTHERS
        if not is_other.any():
            return rows, None
        groups = [self._groups[row] for row in rows[is_other].tolist()]
        counts = np.ones(len(rows), dtype=np.int64)
        counts[is_other] = list(map(len, groups))
        spread = np.repeat(rows, counts)
        spread[np.repeat(is_other, counts)] = np.concatenate(groups)
        return spread, counts

    def _parse(self, piece: str) -> Iterator[int]:
        row = self._find(piece)
        if row >= 0:
            yield row
            return
        piece = piece.replace("\u2019", "'")
        found = list(_runs().finditer(piece))
        if not found:
            yield from self._marks(piece)
            return
        start, end = found[0].start(), found[-1].end()
        yield from self._marks(piece[:start])
        for stop in range(min(len(piece), end + 2), end - 1, -1):  # "etc." before ")"
            row = self._find(piece[start:stop])
            if row >= 0:
                yield row
                break
        else:
            stop = end
            yield from self._part(piece[start:end])
        yield from self._marks(piece[stop:])

    def _part(self, core: str) -> Iterator[int]:
        """Part what begins and ends with a letter and is no word."""
        parted = _CLITICS.fullmatch(core)
        if parted is not None and (clitic := self._find(parted[2])) >= 0:
            word = self._find(parted[1])
            yield from (word,) if word >= 0 else self._part(parted[1])
            yield clitic
            return
        end = 0
        for run in _runs().finditer(core):
            yield from self._marks(core[end : run.start()])
            yield self._row_of(run[0])
            end = run.end()

    def _marks(self, marks: str) -> Iterator[int]:
        """Take marks together, or one by one; punctuation that is not known does not count."""
        if not marks:
            return
        row = self._find(marks)
        if row >= 0:
            yield row
            return
        for mark in marks:
            row = self._find(mark)
            if row >= 0 or unicodedata.category(mark)[0] == "S":
                yield row if row >= 0 else self._row_of(mark)

    def _find(self, word: str) -> int:
        if not self._table.has_capitals:
            return self._table.find(word.lower())
        row = self._table.find(word)
        return row if row >= 0 else self._table.find(word.lower())

    def _row_of(self, word: str) -> int:
        """Return the row of a word, or what stands for one that is not known."""
        row = self._find(word)
        if row >= 0 or self._table.ngrams is None:
            return row
        word = word if self._table.has_capitals else word.lower()
        with self._guard:
            if word not in self._others:
                rows, _ = self._table.ngrams.rows_of([word.encode("utf-8", "surrogatepass")])
                other = _OTHERS - len(self._others) if len(rows) else _UNKNOWN
                self._groups[other] = rows + len(self._table)
                self._others[word] = other
            return self._others[word]
