"""The smallest embedder that passes every check: to read, and to test with."""

from __future__ import annotations

from collections.abc import Mapping
from string import ascii_lowercase
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from skembed.exceptions import InvalidInputError, InvalidRowsError, describe_rows

__all__ = ["LetterCountEmbedder", "read_texts"]


class LetterCountEmbedder(TransformerMixin, BaseEstimator):
    """Embed each text as its letter counts.

    It passes every check of `check_embedder` and so shows what your own embedder has to do.

    Parameters
    ----------
    alphabet : str, default="abcdefghijklmnopqrstuvwxyz"
        The distinct letters to count, one feature each; case is ignored.

    Examples
    --------
    >>> from skembed.testing import LetterCountEmbedder
    >>> LetterCountEmbedder("abn").fit_transform(["banana", "Nab"])
    array([[3., 1., 2.],
           [1., 1., 1.]], dtype=float32)
    """

    def __init__(self, alphabet: str = ascii_lowercase) -> None:
        self.alphabet = alphabet

    def fit(self, X: Any, y: Any = None) -> LetterCountEmbedder:
        """Check the rows; learns nothing."""
        read_texts(X)
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Return the counts of letters, of shape (n_rows, n_letters), float32."""
        texts = read_texts(X)
        counts = np.zeros((len(texts), len(self.alphabet)), dtype=np.float32)
        for row, text in enumerate(texts):
            counts[row] = [text.lower().count(letter) for letter in self.alphabet]
        return counts

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Name the features ``"letter_a"`` and so on."""
        return np.array([f"letter_{letter}" for letter in self.alphabet], dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags


def read_texts(X: Any) -> list[str]:
    """Return the texts of a list, tuple, 1-D array, Series or one-column frame, in order."""
    is_single = isinstance(X, (str, bytes, Mapping)) or not hasattr(X, "__len__")
    n_columns = len(X.columns) if hasattr(X, "columns") else 1
    if is_single or n_columns != 1 or (isinstance(X, np.ndarray) and X.ndim != 1):
        raise InvalidInputError(
            "Expected a collection of texts (a list, 1-D array, Series or one-column frame), "
            f"got {type(X).__name__}: {X!r:.80}. Wrap a single text in a list."
        )
    if hasattr(X, "columns"):
        X = X[X.columns[0]]
    texts = list(X)
    faults = {row: f"{x!r:.40}" for row, x in enumerate(texts) if not isinstance(x, str)}
    if faults:
        raise InvalidRowsError(f"Expected rows that are str, got:{describe_rows(faults)}", faults)
    return texts
