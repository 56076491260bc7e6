"""Weights of words, by how often they occur in the rows of `fit`.

Arora, Liang and Ma, "A Simple but Tough-to-Beat Baseline for Sentence Embeddings", ICLR 2017.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skembed._inputs import CheckedRows
from skembed.engine import embed
from skembed.exceptions import InvalidParameterError, InvalidRowsError
from skembed.text.static._backbone import StaticBackbone
from skembed.training import TrainedState, WordWeights
from skembed.training._trained import serve
from skembed.weights import releases_of

__all__ = ["learn_weights"]

_TEXTS_AT_ONCE = 4096


def learn_weights(
    strategy: WordWeights, encoder: Any, rows: CheckedRows, made_with: dict[str, str], owner: str
) -> TrainedState:
    """Return the weights of words in good rows, and with SIF what all rows have in common."""
    backbone = encoder.backbone
    if not isinstance(backbone, StaticBackbone):
        raise InvalidParameterError(
            f"training=WordWeights(...): {backbone.name} has no vectors of words to weigh. Only "
            "static vectors have, such as GloVe's."
        )
    if backbone.pooling != "mean":
        raise InvalidParameterError(
            f"pooling={backbone.pooling!r}: WordWeights weighs the words of a mean. Use 'mean'."
        )
    n_of_word, n_texts_with, n_words = _count(backbone, rows.items)
    if not n_words:
        raise InvalidRowsError(
            f"{owner}: none of the words in the {len(rows.items):,} rows of fit has a vector in "
            f"{backbone.name}, so there is nothing to count.",
            {int(row): "none of its words has a vector" for row in rows.positions},
        )
    known = np.flatnonzero(n_of_word)
    if strategy.method == "sif":
        weights = strategy.a / (strategy.a + n_of_word[known] / n_words)
        other = strategy.a / (strategy.a + 1 / n_words)  # as if it had been seen once
    else:
        n = len(rows.items)
        weights = np.log((1 + n) / (1 + n_texts_with[known])) + 1
        other = float(np.log(1 + n) + 1)
    state = TrainedState(
        method="weights",
        arrays={
            "rows": known,
            "weights": weights.astype(np.float32),
            "other": np.array(other, dtype=np.float32),
        },
        base=backbone.source.digest.hex(),
        made_with=made_with,
        kind="views",
        versions=dict(releases_of("numpy")),
    )
    if strategy.method == "sif":
        none_yet = np.zeros(backbone.width, dtype=np.float32)
        state = replace(state, arrays={**state.arrays, "component": none_yet})
        weighted = type(encoder)(
            serve(backbone, state, owner), encoder.settings, encoder.torch_device
        )
        vectors = embed(weighted.unfinished(), rows.items).vectors
        component = _common_component(vectors)
        state = replace(state, arrays={**state.arrays, "component": component})
    return state


def _count(
    backbone: StaticBackbone, texts: Any
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Return how often each word occurs, in how many texts, and how many words there are."""
    n_of_word = np.zeros(backbone.n_words, dtype=np.int64)
    n_texts_with = np.zeros(backbone.n_words, dtype=np.int64)
    n_words = 0
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        found = backbone.find(texts[start : start + _TEXTS_AT_ONCE], is_cut=False)
        n_words += len(found.rows)
        is_word = found.rows >= 0  # others are made of groups of letters
        rows, text_of = found.rows[is_word], found.text_of[is_word]
        n_of_word += np.bincount(rows, minlength=len(n_of_word))
        once = np.unique(text_of * backbone.n_words + rows) % backbone.n_words
        n_texts_with += np.bincount(once, minlength=len(n_of_word))
    return n_of_word, n_texts_with, n_words


def _common_component(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the first right singular vector of vectors (n, d), which are not centred."""
    wide = vectors.astype(np.float64)
    _, axes = np.linalg.eigh(wide.T @ wide)
    component: NDArray[np.float32] = axes[:, -1].astype(np.float32)
    return component
