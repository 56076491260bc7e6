"""What every embedder must meet: the checks that scikit-learn skips unless rows are 2-D numbers."""

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
