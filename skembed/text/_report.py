"""What was done to texts: the report, and what is said of rows that lost something."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skembed._inputs import CheckedRows
from skembed._report import EmbeddingReport
from skembed.exceptions import (
    ModelWarning,
    QualityWarning,
    TruncatedRowsError,
    TruncationWarning,
    describe_rows,
    name_rows,
    warn_user,
)
from skembed.text._advice import advice_on_decoder

__all__ = ["TextReport", "refuse_long", "warn_of_cut", "warn_of_decoder", "warn_of_unknown"]


@dataclass(frozen=True)
class TextReport(EmbeddingReport):
    """What the last `transform` of a TextEmbedder did.

    Attributes
    ----------
    max_length : int or None
        The most tokens that the model reads at once.
    n_tokens : ndarray of shape (n_rows,), int64
        Tokens in each row before anything was cut, including special tokens and the prompt.
    n_unknown : ndarray of shape (n_rows,), int64, or None
        Of static vectors: words in each row that have no vector, and count for nothing.
    truncated : ndarray of int64
        Positions of the rows with more than `max_length` tokens.
    n_tokens_used : int
        Tokens that a hosted model's server has counted in this call; 0 for models that run here.
    """

    max_length: int | None = None

    def __str__(self) -> str:
        used = f"; {self.n_tokens_used:,} tokens used" if self.n_tokens_used else ""
        return f"{super().__str__()}{used}"

    @property
    def n_tokens(self) -> NDArray[np.int64]:
        """Tokens in each row."""
        return self.row_sizes

    @property
    def n_tokens_used(self) -> int:
        """Tokens that a server has counted in this call."""
        return self.n_used

    @property
    def truncated(self) -> NDArray[np.int64]:
        """Positions of the rows that are too long for the model to read at once."""
        if self.max_length is None:
            return np.empty(0, dtype=np.int64)
        return np.flatnonzero(self.row_sizes > self.max_length)


def refuse_long(sizes: NDArray[np.int64], rows: CheckedRows, encoder: Any) -> None:
    """Refuse rows that the model cannot read whole."""
    limit, unit = encoder.limit, _unit_of(encoder)
    cut = np.flatnonzero(sizes > limit)
    if len(cut):
        faults = {int(rows.positions[i]): f"{sizes[i]:,} {unit}" for i in cut}
        raise TruncatedRowsError(
            f"{len(faults):,} of {rows.n_rows:,} rows are longer than the {limit:,} {unit} that "
            f"{encoder.backbone.name} reads:{describe_rows(faults, rows.labels)}\nShorten them, or "
            "set on_truncate='mean_of_chunks' to embed them in pieces, or 'warn' to cut them.",
            faults,
        )


def warn_of_cut(report: TextReport, rows: CheckedRows, encoder: Any) -> None:
    """Warn once of rows that the model did not read whole."""
    cut, limit = report.truncated, report.max_length
    if not limit or not len(cut):
        return
    # Never "100%": something of each row was read.
    share = min(0.99, 1 - limit * len(cut) / report.row_sizes[cut].sum())
    name = encoder.backbone.name
    warn_user(
        f"{len(cut):,} of {report.n_rows:,} rows {'was' if len(cut) == 1 else 'were'} cut at "
        f"{limit:,} {_unit_of(encoder)}, which dropped {share:.0%} of the text "
        f"({name_rows(cut.tolist(), rows.labels)}; all are in report_.truncated). To read it all, "
        "set on_truncate='mean_of_chunks'; to cut silently, 'ignore'. (Shown once for "
        f"{name} at this length.)",
        TruncationWarning,
        once=f"{name} {limit}",
    )


def warn_of_unknown(report: TextReport, rows: CheckedRows, encoder: Any) -> None:
    """Warn once of rows of which static vectors know no word."""
    if not report.notes or report.n_unknown is None:
        return
    name = encoder.backbone.name
    warn_user(
        f"{len(report.notes):,} of {report.n_rows:,} rows have no word with a vector in {name} "
        f"({name_rows(sorted(report.notes), rows.labels)}; all are in report_.notes, and "
        "report_.n_unknown counts unknown words). Their vectors are zeros. (Shown once for "
        f"{name}.)",
        QualityWarning,
        once=f"nothing known {name}",
    )


def warn_of_decoder(encoder: Any) -> None:
    """Warn once of a decoder that was made to write, not to embed."""
    if getattr(encoder.backbone, "is_plain_decoder", False):
        name = encoder.backbone.name
        warn_user(advice_on_decoder(name), ModelWarning, once=f"decoder {name}")


def _unit_of(encoder: Any) -> str:
    return getattr(encoder, "unit", "tokens")
