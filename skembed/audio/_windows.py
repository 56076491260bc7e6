"""Long clips as windows: where each begins.

Knows numbers of samples, not what is in them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

from skembed.exceptions import InvalidParameterError

__all__ = ["LONGEST_SECONDS", "Windows", "check_seconds", "choose_windows"]

LONGEST_SECONDS = 30.0
"""Of a window, where the model takes any: attention over longer ones grows with their square."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Samples of a window (None leaves clips whole), and from the start of one to the next."""

    length: int | None
    hop: int = 1

    def starts(self, n_samples: int) -> list[int]:
        """Return where the windows of a clip begin; the last one ends where the clip does."""
        if self.length is None or n_samples <= self.length:
            return [0]
        last = n_samples - self.length
        return [*range(0, last, self.hop), last]


def choose_windows(
    window: Any, hop: Any, *, rate: int, limit: float | None, least: int, name: str
) -> Windows:
    """Return how clips are cut for a model that takes at least `least` samples, most `limit` s.

    `window` and `hop` are in seconds: "auto" is the model's limit, or 30 s; None leaves clips
    whole; a hop of None is the window's length.
    """
    if window == "auto":
        window = LONGEST_SECONDS if limit is None else limit
    elif window is None and limit is not None:
        raise InvalidParameterError(
            f"window=None, but {name} takes at most {limit:g} s at once. Use window='auto'."
        )
    if window is None:
        if hop is not None:
            raise InvalidParameterError(f"hop={hop!r}, but window=None leaves clips whole.")
        return Windows(None)
    if limit is not None and window > limit:
        raise InvalidParameterError(
            f"window={window:g}, but {name} takes at most {limit:g} s at once."
        )
    length = round(window * rate)
    if length < least:
        raise InvalidParameterError(
            f"window={window:g}, but {name} takes at least {least / rate:g} s."
        )
    hop = window if hop is None else hop
    n_hop = round(hop * rate)
    if not 1 <= n_hop <= length:
        raise InvalidParameterError(
            f"hop={hop:g}: expected seconds from {1 / rate:g} to those of the window, {window:g}; "
            "a larger hop would leave parts of clips out."
        )
    return Windows(length, n_hop)


def check_seconds(value: Any) -> None:
    """Refuse what is no length in seconds; "auto" is for others to see."""
    if isinstance(value, str):
        return
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and value > 0):
        raise InvalidParameterError(f"expected seconds, a number above 0, got {value!r}.")
