"""One clip in any form: the digest of its content, and its samples at a model's rate."""

from __future__ import annotations

import hashlib
import struct
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skembed._files import RowFile
from skembed.audio._decoding import MOST_CHANNELS, Sink, UnreadableSound, decode
from skembed.audio._quality import QualityCheck, mixed
from skembed.audio._resampling import Resampler

__all__ = [
    "EncodedSound",
    "ReadSound",
    "Samples",
    "Sound",
    "WaveformSound",
    "check_waveform",
]

Samples = NDArray[np.float32]


class ReadSound(NamedTuple):
    """Samples of one channel, and what is poor about them."""

    samples: Samples
    content: bytes | None  # digest of what was read, if that may have changed
    quality: str | None  # truncated, silent or clipped


class Sound(ABC):
    """One row."""

    __slots__ = ()

    digest: bytes
    """Of a file its bytes; in memory its samples, mixed to one channel, and their rate."""

    @abstractmethod
    def read(self, rate: int) -> ReadSound:
        """Return the clip at a rate in Hz; UnreadableSound or ChangedRow say why not."""

    @abstractmethod
    def describe(self) -> str:
        """Return what messages call it."""


@dataclass(frozen=True, slots=True)
class EncodedSound(Sound):
    """A file."""

    file: RowFile

    @property
    def digest(self) -> bytes:  # type: ignore[override]
        return self.file.digest

    def read(self, rate: int) -> ReadSound:
        samples, quality = decode(self.file.read(), rate)
        return ReadSound(samples, None, quality)

    def describe(self) -> str:
        return self.file.describe()


@dataclass(frozen=True, slots=True)
class WaveformSound(Sound):
    """Samples in memory, (n,) or (n, channels): the user's own, which may change meanwhile."""

    waveform: NDArray[Any]
    rate: float
    checked: tuple[bytes, str | None] | None = None  # its digest then, and what was poor about it

    @property
    def digest(self) -> bytes:  # type: ignore[override]
        if self.checked is not None:
            return self.checked[0]
        digest = _begin_digest(self.waveform, self.rate)
        for samples in mixed(self.waveform):
            digest.update(samples.data)
        return digest.digest()

    def read(self, rate: int) -> ReadSound:
        check = QualityCheck(self.rate)
        resampler, sink = Resampler(self.rate, rate), Sink()
        hashing = _begin_digest(self.waveform, self.rate)
        for samples in mixed(self.waveform, check if self.checked is None else None):
            hashing.update(samples.data)
            sink.take(resampler.push(samples))
        sink.take(resampler.finish())
        digest = hashing.digest()
        if self.checked is not None:
            if self.checked[0] != digest:  # it has changed: is it still a sound?
                return WaveformSound(self.waveform, self.rate).read(rate)
            return ReadSound(sink.samples(), digest, self.checked[1])
        if reason := check.why_unreadable():
            raise UnreadableSound(reason)
        return ReadSound(sink.samples(), digest, check.finding())

    def describe(self) -> str:
        return f"a waveform of shape {self.waveform.shape}, {self.waveform.dtype}"


def _begin_digest(waveform: NDArray[Any], rate: float) -> hashlib.blake2b:
    """Return the hash that takes the samples of a waveform, mixed to one channel."""
    digest = hashlib.blake2b(digest_size=16, person=b"skembed.sound")
    digest.update(struct.pack("<dq", rate, len(waveform)))
    return digest


def check_waveform(waveform: NDArray[Any], rate: float) -> WaveformSound | str:
    """Return a waveform as a clip, or what is wrong; of two dimensions the shorter is channels."""
    what = f"a waveform of shape {waveform.shape}, {waveform.dtype}"
    if isinstance(waveform, np.ma.MaskedArray) and np.ma.getmaskarray(waveform).any():
        return f"{what}: some of its samples are missing or masked; fill them in"
    waveform = np.asarray(waveform)
    if waveform.ndim == 2:
        if waveform.shape[0] == waveform.shape[1] != 1:
            return f"{what}: channels and samples cannot be told apart; pass (samples, channels)"
        if waveform.shape[0] < waveform.shape[1]:
            waveform = waveform.T
        if waveform.shape[1] > MOST_CHANNELS:
            return f"{what}: expected at most {MOST_CHANNELS} channels"
    if waveform.ndim != 1 and waveform.ndim != 2:
        return f"{what}: expected (samples,), (samples, channels) or (channels, samples)"
    if not waveform.size:
        return f"{what}: it has no samples"
    check, digest = QualityCheck(rate), _begin_digest(waveform, rate)
    try:
        for samples in mixed(waveform, check):
            digest.update(samples.data)
    except TypeError as error:
        return f"a waveform of shape {waveform.shape}: {error}"
    if reason := check.why_unreadable():
        return f"{what}: {reason}"
    return WaveformSound(waveform, rate, (digest.digest(), check.finding()))
