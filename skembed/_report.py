"""What a call to `transform` did."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["EmbeddingReport"]


@dataclass(frozen=True)
class EmbeddingReport:
    """What the last `transform` did; `embedder.report_`.

    Attributes
    ----------
    n_rows : int
        Rows asked for.
    n_distinct : int or None
        Distinct rows among them, not counting bad ones. None where rows are not compared: those of
        tables are embedded faster than looked for.
    n_encoded : int
        Rows the model ran on in this call.
    n_reused : int
        Distinct rows that came from the store.
    faults : dict of int to str
        Bad rows by position, with what is wrong with each.
    notes : dict of int to str
        Rows that were embedded despite poor quality, now or when they were stored, by position.
    row_sizes : ndarray of shape (n_rows,), int64
        Full length of each row in the modality's unit, before anything was cut; 0 for bad rows.
    n_unknown : ndarray of shape (n_rows,), int64, or None
        How much of each row the model does not know, in the same unit: words without a vector. None
        of models that know all.
    seconds, rows_per_second : float
        Duration of the call, including loading and checking, and rows asked for per second.
    device, dtype : str
        Where the model runs and in which format.
    n_used : int
        What a service counted for the rows encoded in this call; 0 for models that run here.
    """

    n_rows: int
    n_distinct: int | None
    n_encoded: int
    row_sizes: NDArray[np.int64] = field(repr=False)
    faults: dict[int, str] = field(repr=False)
    seconds: float
    device: str
    dtype: str
    notes: dict[int, str] = field(default_factory=dict, repr=False)
    n_used: int = 0
    n_unknown: NDArray[np.int64] | None = field(default=None, repr=False)

    @property
    def n_reused(self) -> int:
        """Distinct rows that came from the store."""
        return 0 if self.n_distinct is None else self.n_distinct - self.n_encoded

    @property
    def rows_per_second(self) -> float:
        """Rows asked for, per second."""
        return self.n_rows / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        bad = f", {len(self.faults):,} bad" if self.faults else ""
        distinct = reused = ""
        if self.n_distinct is not None:
            distinct, reused = f", {self.n_distinct:,} distinct", f", {self.n_reused:,} reused"
        return (
            f"{self.n_rows:,} rows{distinct}{bad}: {self.n_encoded:,} encoded{reused}; "
            f"{self.seconds:.2f} s on {self.device} in {self.dtype}"
        )
