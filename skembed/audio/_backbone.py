"""What all sound models have in common before they are frozen."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skembed._backbone import Backbone, Ending, Exported, ModelSettings, thawed
from skembed.audio._clips import ClipModule, Part, SpeechModule
from skembed.audio._views import cut_at_random, mask_bands, random_view
from skembed.exceptions import InvalidParameterError, UnsupportedModelError
from skembed.modules import SpeechModel, pooled_width
from skembed.store import digest_of

__all__ = [
    "AudioBackbone",
    "AudioSettings",
    "check_layer_number",
    "least_samples",
    "probe_samples",
    "standardize",
]


_POOLED = {
    "none": "features",
    "mean": "features.mean(1)",
    "std": "features.std(1, correction=0)",
    "max": "features.amax(1)",
    "cls": "features[:, 0]",
}
"""In the code on a model's card."""


@dataclass(frozen=True)
class AudioSettings(ModelSettings):
    """The parameters of `AudioEmbedder` that decide a vector, as Python's own values."""

    window: float | str | None = "auto"
    hop: float | None = None
    model_sampling_rate: int | None = None
    on_quality: str = "raise"


class AudioBackbone(Backbone):
    """A model of sound."""

    rate: int = 16_000  # in Hz
    limit: float | None = None  # seconds of the longest clip that it takes at once; None is any
    least: int = 1  # samples of the shortest one
    # Seconds that window="auto" is where there is no limit: attention grows with their square.
    window: float | None = 30.0
    pooling: str | None = None  # of the core's frames; None if it gives vectors
    n_prefix: int = 0  # tokens before the frames
    bands: int | None = None  # dimension of a part that is frequency
    _core_digest: bytes

    @property
    def core_digest(self) -> bytes:
        """Digest of all but the pooling."""
        return self._core_digest

    def prepare(self, samples: NDArray[np.float32], rng: np.random.Generator | None = None) -> Part:
        """Turn samples (n,) at the model's rate, of one window, into what it takes.

        With `rng`, of a random view of it.
        """
        if rng is None:
            return self._prepare(samples)
        most = None if self.limit is None else round(self.limit * self.rate)
        if most is not None:
            samples = cut_at_random(samples, most, rng)
        part = self._prepare(random_view(samples, rng, self.least)[:most])
        if self.bands is None:
            return part
        return replace(part, values=mask_bands(part.values, self.bands, rng))

    @abstractmethod
    def _prepare(self, samples: NDArray[np.float32]) -> Part:
        """Turn samples of at most `limit` seconds into what the model takes."""

    def cost(self, part: Part) -> int:
        """Return the number of samples, or of a window's features."""
        return max(1, part.values.numel())

    def collate(self, parts: Sequence[Part]) -> list[Part]:
        """Return the parts."""
        return list(parts)

    def probes(self) -> Iterable[Tensor]:
        """Yield clips as the core takes them: two together if they are of one shape."""
        values = [self.prepare(probe_samples(self.rate, seed=seed)).values for seed in (0, 1)]
        if values[0].shape == values[1].shape:
            yield torch.stack(values)
        yield values[0][None]

    def load(self, *, core: nn.Module | None = None, dtype: torch.dtype | None = None) -> nn.Module:
        """Load the module of `Part`; in float32 whatever the dtype."""
        if core is None:
            core = thawed(self._load_core())
        if isinstance(core, SpeechModel):
            return SpeechModule(core, str(self.pooling)).eval()
        return ClipModule(core, self.pooling, self.n_prefix).eval()

    @abstractmethod
    def _load_core(self) -> nn.Module:
        """Load what maps stacks of values, or clips of any lengths, to frames or vectors."""

    def export(self, module: nn.Module, folder: Path, ending: Ending) -> Exported:
        """Write the model as its library does; the code on its card pools."""
        return self._export(module.core, folder)

    def _export(self, core: Any, folder: Path) -> Exported:
        """Write the weights of what `_load_core` has returned."""
        raise UnsupportedModelError(f"{self.name} has no weights that could be exported.")

    def _clips_code(self, frames: str, *, prepare: str = "torch.from_numpy(clip)[None]") -> str:
        """Return lines for a card that make `vectors` of clips.

        `prepare` is an expression for `values`, what the model takes of a clip, as a batch; and
        `frames` one for what it gives for them, frames (1, n, d), or vectors without a pooling.
        """
        pooled = [_POOLED[name] for name in (self.pooling or "none").split("+")]
        vector = pooled[0] if len(pooled) == 1 else f"torch.cat([{', '.join(pooled)}], 1)"
        return f"""
# clips: a list of float32 arrays of samples at {self.rate:,} Hz. Those longer than a window are
# cut into windows, whose vectors are averaged.
vectors = []
with torch.inference_mode():
    for clip in clips:
        values = {prepare}
        features = {frames}
        vectors.append({vector})
vectors = torch.cat(vectors)
"""

    def _take_pooling(self, asked: str, d: int, own: str | None = "mean") -> None:
        """Take the pooling that is asked for, and the width; `own` None: the core gives vectors."""
        self.pooling = own if asked == "auto" else asked
        if own is None and asked != "auto":
            raise InvalidParameterError(
                f"pooling={asked!r}, but {self.name} gives one vector per clip. Leave "
                "pooling='auto', or choose an earlier layer."
            )
        self.width = d if self.pooling is None else pooled_width(d, self.pooling)

    def _take_digests(self, **core: object) -> None:
        """Take the digests, of what decides the core beside its family and source."""
        family = {"kind": type(self).__name__, "source": self.source.digest, "rate": self.rate}
        self._core_digest = digest_of({**family, **core})
        self.digest = digest_of({"core": self._core_digest, "pooling": self.pooling})


def standardize(samples: NDArray[np.float32], eps: float) -> NDArray[np.float32]:
    """Return samples with mean 0 and variance 1; `eps` is added to the variance."""
    found: NDArray[np.float32] = (samples - samples.mean()) / np.sqrt(samples.var() + eps)
    return found.astype(np.float32, copy=False)


def probe_samples(rate: int, seconds: float = 1.0, seed: int = 0) -> NDArray[Any]:
    """Return a clip with noise, tones and a rise in level, always the same: float32 (n,)."""
    n = max(1, round(rate * seconds))
    t = np.arange(n) / rate
    noise = np.random.default_rng(seed).normal(size=n)
    tones = np.sin(2 * np.pi * (200 + 60 * seed) * t) + np.sin(2 * np.pi * 0.11 * rate * t)
    level = 0.02 + 0.2 * np.minimum(1.0, t / max(seconds, 1e-9))
    probe: NDArray[Any] = (level * (tones / 2 + noise / 3)).astype(np.float32)
    return probe


def check_layer_number(layer: Any, n_layers: int, name: str) -> int | None:
    """Return the number of a hidden state, counted from 0; None for the model's end."""
    if layer is None:
        return None
    if not isinstance(layer, int) or not -n_layers - 1 <= layer <= n_layers:
        raise InvalidParameterError(
            f"layer={layer!r}, but {name} has hidden states 0 (its first layer's input) to "
            f"{n_layers}, or {-n_layers - 1} to -1 from the end."
        )
    return layer % (n_layers + 1)


def least_samples(convolutions: Sequence[tuple[int, int]]) -> int:
    """Return the fewest samples of which convolutions of (kernel, stride) give a frame."""
    n = 1
    for kernel, stride in reversed(convolutions):
        n = (n - 1) * stride + kernel
    return n
