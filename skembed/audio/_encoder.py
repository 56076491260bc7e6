"""The audio encoder: decoding, resampling, windows and a backbone, behind the engine's contract."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import soxr
import torch
from numpy.typing import NDArray

from skembed._encoder import BatchPolicy, Fault, Prepared
from skembed._files import ChangedRow
from skembed.audio._backbone import AudioBackbone, AudioSettings
from skembed.audio._clips import Part
from skembed.audio._decoding import DECODERS, UnreadableSound
from skembed.audio._sounds import Samples, Sound
from skembed.audio._views import cut_at_random
from skembed.engine import BackboneEncoder, is_out_of_memory, prepare_in_threads
from skembed.exceptions import InvalidParameterError
from skembed.store import digest_of

__all__ = ["AudioEncoder", "Windows", "check_seconds"]

_BUDGETS = {"cpu": 30 * 16_000, "cuda": 960 * 16_000, "mps": 120 * 16_000}
"""Samples of a batch that keep a device busy."""

_MOST_BYTES = 256 << 20
"""Prepared clips of this size are enough at once: over an hour of samples at 16 kHz."""

_MOST_BYTES_OF_A_CLIP = 4 << 30


class AudioEncoder(BackboneEncoder):
    """Encodes clips of sound with a backbone; a part is a window."""

    backbone: AudioBackbone

    def __init__(
        self, backbone: AudioBackbone, settings: AudioSettings, device: torch.device
    ) -> None:
        self.rate = backbone.rate
        self.windows = choose_windows(settings.window, settings.hop, backbone)
        self.refuses_poor = settings.on_quality == "raise"
        super().__init__(
            backbone,
            settings,
            device,
            **DECODERS,
            soxr=".".join(soxr.__version__.split(".")[:2]),
            # What was kept under another setting is a fault here.
            refuses_poor=self.refuses_poor,
        )
        # Clips that fit into a window are read whole, whatever its length.
        self.limit = self.windows.length
        self.cut_digest = digest_of({"window": self.windows.length, "hop": self.windows.hop})

    @property
    def policy(self) -> BatchPolicy:
        """Clips of any lengths together; on a CPU resampling takes all cores as the model does."""
        kind = self.torch_device.type
        return BatchPolicy(_BUDGETS[kind], "packed", 512, overlaps=kind != "cpu", may_fail=True)

    def prepare(self, items: Sequence[Sound]) -> list[Prepared | Fault]:
        """Decode, resample and cut clips, several at once."""

        def size_of(found: Prepared) -> int:
            # Windows of samples share the clip's memory; features do not.
            n_bytes: int = sum(part.values.nbytes for part in found.parts)
            return max(4 * found.size, n_bytes)

        return prepare_in_threads(self._prepare_one, items, size_of, _MOST_BYTES)

    def open(self, item: Sound) -> Samples:
        """Return the samples at the model's rate."""
        return item.read(self.rate)[0]

    def view(self, item: Sound, rng: np.random.Generator) -> Part:
        """Return a random view of a window at a random place."""
        samples = self.open(item)
        if self.windows.length is not None:
            samples = cut_at_random(samples, self.windows.length, rng)
        return self.backbone.prepare(samples, rng)

    def merge(self, vectors: NDArray[np.float32], costs: NDArray[np.int64]) -> NDArray[np.float32]:
        """Average the windows of a clip, which are of one length."""
        return super().merge(vectors, np.ones_like(costs))

    def _prepare_one(self, item: Sound) -> Prepared | Fault:
        try:
            samples, content, quality = item.read(self.rate)
        except (UnreadableSound, ChangedRow) as error:
            return Fault(str(error), is_gone=isinstance(error, ChangedRow))
        if quality is not None and self.refuses_poor:
            return Fault(quality)
        if len(samples) < self.backbone.least:
            return Fault(
                f"too short: {len(samples) / self.rate:.3g} s, {len(samples)} samples at "
                f"{self.rate:,} Hz; {self.backbone.name} takes at least {self.backbone.least}"
            )
        try:
            return Prepared(self._windows_of(samples), len(samples), content, quality)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            what = "preprocess" if self.backbone.is_foreign else self.backbone.name
            return Fault(f"{what} raised {type(error).__name__}: {error}")

    def _windows_of(self, samples: Samples) -> list[Part]:
        length = self.windows.length or len(samples)
        starts = self.windows.starts(len(samples))
        first = self.backbone.prepare(samples[:length])
        n_bytes = len(starts) * first.values.nbytes
        if n_bytes > max(_MOST_BYTES_OF_A_CLIP, 5 * samples.nbytes):
            raise ValueError(
                f"its {len(starts):,} windows would take {n_bytes / 2**30:.1f} GiB of memory; "
                "split the clip, or choose a longer hop"
            )
        return [first, *(self.backbone.prepare(samples[s : s + length]) for s in starts[1:])]


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
                f"hop={hop!r}, but clips are left whole. Set window to a number of seconds."
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
            f"hop={hop:g}: expected seconds from {1 / rate:g} to the length of the window, "
            f"{window:g}; a larger hop would skip parts of clips."
        )
    return Windows(length, n_hop)


def check_seconds(name: str, value: Any) -> None:
    """Refuse what is no length in seconds; "auto" is for others to see."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if value != "auto" and not (is_number and math.isfinite(value) and value > 0):
        raise InvalidParameterError(f"{name}: expected a number of seconds above 0, got {value!r}.")
