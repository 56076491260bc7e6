"""What is learned from a column of numbers, categories, dates or tags, and applied to rows.

Knows arrays; not tables, not what a column is called.
"""

from __future__ import annotations

from itertools import repeat
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from skembed.columns._values import TRUTHS

__all__ = ["Codes", "Cycles", "Numbers", "Tags"]

_MOST_QUANTILES = 1_000
_MOST_BINS = 32
_MOST_CATEGORIES = 1_000
_MANY_RARE = 10
_N_BUCKETS = 64
_MOST_TAGS = 64
_MISSING, _UNSEEN, _FIRST = 0, 1, 2
_CYCLES = {"month": 12, "day": 31, "weekday": 7, "hour": 24}
_NO_DATE = np.datetime64("1970-01-01", "us")


class Numbers:
    """A map of numbers to a standard normal by their quantiles, as straight pieces.

    The middle of the ranks of equal numbers counts. Beyond the largest number of training, which is
    at most 3.3, a number x becomes that plus e / (1 + e), where e is the distance to the largest as
    a part of the whole range; in the same way below the smallest. So order is kept, and no number
    goes farther than 1 beyond what was seen.
    """

    def __init__(self, numbers: NDArray[np.float64]) -> None:
        ordered = np.sort(numbers[~np.isnan(numbers)])
        n_quantiles = min(len(ordered), _MOST_QUANTILES)
        shares = np.linspace(0, 1, n_quantiles)
        quantiles = ordered[_spread(n_quantiles, len(ordered))]
        shares[[0, -1]] = 0.5 / n_quantiles, 1 - 0.5 / n_quantiles
        first = np.flatnonzero(np.append(True, np.diff(quantiles) > 0))
        last = np.append(first[1:], n_quantiles) - 1
        self.knots: NDArray[np.float64] = quantiles[first]
        self.scores: NDArray[np.float64] = ndtri((shares[first] + shares[last]) / 2)
        distinct = ordered[np.append(True, np.diff(ordered) > 0)]
        edges = np.unique(ordered[_spread(_MOST_BINS + 1, len(ordered))])
        n_left = _MOST_BINS + 1 - len(edges)  # where one number is that of many rows
        more = distinct[_spread(min(n_left, len(distinct)), len(distinct))]
        self.edges: NDArray[np.float32] = np.unique(self.encode(np.append(edges, more)))

    def encode(self, numbers: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the scores, float32 of shape (n,); NaN stays NaN."""
        scores = np.interp(numbers, self.knots, self.scores)
        low, high = self.knots[0], self.knots[-1]
        for end, beyond in ((low, numbers < low), (high, numbers > high)):
            if beyond.any():
                # Halves: the range of float64 may be wider than float64.
                distance = numbers[beyond] / 2 - end / 2
                with np.errstate(over="ignore"):
                    part = 1 / (1 + (high / 2 - low / 2) / np.abs(distance))
                scores[beyond] += np.sign(distance) * part
        return scores.astype(np.float32)


def _spread(n: int, n_rows: int) -> NDArray[np.int64]:
    """Return n positions among rows, evenly spread from the first to the last."""
    return np.rint(np.linspace(0, n_rows - 1, n)).astype(np.int64)


class Codes:
    """Codes of categories: 0 missing, 1 unseen or rare, from 2 on the known ones, then buckets.

    Known are the 1,000 most frequent, the most frequent first, and those as frequent in the order
    of their names. Categories that were seen once are not among them if there are 10 or more. If
    others are left, or none is known, what is not known gets one of 64 buckets by its hash. Where
    each says true or false ("1" and "0", "yes" and "no"), other words that say so mean the same.
    """

    def __init__(self, codes: NDArray[np.int64], levels: list[str]) -> None:
        counts = np.bincount(codes[codes >= 0], minlength=len(levels))
        is_known = counts > (np.count_nonzero(counts == 1) >= _MANY_RARE)
        has_others = np.count_nonzero(is_known) > _MOST_CATEGORIES or not is_known.any()
        if has_others and is_known.any():
            is_known &= counts >= np.sort(counts)[-_MOST_CATEGORIES]
        by_name = sorted(np.flatnonzero(is_known).tolist(), key=levels.__getitem__)
        by_count = np.argsort(-counts[by_name], kind="stable")[:_MOST_CATEGORIES]
        self.categories: list[str] = [levels[by_name[i]] for i in by_count]
        self.n_buckets = _N_BUCKETS if has_others else 0

    @property
    def cardinality(self) -> int:
        """The number of codes."""
        return _FIRST + len(self.categories) + self.n_buckets

    def encode(self, codes: NDArray[np.int64], levels: list[str]) -> NDArray[np.int32]:
        """Return the codes, int32 of shape (n,), of rows that have the levels (-1: missing)."""
        known = {level: _FIRST + i for i, level in enumerate(self.categories)}
        known = {**self._codes_of_truths(levels), **known}
        of_level = np.empty(len(levels) + 1, dtype=np.int32)
        of_level[:-1] = np.fromiter(map(known.get, levels, repeat(_UNSEEN)), np.int32, len(levels))
        of_level[-1] = _MISSING
        if self.n_buckets:
            first = _FIRST + len(self.categories)
            for i in np.flatnonzero(of_level == _UNSEEN).tolist():
                of_level[i] = first + hash_of(levels[i]) % self.n_buckets
        return of_level[codes]

    def _codes_of_truths(self, levels: list[str]) -> dict[str, int]:
        """Return the codes of levels that say true or false, if the known ones say no more."""
        said = [TRUTHS.get(word.strip().lower()) for word in self.categories]
        if None in said or len(set(said)) < len(said):
            return {}
        code_of = {truth: _FIRST + i for i, truth in enumerate(said)}
        truths = {level: TRUTHS.get(level.strip().lower()) for level in levels}
        return {level: code_of[truth] for level, truth in truths.items() if truth in code_of}


def hash_of(word: str) -> int:
    """Return a hash that is the same in each process."""
    return crc32(word.encode("utf-8", "surrogatepass"))


class Cycles:
    """Sine and cosine of the month, day of the month, weekday and hour, if they vary.

    Hours have fractions; a missing date is the circle's centre, 0 and 0.
    """

    def __init__(self, dates: NDArray[Any], is_time: bool) -> None:
        present = dates[~np.isnat(dates)]
        names = ("hour",) if is_time else tuple(_CYCLES)
        self.names = tuple(name for name in names if np.ptp(_phase(present, name)) > 0)

    @property
    def width(self) -> int:
        """The number of columns."""
        return 2 * len(self.names)

    def encode(self, dates: NDArray[Any]) -> NDArray[np.float32]:
        """Return the sines and cosines, float32 of shape (n, width)."""
        missing = np.isnat(dates)
        dates = np.where(missing, _NO_DATE, dates)
        parts = np.zeros((len(dates), self.width), dtype=np.float32)
        for i, name in enumerate(self.names):
            angles = 2 * np.pi * _phase(dates, name)
            parts[:, 2 * i], parts[:, 2 * i + 1] = np.sin(angles), np.cos(angles)
        parts[missing] = 0
        return parts


def _phase(dates: NDArray[Any], name: str) -> NDArray[np.float64]:
    """Return where in its cycle each date is, from 0 to 1."""
    days = dates.astype("datetime64[D]")
    months = days.astype("datetime64[M]")
    if name == "month":
        at = months.astype(np.int64) % 12
    elif name == "day":
        at = (days - months.astype("datetime64[D]")).astype(np.int64)
    elif name == "weekday":
        at = (days.astype(np.int64) + 3) % 7  # 1970 began on a Thursday
    else:
        at = (dates - days).astype("timedelta64[us]").astype(np.int64) / 3.6e9
    return np.asarray(at / _CYCLES[name])


class Tags:
    """1 for each of the 64 most frequent tags that a row has, of those that not every row has."""

    def __init__(
        self, codes: NDArray[np.int64], levels: list[str], rows: NDArray[np.int64], n_rows: int
    ) -> None:
        pairs = np.unique(codes * n_rows + rows)  # a row may have a tag twice
        counts = np.bincount(pairs // n_rows, minlength=len(levels))
        varying = np.flatnonzero(counts < n_rows).tolist()
        order = sorted(varying, key=lambda i: (-counts[i], levels[i]))
        self.tags: list[str] = [levels[i] for i in order[:_MOST_TAGS]]

    @property
    def width(self) -> int:
        """The number of columns."""
        return len(self.tags)

    def encode(
        self, codes: NDArray[np.int64], levels: list[str], rows: NDArray[np.int64], n_rows: int
    ) -> NDArray[np.float32]:
        """Return 0 and 1, float32 of shape (n_rows, width)."""
        place = {tag: i for i, tag in enumerate(self.tags)}
        where = np.fromiter(map(place.get, levels, repeat(-1)), np.int64, len(levels))[codes]
        parts = np.zeros((n_rows, self.width), dtype=np.float32)
        parts[rows[where >= 0], where[where >= 0]] = 1
        return parts
