"""An estimator as the server sees it: texts in; vectors, tokens and faults out.

Knows estimators, not requests or files.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skembed._base import BaseEmbedder
from skembed.exceptions import InvalidInputError, InvalidRowsError, UnsupportedModelError
from skembed.serving._batching import Vectors

__all__ = ["Served"]

_SAMPLE = ["a text"]


class Served:
    """An embedder, or a fitted pipeline, whose `transform` makes vectors of texts.

    Parameters
    ----------
    model : TextEmbedder, FunctionEmbedder or Pipeline
        What embeds.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.width = 0
        # Where the tokens are counted.
        steps = getattr(model, "steps", None)
        self._first = steps[0][1] if steps else model

    def warm_up(self) -> None:
        """Load the model and embed a text, so that the first request takes as long as the next.

        Raises
        ------
        UnsupportedModelError
            If it does not make a 2-D array of numbers of texts.
        """
        if isinstance(self.model, BaseEmbedder) and hasattr(self.model, "warm_up"):
            self.model.warm_up()
            self.width = self.model.n_features_out_
        else:
            self.width = self._transform(_SAMPLE).shape[1]

    def describe(self) -> str:
        """Return width, format and device, for people."""
        has_device = hasattr(self._first, "device_")
        where = f", {self._first.dtype_} on {self._first.device_}" if has_device else ""
        return f"{self.width:,} features{where}"

    def embed(self, texts: list[str]) -> Vectors:
        """Embed texts; a bad one costs the others nothing."""
        try:
            vectors = self._transform(texts)
        except InvalidRowsError as error:
            if not error.faults:
                raise
            return self._embed_others(texts, error.faults)
        report = getattr(self._first, "report_", None)
        faults = dict(getattr(report, "faults", {}))
        for row in np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist():
            faults.setdefault(row, "its vector is not finite")
        n_tokens = getattr(report, "n_tokens", np.zeros(len(texts), dtype=np.int64))
        is_cut = getattr(self._first, "on_truncate", None) in ("warn", "ignore")
        truncated = getattr(report, "truncated", ()) if is_cut else ()
        return Vectors(vectors, n_tokens, faults, np.asarray(truncated, dtype=np.int64))

    def _embed_others(self, texts: list[str], faults: dict[int, str]) -> Vectors:
        """Embed the texts that have no fault; the vectors of those that have are NaN."""
        good = np.delete(np.arange(len(texts)), list(faults))
        vectors = np.full((len(texts), self.width), np.nan, dtype=np.float32)
        n_tokens = np.zeros(len(texts), dtype=np.int64)
        if not len(good):
            return Vectors(vectors, n_tokens, faults)
        found = self.embed([texts[i] for i in good])
        vectors[good], n_tokens[good] = found.vectors, found.n_tokens
        more = {int(good[i]): why for i, why in found.faults.items()}
        return Vectors(vectors, n_tokens, faults | more, good[found.truncated])

    def _transform(self, texts: list[str]) -> NDArray[np.float32]:
        vectors = self.model.transform(texts)
        kind = type(self.model).__name__
        if hasattr(vectors, "toarray"):
            raise UnsupportedModelError(
                f"{kind} makes sparse vectors, which the protocol does not have. Add a step that "
                "makes dense ones, such as TruncatedSVD."
            )
        try:
            array = np.asarray(vectors, dtype=np.float32)
        except (TypeError, ValueError):
            array = np.empty(0, dtype=np.float32)
        if array.ndim != 2 or len(array) != len(texts) or not array.shape[1]:
            raise InvalidInputError(
                f"{kind}.transform: expected a 2-D array of numbers with a row for each of "
                f"{len(texts)} texts, got {type(vectors).__name__} of shape "
                f"{getattr(vectors, 'shape', None)}."
            )
        return array
