"""The audio encoder: decoding, resampling, windows and a backbone, behind the engine's contract.

Everything that decides a vector is settled when the encoder is made; the weights are loaded when
the first clip has to be encoded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skembed._encoder import Encoder, Fault, Prepared, join_replicas
from skembed.audio._backbone import Backbone, BackboneSettings, Part
from skembed.audio._backbones import DEFAULT_RATE, find_backbone
from skembed.audio._decoding import DECODERS, UnreadableSound
from skembed.audio._preprocess import make_preprocess
from skembed.audio._sounds import ChangedSound, Samples, Sound
from skembed.audio._windows import choose_windows
from skembed.engine import (
    finish,
    is_out_of_memory,
    map_in_threads,
    resolve_devices,
    resolve_dtype,
    samples_per_batch,
    stay_safe_after_fork,
)
from skembed.exceptions import InvalidParameterError, SkembedError, UnsupportedModelError
from skembed.store import digest_of
from skembed.weights import shared_model

__all__ = ["AudioEncoder", "AudioSettings", "make_audio_encoder"]

_FORMAT = 1
"""Raised when a change to skembed changes vectors, so that stored ones are not served."""

_MOST_BYTES = 256 << 20
"""Prepared clips of this size are enough at once: over an hour of samples at 16 kHz."""

_MOST_BYTES_OF_A_CLIP = 4 << 30


@dataclass(frozen=True)
class AudioSettings:
    """What the user asked for, as the estimator's parameters say it."""

    model: Any
    backbone: BackboneSettings
    window: float | str | None = "auto"
    hop: float | None = None
    normalize: bool = False
    n_components: int | None = None
    preprocess: Callable[[Tensor], Any] | None = None
    device: str | tuple[str, ...] = "auto"
    dtype: str = "auto"


def make_audio_encoder(settings: AudioSettings) -> AudioEncoder:
    """Return the encoder for these settings, with a replica for each device."""
    stay_safe_after_fork()
    preprocess = None
    if settings.preprocess is not None and isinstance(settings.model, nn.Module):
        rate = settings.backbone.model_sampling_rate or DEFAULT_RATE
        preprocess = make_preprocess(settings.preprocess, rate)
    elif settings.preprocess is not None:
        raise InvalidParameterError(
            f"preprocess is for a torch.nn.Module of your own; model={str(settings.model)!r} "
            "prepares clips as it was trained. Leave preprocess=None."
        )
    backbone = find_backbone(settings.model, preprocess, settings.backbone)
    devices = resolve_devices(settings.device)
    return join_replicas([AudioEncoder(settings, backbone, each) for each in devices])


class AudioEncoder(Encoder):
    """Encodes clips of sound with a backbone.

    Parameters
    ----------
    settings : AudioSettings
        What the user asked for.
    backbone : Backbone
        The model.
    device : device
        Where it runs.
    """

    layout = "packed"
    may_fail = True
    window = 512

    def __init__(self, settings: AudioSettings, backbone: Backbone, device: torch.device) -> None:
        self.backbone = backbone
        self.torch_device = device
        # Samples, and what unknown code makes of them, may not bear rounding to 8 bits.
        is_own = isinstance(settings.model, nn.Module) and settings.dtype == "auto"
        is_float32 = is_own or device.type in backbone.float32_on
        self.torch_dtype = resolve_dtype("float32" if is_float32 else settings.dtype, device)
        self.device = str(device)
        self.dtype = str(self.torch_dtype).removeprefix("torch.")
        self.budget = samples_per_batch(device)
        # Resampling takes all cores as the model does.
        self.prepares_ahead = device.type != "cpu"
        self.normalize = settings.normalize
        self.n_components = settings.n_components
        self.rate = backbone.rate
        self.windows = choose_windows(
            settings.window,
            settings.hop,
            rate=backbone.rate,
            limit=backbone.limit,
            least=backbone.least,
            name=backbone.name,
        )
        self.width = self._choose_width(settings.n_components)
        place = {"kind": "audio backbone", "backbone": backbone.digest}
        self.model_key = digest_of({**place, "device": self.device, "dtype": self.dtype})
        self.digest = digest_of(
            {
                "format": _FORMAT,
                **DECODERS,
                "soxr": ".".join(soxr.__version__.split(".")[:2]),
                "backbone": backbone.digest,
                "window": self.windows.length,
                "hop": self.windows.hop,
                "dtype": self.dtype,
                "normalize": self.normalize,
                "n_components": self.n_components,
            }
        )

    def __repr__(self) -> str:
        return (
            f"AudioEncoder({self.backbone.name!r}, width={self.width}, rate={self.rate}, "
            f"device={self.device!r}, dtype={self.dtype!r})"
        )

    def content(self, item: Sound) -> bytes:
        """Return the digest of the clip's content."""
        return item.digest

    def describe(self, item: Sound) -> str:
        """Return the clip's path, or what else it came as."""
        return item.describe()

    def prepare(self, items: Sequence[Sound]) -> list[Prepared | Fault]:
        """Decode, resample and cut clips, several at once; a part is a window."""
        n_bytes, guard = 0, threading.Lock()

        def prepare_unless_full(i: int) -> Prepared | Fault | None:
            nonlocal n_bytes
            if i and n_bytes >= _MOST_BYTES:
                return None
            found = self._prepare_one(items[i])
            if isinstance(found, Prepared):
                # Windows of samples share the clip's memory; features do not.
                size = max(4 * found.size, sum(part.values.nbytes for part in found.parts))
                with guard:
                    n_bytes += size
            return found

        prepared: list[Prepared | Fault] = []
        for each in map_in_threads(prepare_unless_full, range(len(items)), name="skembed-decode"):
            if each is None:  # one of another thread may have been done after it
                break
            prepared.append(each)
        return prepared

    def cost(self, part: Part) -> int:
        """Return the number of samples, or of a window's features."""
        return max(1, part.values.numel())

    def collate(self, parts: Sequence[Part]) -> list[Part]:
        """Bring parts to the device."""
        return [part.to(self.torch_device) for part in parts]

    def encode(self, batch: list[Part]) -> Tensor:
        """Return vectors of shape (parts, width), float32."""
        features: Tensor = self._network()(batch)
        if features.shape != (len(batch), self.backbone.width):
            raise ValueError(
                f"{self.backbone.name} gives vectors of shape {tuple(features.shape)} for "
                f"{len(batch)} clips, expected {(len(batch), self.backbone.width)}."
            )
        return finish(features, self.n_components, self.normalize)

    def merge(self, vectors: NDArray[np.float32], costs: NDArray[np.int64]) -> NDArray[np.float32]:
        """Average the windows of a clip, which are of one length; at unit length if rows are."""
        mean: NDArray[np.float32] = vectors.mean(0, dtype=np.float64).astype(np.float32)
        if self.normalize:
            mean /= max(float(np.linalg.norm(mean)), 1e-12)
        return mean

    def _prepare_one(self, item: Sound) -> Prepared | Fault:
        try:
            samples, content, quality = item.read(self.rate)
        except UnreadableSound as error:
            return Fault(str(error), is_gone=isinstance(error, ChangedSound))
        if quality is not None:
            return Fault(quality)
        if len(samples) < self.backbone.least:
            return Fault(
                f"too short: {len(samples) / self.rate:.3g} s, {len(samples)} samples at "
                f"{self.rate:,} Hz; {self.backbone.name} takes at least {self.backbone.least}"
            )
        try:
            return Prepared(self._windows_of(samples), len(samples), content)
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
                f"its {len(starts):,} windows would take {n_bytes / 2**30:.1f} GiB of memory; cut "
                "the clip, or choose a longer hop"
            )
        return [first, *(self.backbone.prepare(samples[s : s + length]) for s in starts[1:])]

    def _network(self) -> nn.Module:
        """Return the model, loading it once per process for all settings that can share it."""
        return shared_model(self.model_key, self._load_network, n_bytes=self.backbone.n_bytes)

    def _load_network(self) -> nn.Module:
        try:
            network = self.backbone.load(self.torch_dtype, self.torch_device)
            self.backbone.refuse_other_files()
            return network
        except Exception as error:
            if isinstance(error, SkembedError) or is_out_of_memory(error):
                raise
            raise UnsupportedModelError(
                f"{self.backbone.name} cannot be loaded: {type(error).__name__}: {error}"
            ) from error

    def _choose_width(self, n_components: int | None) -> int:
        width = self.backbone.width
        if n_components is None:
            return width
        if n_components > width:
            raise InvalidParameterError(
                f"n_components={n_components}, but {self.backbone.name} gives {width} features."
            )
        return n_components
