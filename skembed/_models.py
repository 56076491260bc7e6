"""What the rooms' tables of models say about each model.

Must not know any model.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ModelInfo"]


@dataclass(frozen=True)
class ModelInfo:
    """A model that skembed knows by name.

    Attributes
    ----------
    name : str
        What `model=` takes.
    width : int
        Number of features.
    licence : str
        SPDX name of the licence of the weights; "" where there are none.
    source : str
        Paper or model card.
    note : str
        What it is good for.
    """

    name: str
    width: int
    licence: str
    source: str
    note: str
