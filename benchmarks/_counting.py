"""An embedder that notes the rows its model runs on, in any process.

Worker processes import this module when they unpickle the embedder, so what they encode is counted
as well. The count is taken at the model, not from skembed's own report.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from skembed import TextEmbedder
from skembed.text._encoder import TextEncoder

__all__ = ["CountingEmbedder", "read_counts"]

_encode = TextEncoder.encode
_log: str | None = None


def _encode_and_count(encoder: TextEncoder, batch: Any) -> Any:
    vectors = _encode(encoder, batch)
    if _log is not None:
        with Path(_log).open("a", encoding="utf-8") as file:  # short appends do not interleave
            file.write(f"{os.getpid()} {len(vectors)}\n")
    return vectors


TextEncoder.encode = _encode_and_count


class CountingEmbedder(TextEmbedder):
    """A TextEmbedder that appends to the file `log` how many rows each batch of its model has."""

    def __init__(self, model: str, *, log: str | None = None, dtype: str = "auto") -> None:
        super().__init__(model, dtype=dtype)
        self.log = log

    def transform(self, X: Any) -> Any:
        """Embed rows, as TextEmbedder does."""
        with self._counting():
            return super().transform(X)

    def fit_transform(self, X: Any, y: Any = None) -> Any:
        """Embed rows, as TextEmbedder does."""
        with self._counting():
            return super().fit_transform(X, y)

    @contextmanager
    def _counting(self) -> Iterator[None]:
        global _log
        _log = self.log
        try:
            yield
        finally:
            _log = None


def read_counts(log: Path) -> dict[str, int]:
    """Return the rows encoded by each process."""
    counts: dict[str, int] = {}
    if log.exists():
        for line in log.read_text(encoding="utf-8").splitlines():
            process, n_rows = line.split()
            counts[process] = counts.get(process, 0) + int(n_rows)
    return counts
