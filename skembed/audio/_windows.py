"""Long clips as windows: where each begins.

Knows numbers of samples, not what is in them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

from skembed.audio._backbone import AudioBackbone
from skembed.exceptions import InvalidParameterError

__all__ = ["Windows", "check_seconds", "choose_windows"]


@dataclass(frozen=True, slots=True)
class Windows:
    """How clips are cut: samples of a window (None: clips stay whole), and from one to the next."""

    length: int | None
    hop: int = 1

    def starts(self, n_samples: int) -> list[int]:
        """Return where the windows of a clip begin; the last one ends where the clip does."""
        if self.length is None or n_samples <= self.length:
            return [0]
        last = n_samples - self.length
        return [*range(0, last, self.hop), last]


def choose_windows(window: Any, hop: Any, backbone: AudioBackbone) -> Windows:
    """Return how clips are cut for a model; `window` and `hop` as in `AudioEmbedder`."""
    name, rate, limit = backbone.name, backbone.rate, backbone.limit
    if window == "auto":
        window = backbone.window if limit is None else limit
    elif window is None and limit is not None:
        raise InvalidParameterError(
            f"window=None, but {name} takes at most {limit:g} s at once. Use window='auto'."
        )
    if window is None:
        if hop is not None:
            raise InvalidParameterError(
                f"hop={hop!r}, but clips are left whole. Set window to some seconds."
            )
        return Windows(None)
    if limit is not None and window > limit:
        raise InvalidParameterError(
            f"window={window:g}, but {name} takes at most {limit:g} s at once."
        )
    length = round(window * rate)
    if length < backbone.least:
        raise InvalidParameterError(
            f"window={window:g}, but {name} takes at least {backbone.least / rate:g} s."
        )
    hop = window if hop is None else hop
    n_hop = round(hop * rate)
    if not 1 <= n_hop <= length:
        raise InvalidParameterError(
            f"hop={hop:g}: expected seconds from {1 / rate:g} to those of the window, {window:g}; "
            "a larger hop would leave parts of clips out."
        )
    return Windows(length, n_hop)


def check_seconds(name: str, value: Any) -> None:
    """Refuse what is no length in seconds; "auto" is for others to see."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if value != "auto" and not (is_number and math.isfinite(value) and value > 0):
        raise InvalidParameterError(f"{name}: expected seconds, a number above 0, got {value!r}.")
