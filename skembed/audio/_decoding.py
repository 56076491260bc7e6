"""One sound file, as bytes: what is wrong with it, and its samples.

Owns decoding, which libsndfile does. Must not know paths, rows nor models.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from skembed.audio._containers import (
    StreamInfo,
    describe_foreign,
    flac_info,
    is_mpeg,
    why_incomplete,
    with_known_size,
)
from skembed.audio._mpeg import DamagedStream, MpegStream, read_mpeg
from skembed.audio._quality import QualityCheck, mix, to_float
from skembed.audio._resampling import Resampler
from skembed.audio._stderr import captured_mpg123

__all__ = ["Duration", "UnreadableSound", "decode", "duration_of", "why_not_a_sound"]

# Headers that lie have any number here. Below, sounds would grow 16-fold and more when resampled.
_LOWEST_RATE, _HIGHEST_RATE = 1_000, 1_000_000
_MOST_CHANNELS = 64

# At 16 kHz 2.6 GiB of samples.
_MOST_HOURS = 12

# Samples of all channels that are decoded at once: 1 MiB as float32.
_BLOCK = 1 << 18

# libsndfile's number of frames of what came from a pipe.
_UNKNOWN_FROM = 1 << 62

# Encoders of MP3 note how much silence they added, in 12 bits at either end, and it is left out.
_MOST_PADDING = 2 * 4095


class UnreadableSound(Exception):
    """A sound cannot be read; the message says why."""


class Duration(NamedTuple):
    """How long a sound is: frames, one sample per channel each, of `rate` per second.

    `n_frames` is -1 if only decoding would tell, as for files written to a pipe.
    """

    n_frames: int
    rate: int
    n_channels: int


class _Opened(NamedTuple):
    file: soundfile.SoundFile
    duration: Duration
    mpeg: MpegStream | None


class _SoundFile(soundfile.SoundFile):
    """A file that is read forward.

    After every block soundfile would seek to where it is already, which libsndfile refuses for FLAC
    files of unknown length.
    """

    def seekable(self) -> bool:
        """Return False."""
        return False


class _Bytes(io.BytesIO):
    """Bytes in which seeking cannot fail: cffi would print the traceback."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to a position; stay if there is none such."""
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


def why_not_a_sound(data: bytes) -> str | None:
    """Say what is wrong with a file as far as it can be told without decoding samples."""
    try:
        duration_of(data)
    except UnreadableSound as error:
        return str(error)
    return None


def duration_of(data: bytes) -> Duration:
    """Return how long the sound in a file is, as its header or its frames (MP3) say.

    Raises
    ------
    UnreadableSound
        As far as it can be told without decoding samples.
    """
    with _opened(data) as opened:
        return opened.duration


def decode(data: bytes, rate: int) -> NDArray[np.float32]:
    """Decode a file: its channels averaged, resampled to `rate` Hz.

    Files that libsndfile reads are read: WAV in all its kinds, AIFF, AU, CAF, FLAC, Ogg Vorbis,
    Opus, MP3 and others. Beyond the result, a few MiB are needed, and as much as the file if it is
    MP3 whose number of frames has to be written down.

    Parameters
    ----------
    data : bytes
        The file.
    rate : int
        Sample rate of the result, in Hz.

    Returns
    -------
    ndarray of float32, shape (n,)

    Raises
    ------
    UnreadableSound
        If it is no sound that libsndfile reads, damaged or cut (never is a part of it returned),
        too long, without frames, or its samples are unfit (see `why_unfit`).

    Notes
    -----
    Damage that cannot be seen: other samples in a file without checksums (WAV, AIFF, AU), and, in
    MP3, frames that are there and yet decode. FLAC files are compared with the MD5 digest of
    their samples, Ogg files with their pages' checksums, MP3 files frame by frame. Files of other
    formats, such as VOC, are taken for as long as libsndfile says.
    """
    info = flac_info(data)
    with _opened(data) as opened:
        hertz = opened.duration.rate
        check, resampler, sink = QualityCheck(hertz), Resampler(hertz, rate), _Sink()
        n_read = 0
        for frames in _blocks(opened, info):
            n_read += len(frames)
            if reason := _why_too_long(n_read, hertz):
                raise UnreadableSound(reason)
            samples = mix(frames)
            check.add(samples)
            sink.take(resampler.push(samples))
        if reason := _why_short(opened, n_read) or check.why_unfit():
            raise UnreadableSound(reason)
        sink.take(resampler.finish())
        return sink.samples()


@contextmanager
def _opened(data: bytes) -> Iterator[_Opened]:
    if reason := describe_foreign(data):
        raise UnreadableSound(f"not a sound that libsndfile reads, but {reason}")
    mpeg = None
    try:
        if is_mpeg(data):
            mpeg = read_mpeg(data)
        elif reason := why_incomplete(data):
            raise UnreadableSound(reason)
        with _damage_told(mpeg):
            file = _SoundFile(_Bytes(mpeg.data if mpeg else with_known_size(data)))
        with file:
            duration = Duration(file.frames, file.samplerate, file.channels)
            if not 0 <= duration.n_frames < _UNKNOWN_FROM:
                duration = duration._replace(n_frames=-1)
            if reason := _why_absurd(duration):
                raise UnreadableSound(reason)
            yield _Opened(file, duration, mpeg)
    except DamagedStream as error:
        raise UnreadableSound(str(error)) from error
    except soundfile.LibsndfileError as error:
        # Its own text has the address of the bytes.
        raise UnreadableSound(_in_words(error.error_string)) from error
    except soundfile.SoundFileError as error:
        raise UnreadableSound(f"damaged: {error}") from error


def _in_words(reason: str) -> str:
    reason = reason.removeprefix("Error : ").rstrip(".")
    if reason.startswith(("Format not recogni", "File contains data in an unknown")):
        return (
            "not a sound that libsndfile reads; if it has no header (raw PCM), read it with "
            "numpy.frombuffer and give the array, else convert it to WAV or FLAC"
        )
    return f"damaged, cut or of a kind that libsndfile does not read: {reason}"


def _why_absurd(duration: Duration) -> str | None:
    n_frames, rate, n_channels = duration
    if not _LOWEST_RATE <= rate <= _HIGHEST_RATE:
        return f"a sample rate of {rate:,} Hz, expected {_LOWEST_RATE:,} to {_HIGHEST_RATE:,}"
    if not 1 <= n_channels <= _MOST_CHANNELS:
        return f"{n_channels:,} channels, expected 1 to {_MOST_CHANNELS}"
    if n_frames == 0:
        return "it has no frames"
    return _why_too_long(n_frames, rate)


def _why_too_long(n_frames: int, rate: int) -> str | None:
    hours = n_frames / rate / 3600
    if hours <= _MOST_HOURS:
        return None
    return f"too long: {hours:,.1f} hours or more, at most {_MOST_HOURS} are read; cut it in pieces"


def _why_short(opened: _Opened, n_read: int) -> str | None:
    """Say how many frames lack of those that the file says it has."""
    n_expected = opened.duration.n_frames
    if n_read == 0:
        return "it has no frames"
    if (mpeg := opened.mpeg) and n_expected >= n_read:
        is_exact = mpeg.layer == 3
        n_expected = n_expected if is_exact else n_read
        n_less = _MOST_PADDING if is_exact else mpeg.n_samples_per_frame
        n_expected = max(n_expected, mpeg.n_samples - n_less)
    if n_read >= n_expected:
        return None
    return f"truncated or damaged: {n_expected:,} frames promised, {n_read:,} decoded"


def _damage_told(mpeg: MpegStream | None) -> AbstractContextManager[None]:
    return _damage_told_by_mpg123() if mpeg else nullcontext()


@contextmanager
def _damage_told_by_mpg123() -> Iterator[None]:
    """Raise as UnreadableSound what mpg123 prints and libsndfile passes over."""
    with captured_mpg123() as messages:
        yield
    # "Warning: Xing stream size off by more than 1%": tags are counted there, or not.
    told = [message for message in messages if not message.startswith("Warning: ")]
    if told:
        raise UnreadableSound(f"damaged: {told[0].removeprefix('error: ')}")


def _blocks(opened: _Opened, info: StreamInfo | None) -> Iterator[NDArray[np.float32]]:
    """Decode frames, blocks of shape (n, channels); of FLAC compare the digest at the end."""
    file, duration, mpeg = opened
    size = (_BLOCK // duration.n_channels, duration.n_channels)
    if info is not None and any(info.md5) and info.n_bits in (8, 16, 24):
        yield from _digested_blocks(file, np.empty(size, np.int32), info)
        return
    block = np.empty(size, np.float32)
    while True:
        with _damage_told(mpeg):
            n = file.buffer_read_into(block, "float32")
        if n == 0:
            return
        yield block[:n]


def _digested_blocks(
    file: soundfile.SoundFile, block: NDArray[np.int32], info: StreamInfo
) -> Iterator[NDArray[np.float32]]:
    digest = hashlib.md5(usedforsecurity=False)
    n_bytes = info.n_bits // 8
    while n := file.buffer_read_into(block, "int32"):
        # libsndfile puts samples into the highest bytes.
        of_samples = block[:n].astype("<i4", copy=False).reshape(-1, 1).view(np.uint8)
        digest.update(of_samples[:, 4 - n_bytes :].tobytes())
        yield to_float(block[:n])
    if digest.digest() != info.md5:
        raise UnreadableSound("damaged: its samples are not those that its MD5 digest is of")


class _Sink:
    """Put blocks in a row, in memory that grows in place."""

    def __init__(self) -> None:
        self._samples = np.empty(_BLOCK, np.float32)
        self._n = 0

    def take(self, blocks: list[NDArray[np.float32]]) -> None:
        for block in blocks:
            n = self._n + len(block)
            if n > len(self._samples):
                self._samples.resize(max(n, len(self._samples) * 9 // 8), refcheck=False)
            self._samples[self._n : n] = block
            self._n = n

    def samples(self) -> NDArray[np.float32]:
        self._samples.resize(self._n, refcheck=False)
        return self._samples
