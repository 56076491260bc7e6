"""Texts of a column as vectors: by their letters, or by an embedder that is handed over.

Knows strings and arrays. Distinct texts are encoded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.preprocessing import normalize
from sklearn.utils.extmath import randomized_svd

from skembed.columns._parts import hash_of
from skembed.columns._values import Values
from skembed.exceptions import InvalidRowsError, describe_rows

__all__ = ["Embedded", "Letters", "errors_named"]

_MOST_DIMENSIONS = 30
_N_HASHES = 1 << 14
_MOST_TO_LEARN_FROM = 10_000
_PER_CHUNK = 20_000
_N_PROBES = 16


class Letters:
    """Texts by their 3 and 4 letters in a row, within words: TF-IDF, then at most 30 dimensions.

    Words are lower case and have a space before and after, as in scikit-learn's `char_wb`; grams
    are hashed to 16,384 columns and weighted by 1 + log(count) and the inverse document frequency.
    Dimensions are those of a truncated SVD, each scaled to unit variance. They are learned from
    10,000 distinct texts, which a hash of the text chooses.
    """

    def __init__(self, levels: list[str], random_state: Any) -> None:
        if len(levels) > _MOST_TO_LEARN_FROM:
            hashes = np.array(list(map(hash_of, levels)))
            chosen = np.argsort(hashes, kind="stable")[:_MOST_TO_LEARN_FROM]
            levels = [levels[i] for i in chosen]
        grams = _count_grams(sorted(levels))
        n_with = np.bincount(grams.indices, minlength=_N_HASHES)
        self.weights = (np.log((1 + len(levels)) / (1 + n_with)) + 1).astype(np.float32)
        weighted = self._weigh(grams)
        n_dimensions = min(_MOST_DIMENSIONS, len(levels)) if weighted.nnz else 0
        axes = np.zeros((_N_HASHES, 0), dtype=np.float32)
        if n_dimensions:
            _, _, axes = randomized_svd(weighted, n_dimensions, random_state=random_state)
            axes = axes.T
        spread = (weighted @ axes).std(axis=0)
        kept = spread > 1e-4
        self.axes = np.ascontiguousarray(axes[:, kept] / spread[kept], dtype=np.float32)

    @property
    def width(self) -> int:
        """The number of columns."""
        return int(self.axes.shape[1])

    def encode(self, codes: NDArray[np.int64], levels: list[str]) -> NDArray[np.float32]:
        """Return vectors, float32 of shape (n, width): zeros where a text is missing (-1)."""
        vectors = np.zeros((len(levels) + 1, self.width), dtype=np.float32)
        for start in range(0, len(levels), _PER_CHUNK):
            chunk = levels[start : start + _PER_CHUNK]
            vectors[start : start + len(chunk)] = self._weigh(_count_grams(chunk)) @ self.axes
        return vectors[codes]

    def _weigh(self, grams: Any) -> Any:
        data = (1 + np.log(grams.data)) * self.weights[grams.indices]
        weighted = scipy.sparse.csr_matrix((data, grams.indices, grams.indptr), grams.shape)
        return normalize(weighted, copy=False)


def _count_grams(texts: list[str]) -> Any:
    """Return how often each text has each gram, hashed: sparse float32 of shape (n, 16384)."""
    joined = "\0".join(texts).lower()
    if joined.count("\0") != len(texts) - 1:
        joined = "\0".join(text.replace("\0", " ") for text in texts).lower()
    letters = np.frombuffer(f" {joined} ".encode("utf-32-le", "surrogatepass"), np.uint32)
    row = np.cumsum(letters == 0)
    is_space = (letters <= 32) | (letters == 0xA0) | (letters == 0x3000)
    letters = np.where(is_space, np.uint32(32), letters)
    rows, hashes = [], []
    for n in (3, 4):
        n_starts = max(0, len(letters) - n + 1)
        is_gram = np.ones(n_starts, dtype=bool)
        hashed = np.full(n_starts, 2166136261 + n, dtype=np.uint32)
        for i in range(n):
            if 0 < i < n - 1:  # spaces are at the ends only
                is_gram &= ~is_space[i : i + n_starts]
            hashed = (hashed ^ letters[i : i + n_starts]) * np.uint32(16777619)
        hashed = hashed[is_gram]
        hashed = (hashed ^ (hashed >> np.uint32(15))) * np.uint32(2246822507)
        hashes.append((hashed ^ (hashed >> np.uint32(13))) % np.uint32(_N_HASHES))
        rows.append(row[1 : 1 + n_starts][is_gram])
    where = np.concatenate(rows), np.concatenate(hashes)
    ones = np.ones(len(where[0]), dtype=np.float32)
    return scipy.sparse.coo_matrix((ones, where), (len(texts), _N_HASHES)).tocsr()


class Embedded:
    """The vectors of a transformer that takes a 1-D array of str, and its fitted clone."""

    def __init__(self, levels: list[str], text: Any) -> None:
        self.text = clone(text).fit(_column(levels))
        probes = self._vectors(levels[:_N_PROBES])
        self.width = int(probes.shape[1])
        self.probes = probes  # which tell one transformer from another

    def encode(self, codes: NDArray[np.int64], levels: list[str]) -> NDArray[np.float32]:
        """Return vectors, float32 of shape (n, width): zeros where a text is missing (-1)."""
        vectors = np.zeros((len(levels) + 1, self.width), dtype=np.float32)
        if levels:
            vectors[:-1] = self._vectors(levels)
        return vectors[codes]

    def _vectors(self, levels: list[str]) -> NDArray[np.float32]:
        vectors = self.text.transform(_column(levels))
        vectors = vectors.toarray() if scipy.sparse.issparse(vectors) else vectors
        return np.asarray(vectors, dtype=np.float32).reshape(len(levels), -1)


@contextmanager
def errors_named(name: str, values: Values, labels: Sequence[Any] | None) -> Iterator[None]:
    """Let an error of what embeds texts say of which column, and of which rows of the table."""
    try:
        yield
    except InvalidRowsError as error:
        where = {
            int(row): why
            for text, why in error.faults.items()
            for row in np.flatnonzero(values.data == text)
        }
        raise type(error)(
            f"column {name!r}, of whose distinct texts: {error}\nIn the table these are:"
            f"{describe_rows(where, labels)}",
            where,
        ) from error
    except Exception as error:
        if error.args and isinstance(error.args[0], str):
            error.args = (f"column {name!r}: {error}", *error.args[1:])
        raise


def _column(levels: list[str]) -> NDArray[Any]:
    column = np.empty(len(levels), dtype=object)
    column[:] = levels
    return column
