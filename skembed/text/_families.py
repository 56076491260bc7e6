"""Which family of text models a `model` parameter means, told without importing torch."""

from __future__ import annotations

from typing import Any

from skembed.weights import find_gguf

__all__ = ["family_of"]


def family_of(model: Any) -> str:
    """Return the family of a model that is not a module: by its scheme, its file, its folder."""
    if find_gguf(model) is not None:
        return "gguf"
    return "transformer"
