"""The parameters that decide a vector of a row. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass

from skembed._backbone import ModelSettings

__all__ = ["TableSettings"]


@dataclass(frozen=True)
class TableSettings(ModelSettings):
    """The parameters that decide a vector, beside the columns: a network's width and its seed."""

    width: int = 64
    seed: int = 0
    columns: tuple[tuple[str, str], ...] | None = None
