"""The common checks that scikit-learn skips for rows that are not 2-D numbers.

They say what every embedder must hold, whatever its modality. pandas, polars and torch are looked
at where they are installed.
"""

from __future__ import annotations

from skembed.testing._check_embedder import (
    CheckResults,
    EmbedderCheckError,
    check_embedder,
    embedder_checks,
)
from skembed.testing._letters import LetterCountEmbedder

__all__ = [
    "CheckResults",
    "EmbedderCheckError",
    "LetterCountEmbedder",
    "check_embedder",
    "embedder_checks",
]
