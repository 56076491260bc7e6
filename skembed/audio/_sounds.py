"""One clip, whatever it came as: its content's digest, and its samples at a model's rate.

Owns which samples a row means. Must not know containers, row numbers nor models.
"""

from __future__ import annotations

import hashlib
import struct
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skembed._files import digest_of_file
from skembed.audio._decoding import UnreadableSound, decode
from skembed.audio._quality import mix, to_float, why_unfit
from skembed.audio._resampling import resample

__all__ = [
    "BytesSound",
    "ChangedSound",
    "FileSound",
    "Samples",
    "Sound",
    "WaveformSound",
    "check_waveform",
    "digest_of_samples",
    "to_mono",
]

Samples = NDArray[np.float32]

_MOST_CHANNELS = 64


class ChangedSound(UnreadableSound):
    """A clip is gone, or no longer what it was."""


class Sound(ABC):
    """One row.

    Attributes
    ----------
    digest : bytes
        Of its content: of a file its bytes, in memory its samples, mixed to one channel, and their
        rate.
    """

    __slots__ = ()

    digest: bytes

    @abstractmethod
    def read(self, rate: int) -> tuple[Samples, bytes | None]:
        """Return samples (n,) at a rate in Hz, one channel, and their digest if it may be another.

        Raises
        ------
        UnreadableSound
            If it cannot be decoded, or has no samples that mean anything.
        ChangedSound
            If it is a file that is no longer what it was when its digest was taken.
        """

    @abstractmethod
    def describe(self) -> str:
        """Return what messages call it."""


@dataclass(frozen=True, slots=True)
class FileSound(Sound):
    """A file on disk, read when it is needed."""

    path: str
    digest: bytes

    def read(self, rate: int) -> tuple[Samples, bytes | None]:
        """Decode the file."""
        try:
            data = Path(self.path).read_bytes()
        except OSError as error:
            reason = f"it can be read no more: {error.strerror or error}"
            raise ChangedSound(reason) from error
        if digest_of_file(data) != self.digest:
            raise ChangedSound("it changed while it was being embedded")
        return decode(data, rate), None

    def describe(self) -> str:
        """Return its path."""
        return repr(self.path)


@dataclass(frozen=True, slots=True)
class BytesSound(Sound):
    """A file in memory."""

    data: bytes
    digest: bytes

    def read(self, rate: int) -> tuple[Samples, bytes | None]:
        """Decode the file."""
        return decode(self.data, rate), None

    def describe(self) -> str:
        """Return its size."""
        return f"{len(self.data):,} bytes"


@dataclass(frozen=True, slots=True)
class WaveformSound(Sound):
    """Samples in memory.

    Parameters
    ----------
    waveform : ndarray of shape (n,) or (n, channels)
        The user's own, which may change meanwhile.
    rate : float
        In Hz.
    """

    waveform: NDArray[Any]
    rate: float

    @property
    def digest(self) -> bytes:  # type: ignore[override]
        """Digest of the samples, mixed to one channel, and of their rate."""
        return digest_of_samples(to_mono(self.waveform), self.rate)

    def read(self, rate: int) -> tuple[Samples, bytes | None]:
        """Resample the waveform."""
        samples = to_mono(self.waveform)
        if samples.base is not None or samples is self.waveform:
            samples = samples.copy()
        digest = digest_of_samples(samples, self.rate)
        if reason := why_unfit(samples, self.rate):
            raise UnreadableSound(reason)
        return resample(samples, self.rate, rate), digest

    def describe(self) -> str:
        """Return its type and shape."""
        return f"a waveform of shape {self.waveform.shape}, {self.waveform.dtype}"


def to_mono(waveform: NDArray[Any]) -> Samples:
    """Return samples (n,) in float32 of a waveform (n,) or (n, channels)."""
    samples = to_float(waveform)
    return samples if samples.ndim == 1 else mix(samples)


def digest_of_samples(samples: Samples, rate: float) -> bytes:
    """Return the digest of samples (n,) in float32 and of their rate in Hz."""
    digest = hashlib.blake2b(digest_size=16, person=b"skembed.sound")
    digest.update(struct.pack("<dq", rate, len(samples)))
    digest.update(np.ascontiguousarray(samples).data)
    return digest.digest()


def check_waveform(waveform: NDArray[Any], rate: float) -> WaveformSound | str:
    """Return a waveform as a clip, or what is wrong with it.

    Parameters
    ----------
    waveform : ndarray of shape (n,), (n, channels) or (channels, n)
        Of two dimensions the shorter one are the channels.
    rate : float
        In Hz.
    """
    what = f"a waveform of shape {waveform.shape}, {waveform.dtype}"
    if isinstance(waveform, np.ma.MaskedArray):
        if np.ma.getmaskarray(waveform).any():
            return f"{what}: some of its samples are missing or masked; fill them"
        waveform = np.ma.getdata(waveform)
    waveform = np.asarray(waveform)
    if waveform.ndim == 2:
        if waveform.shape[0] == waveform.shape[1] != 1:
            return f"{what}: no one can tell channels from samples; give (samples, channels)"
        if waveform.shape[0] < waveform.shape[1]:
            waveform = waveform.T
        if waveform.shape[1] > _MOST_CHANNELS:
            return f"{what}: expected at most {_MOST_CHANNELS} channels"
    if waveform.ndim != 1 and waveform.ndim != 2:
        return f"{what}: expected (samples,), (samples, channels) or (channels, samples)"
    if not waveform.size:
        return f"{what}: it has no samples"
    try:
        samples = to_mono(waveform)
    except TypeError as error:
        return f"a waveform of shape {waveform.shape}: {error}"
    if reason := why_unfit(samples, rate):
        return f"{what}: {reason}{_hint(waveform)}"
    return WaveformSound(waveform, rate)


def _hint(waveform: NDArray[Any]) -> str:
    """Say what whole numbers may be that are small for their type."""
    is_wide = waveform.dtype.kind == "i" and waveform.dtype.itemsize == 4
    if is_wide and np.abs(waveform.astype(np.int64)).max() < 1 << 16:
        return "; int32 is at full scale at 2**31: if this is 16-bit PCM, use .astype('int16')"
    return ""
