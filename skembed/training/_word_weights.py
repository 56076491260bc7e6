"""Weights of words from how often they occur: the strategy's parameters."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

from sklearn.utils._param_validation import Interval, StrOptions

from skembed.training._strategy import Strategy

__all__ = ["WordWeights"]


class WordWeights(Strategy):
    """Weigh the words of static vectors by how often they occur in the rows of `fit`.

    For ``TextEmbedder`` with static vectors, whose mean a few frequent words dominate. Words are
    counted once; nothing is trained, and y is ignored.

    Parameters
    ----------
    method : {"sif", "idf"}, default="sif"
        "sif": a word that is a share p of all words counts a / (a + p), and from the mean of a
        row's words the part that all rows have in common is taken away (its projection on their
        first principal component) [1]_. "idf": the mean is weighted by log((1 + n) / (1 + n_w))
        + 1, where n_w of n rows have the word. Words that no row of `fit` has count as the
        rarest.
    a : float, default=1e-3
        The smaller, the less frequent words count; for "sif".

    Notes
    -----
    Of fastText's words outside the vocabulary, whose vectors are made of groups of letters, each
    counts as a word that no row of `fit` has.

    References
    ----------
    .. [1] S. Arora, Y. Liang and T. Ma, "A Simple but Tough-to-Beat Baseline for Sentence
       Embeddings", ICLR 2017.

    Examples
    --------
    >>> from skembed import TextEmbedder, WordWeights
    >>> embedder = TextEmbedder("glove.6B.300d.txt", training=WordWeights())
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "method": [StrOptions({"sif", "idf"})],
        "a": [Interval(Real, 0, None, closed="neither")],
    }

    def __init__(self, *, method: str = "sif", a: float = 1e-3) -> None:
        self.method = method
        self.a = a

    @property
    def _needs_y(self) -> bool:
        """Whether rows can be learned from only with their targets."""
        return False
