"""The words of a vocabulary that are nearest to others, and analogies between them.

Mikolov et al., "Efficient Estimation of Word Representations in Vector Space", 2013,
arXiv:1301.3781: the vectors of given words, at unit length, are added and subtracted, and words
ranked by the cosine to the result.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from skembed._inputs import shown
from skembed.engine import embed
from skembed.exceptions import InvalidInputError, InvalidParameterError, UnsupportedModelError
from skembed.text.static._encoder import NOTHING_KNOWN, StaticEncoder

__all__ = ["most_similar"]

_WORDS_AT_ONCE = 16_384


def most_similar(encoder: Any, positive: Any, negative: Any, n: int) -> list[tuple[str, float]]:
    """Return the `n` words nearest to the sum of some and the difference of others."""
    if not isinstance(encoder, StaticEncoder):
        raise UnsupportedModelError(
            f"most_similar: {encoder.backbone.name} has no vocabulary of words with vectors. "
            "Static vectors have, such as GloVe's; or embed your own words and take "
            "sklearn.neighbors.NearestNeighbors."
        )
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise InvalidParameterError(f"n={n!r}: expected a number of words, at least 1.")
    added, taken = _listed(positive, "positive"), _listed(negative, "negative")
    if not added and not taken:
        raise InvalidInputError("most_similar: expected a word, a text or a vector, got none.")
    backbone = encoder.backbone
    rows = [backbone.row_of(each) if isinstance(each, str) else -1 for each in [*added, *taken]]
    vectors = _vectors_of(encoder, [*added, *taken], rows)
    signs = np.repeat(np.array([1, -1], np.float32), [len(added), len(taken)])
    wanted = signs @ _at_unit_length(vectors)
    similarity = _similarities(encoder, wanted)
    similarity[[row for row in rows if row >= 0]] = -np.inf
    n = min(int(n), int(np.isfinite(similarity).sum()))
    best = np.argpartition(-similarity, n - 1)[:n] if n else np.empty(0, dtype=np.int64)
    best = best[np.argsort(-similarity[best], kind="stable")]
    word = backbone.words()
    return [(word(int(row)), float(similarity[row])) for row in best]


def _listed(given: Any, name: str) -> list[Any]:
    """Return words and vectors as a list of str and arrays."""
    if isinstance(given, str):
        return [given]
    if isinstance(given, np.ndarray) and given.ndim == 1 and given.dtype.kind in "fiu":
        return [given]
    if not isinstance(given, Iterable):
        given = [given]
    listed = list(given)
    for each in listed:
        is_vector = isinstance(each, np.ndarray) and each.ndim == 1 and each.dtype.kind in "fiu"
        if not (isinstance(each, str) or is_vector):
            raise InvalidInputError(
                f"most_similar({name}=...): expected words, texts or vectors, got {shown(each)}."
            )
    return listed


def _vectors_of(encoder: StaticEncoder, given: list[Any], rows: list[int]) -> NDArray[np.float32]:
    """Return the vector of each: of a word that of its row, of a text as `transform` gives it."""
    vectors = np.empty((len(given), encoder.width), dtype=np.float32)
    unknown = []
    for i, (each, row) in enumerate(zip(given, rows, strict=True)):
        if not isinstance(each, str):
            if len(each) != encoder.width:
                raise InvalidInputError(
                    f"most_similar: expected vectors of {encoder.width} features, as transform "
                    f"gives them, got one of {len(each)}."
                )
            vectors[i] = each
        elif row >= 0:
            vectors[i] = _finished(encoder, slice(row, row + 1))
        else:
            found = embed(encoder, [each])
            vectors[i] = found.vectors
            if NOTHING_KNOWN in found.notes.values():
                unknown.append(each)
    if unknown:
        said = ", ".join(f"{each!r:.60}" for each in unknown[:10])
        raise InvalidInputError(f"most_similar: not in the vocabulary, nor any part of it: {said}.")
    return vectors


@torch.inference_mode()
def _finished(encoder: StaticEncoder, rows: slice) -> NDArray[np.float32]:
    """Return the vectors of words alone, as the embedder gives them but for their lengths."""
    module: Any = encoder._module()
    return encoder.finish(module.layers(module.core.weight[rows]).numpy())


def _similarities(encoder: StaticEncoder, wanted: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cosine of every word to a vector."""
    n_words = encoder.backbone.n_words
    found = np.empty(n_words, dtype=np.float32)
    unit = wanted / np.float32(max(float(np.linalg.norm(wanted)), 1e-12))
    for start in range(0, n_words, _WORDS_AT_ONCE):
        some = slice(start, min(start + _WORDS_AT_ONCE, n_words))
        vectors = _finished(encoder, some)
        lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        found[some] = vectors @ unit / np.maximum(lengths, np.float32(1e-12))
    return found


def _at_unit_length(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = vectors / np.maximum(lengths, np.float32(1e-12))
    return unit
