"""One sound file, as bytes: what is wrong with it, and its samples.

Owns which library decodes what, and whether all that a file promises is there. Must not know paths,
rows nor models.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av
import av.error
import numpy as np
import soundfile
from numpy.typing import NDArray

from skembed._file_rows import describe_bytes
from skembed.audio._quality import QualityCheck, to_float
from skembed.audio._resampling import Resampler

__all__ = ["DECODERS", "MOST_CHANNELS", "UnreadableSound", "decode", "why_not_a_sound"]

DECODERS = {
    "libsndfile": soundfile.__libsndfile_version__,
    "libavcodec": ".".join(map(str, av.library_versions["libavcodec"][:2])),
}
"""Versions of what decodes: another one may give other samples."""

MOST_CHANNELS = 64

# Headers that lie have any number here. Below, sounds would grow 16-fold and more when resampled.
_LOWEST_RATE, _HIGHEST_RATE = 1_000, 1_000_000

# At 16 kHz 2.6 GiB of samples.
_MOST_HOURS = 12

# Samples of all channels that are decoded at once: 256 KiB as float32.
_BLOCK = 1 << 16

_LIBSNDFILE = (b"RIFF", b"RIFX", b"RF64", b"riff", b"FORM", b".snd", b"dns.", b"caff", b"fLaC")
_LIBSNDFILE += (b"OggS", b"NIST")

# None of which opens another file, as playlists do. Images and text are read as video by others.
_FFMPEG = "aac,ac3,eac3,amr,asf,avi,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,tta,wav,wv"

# Formats whose header says how long the sound is; of others FFmpeg guesses.
_TOLD = {"mp3", "mov", "matroska", "tta", "wv"}

# Programs that write to a pipe cannot know the size: 0 or all ones (ffmpeg), nearly 2 GiB (SoX).
_UNKNOWN_SIZE = 0x7FFFF000
_UNKNOWN_FRAMES = 1 << 62

_READ = ("a sound", "a video", "a WMA or WMV file")
_RAW = (
    "not a sound that libsndfile or FFmpeg reads; if it has no header (raw PCM), read it with "
    "numpy.frombuffer and give the array"
)


class UnreadableSound(Exception):
    """A sound cannot be read; the message says why."""


def why_not_a_sound(data: bytes) -> str | None:
    """Say what is wrong with a file as far as its header tells; decodes next to nothing."""
    try:
        with _opened(data):
            return None
    except UnreadableSound as error:
        return str(error)


def decode(data: bytes, rate: int) -> tuple[NDArray[np.float32], str | None]:
    """Decode a file: its channels averaged, resampled to `rate` Hz; and what is poor about it.

    libsndfile reads WAV, AIFF, AU, CAF, W64, FLAC, Ogg Vorbis and Opus; FFmpeg MP3, AAC (M4A), WMA,
    AMR and others, and the sound of videos. A few MiB are needed beyond the result.

    Returns
    -------
    samples : ndarray of float32, shape (n,)
    quality : str or None
        "truncated: ..." if fewer frames came than promised, or what `QualityCheck` finds.

    Raises
    ------
    UnreadableSound
        If neither reads it, it is damaged, too long or without frames, or has samples that are no
        numbers.
    """
    with _opened(data) as stream:
        n_read, sink = 0, _Sink()
        check: QualityCheck | None = None
        for frames in stream.blocks():
            if check is None:  # the header's rate may be half of the decoder's (HE-AAC)
                check, resampler = QualityCheck(stream.rate), Resampler(stream.rate, rate)
            n_read += len(frames)
            if reason := _why_too_long(n_read, stream.rate):
                raise UnreadableSound(reason)
            sink.take(resampler.push(check.mix(frames)))
        if check is None:
            raise UnreadableSound("it has no frames")
        if reason := check.why_unreadable():
            raise UnreadableSound(reason)
        sink.take(resampler.finish())
        return sink.samples(), stream.why_cut(n_read) or check.finding()


class _Stream:
    """A file that is read forward: frames of its channels at `rate` Hz."""

    rate: int
    n_promised: int = 0
    tolerance: int = 0
    cut: str | None = None

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Decode frames, blocks of shape (n, channels)."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the bytes."""
        raise NotImplementedError

    def why_cut(self, n_read: int) -> str | None:
        """Say what lacks of what the file promises."""
        if self.n_promised > n_read + self.tolerance:
            return f"truncated: {self.n_promised:,} frames promised, {n_read:,} decoded"
        return f"truncated: {self.cut}" if self.cut else None


@contextmanager
def _opened(data: bytes) -> Iterator[_Stream]:
    if what := describe_bytes(data, but=_READ):
        raise UnreadableSound(f"not a sound, but {what}")
    is_chained = data[:4] == b"OggS" and data[14:18] != _last_page(data)[14:18]
    is_first = data.startswith(_LIBSNDFILE) and data[8:12] != b"AVI " and not is_chained
    stream: _Stream
    try:
        stream = _Libsndfile(data) if is_first else _FFmpeg(data)
    except UnreadableSound as error:
        if not is_first or data[:4] not in (b"RIFF", b"OggS"):
            raise
        try:  # codecs that libsndfile lacks
            stream = _FFmpeg(data)
        except UnreadableSound:
            raise error from None
    try:
        yield stream
    finally:
        stream.close()


class _Libsndfile(_Stream):
    def __init__(self, data: bytes) -> None:
        if data[:4] in (b"RIFF", b"RIFX", b"RF64"):
            data, self.cut = _look_at_wav(data)
        elif data[:4] == b"OggS" and not _ends(_last_page(data)):
            self.cut = "its last page is not there"
        try:
            self._file = _SoundFile(_Bytes(data))
        except soundfile.LibsndfileError as error:  # its own text has the address of the bytes
            reason = error.error_string.removeprefix("Error : ").rstrip(".")
            raise UnreadableSound(
                f"damaged, cut or of a kind that libsndfile does not read: {reason}"
            ) from error
        except soundfile.SoundFileError as error:
            raise UnreadableSound(f"damaged: {error}") from error
        self.rate = self._file.samplerate
        n_frames = self._file.frames
        self.n_promised = n_frames if 0 <= n_frames < _UNKNOWN_FRAMES else 0
        if n_frames == 0:
            raise UnreadableSound("it has no frames")
        _refuse_absurd(self.rate, self._file.channels, self.n_promised)

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        n_channels = self._file.channels
        block = np.empty((_BLOCK // n_channels, n_channels), np.float32)
        while True:
            try:
                n = self._file.buffer_read_into(block, "float32")
            except soundfile.LibsndfileError as error:
                if not re.search("psf_fseek|lost sync", error.error_string):
                    reason = error.error_string.removeprefix("Error : ").rstrip(".")
                    raise UnreadableSound(f"damaged: {reason}") from error
                self.cut, n = "its last frames cannot be decoded", 0  # of FLAC
            if n == 0:
                return
            yield block[:n]

    def close(self) -> None:
        self._file.close()


class _SoundFile(soundfile.SoundFile):
    """Does not seek to where it is after every block, which FLAC of unknown length refuses."""

    def seekable(self) -> bool:
        return False


class _Bytes(io.BytesIO):
    """Bytes in which seeking cannot fail: cffi would print the traceback."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


class _FFmpeg(_Stream):
    def __init__(self, data: bytes) -> None:
        try:
            self._container = av.open(
                _Bytes(data), metadata_errors="ignore", options={"format_whitelist": _FFMPEG}
            )
        except (av.error.FFmpegError, ValueError, OSError) as error:
            reason = "damaged or cut: FFmpeg cannot open it" if describe_bytes(data) else _RAW
            raise UnreadableSound(reason) from error
        try:
            self._read_header(data)
        except BaseException:
            self.close()
            raise

    def _read_header(self, data: bytes) -> None:
        container = self._container
        stream: Any = container.streams.best("audio")
        if stream is None or stream.codec_context is None:
            raise UnreadableSound("a video without sound, or of a codec that FFmpeg lacks")
        self._stream, self.rate = stream, stream.rate or 0
        self._format = container.format.name.split(",")[0]
        if self._format in _TOLD - {"mp3"} or (self._format == "mp3" and _has_count(data)):
            seconds = float(stream.duration * stream.time_base) if stream.duration else 0.0
            if not seconds and len(container.streams) == 1:
                seconds = (container.duration or 0) / av.time_base
            self._seconds = seconds
        else:
            self._seconds = 0.0
        _refuse_absurd(self.rate, stream.channels, int(self._seconds * self.rate))

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        n, block = 0, _Block()
        largest, bad = 1, ""
        for frame in self._frames():
            if isinstance(frame, str):
                bad = bad or f"at second {n / self.rate:.3f}: {frame}"
                continue
            if bad:
                raise UnreadableSound(f"damaged {bad}")
            if n and frame.sample_rate != self.rate:
                raise UnreadableSound(f"its sampling rate changes at second {n / self.rate:.3f}")
            self.rate = frame.sample_rate
            n, largest = n + frame.samples, max(largest, frame.samples)
            yield from block.take(frame)
        yield from block.rest()
        # What follows the last frame of an MP3 file are tags or junk.
        self.cut = "its end cannot be decoded" if bad and self._format != "mp3" else None
        # Codecs' delay at either end is counted by some headers.
        self.tolerance = largest * (1 if self._format == "mp3" else 4)
        self.n_promised = int(self._seconds * self.rate)

    def _frames(self) -> Iterator[Any]:
        """Decode frame by frame; a str is what is wrong at that place."""
        packets, has_failed = self._container.demux(self._stream), False
        while True:
            try:
                packet = next(packets)
                if has_failed and not packet.size:  # what the decoder held back is no new frame
                    return
                frames = packet.decode()
            except StopIteration:
                return
            except av.error.EOFError:
                return
            except av.error.FFmpegError as error:
                has_failed = True
                yield error.strerror or type(error).__name__
                continue
            for frame in frames:
                yield "a corrupt frame" if frame.is_corrupt else frame

    def close(self) -> None:
        self._container.close()


class _Block:
    """Put FFmpeg's small frames together."""

    def __init__(self) -> None:
        self._parts: list[NDArray[np.float32]] = []
        self._n = 0

    def take(self, frame: Any) -> Iterator[NDArray[np.float32]]:
        n_channels = frame.layout.nb_channels
        if not 1 <= n_channels <= MOST_CHANNELS:
            raise UnreadableSound(f"{n_channels:,} channels, expected 1 to {MOST_CHANNELS}")
        samples = to_float(frame.to_ndarray())
        frames = samples.T if frame.format.is_planar else samples.reshape(-1, n_channels)
        if self._n + frames.size > _BLOCK or (
            self._parts and self._parts[0].shape[1] != n_channels
        ):
            yield from self.rest()
        self._parts.append(frames)
        self._n += frames.size

    def rest(self) -> Iterator[NDArray[np.float32]]:
        if self._parts:
            yield np.concatenate(self._parts)
        self._parts, self._n = [], 0


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


def _refuse_absurd(rate: int, n_channels: int, n_frames: int) -> None:
    if not _LOWEST_RATE <= rate <= _HIGHEST_RATE:
        raise UnreadableSound(
            f"a sample rate of {rate:,} Hz, expected {_LOWEST_RATE:,} to {_HIGHEST_RATE:,}"
        )
    if not 1 <= n_channels <= MOST_CHANNELS:
        raise UnreadableSound(f"{n_channels:,} channels, expected 1 to {MOST_CHANNELS}")
    if reason := _why_too_long(n_frames, rate):
        raise UnreadableSound(reason)


def _why_too_long(n_frames: int, rate: int) -> str | None:
    hours = n_frames / rate / 3600
    if hours <= _MOST_HOURS:
        return None
    return f"too long: {hours:,.1f} hours or more, at most {_MOST_HOURS} are read; cut it in pieces"


def _look_at_wav(data: bytes) -> tuple[bytes, str | None]:
    """Return a WAV file, a size that was never written (0) made unknown, and what lacks of it."""
    order = ">" if data[:4] == b"RIFX" else "<"
    at, n_wide, n_bytes_per_frame = 12, 0, 1
    while at + 8 <= len(data):
        name, (size,) = data[at : at + 4], struct.unpack_from(order + "I", data, at + 4)
        if name == b"fmt " and at + 22 <= len(data):
            (n_bytes_per_frame,) = struct.unpack_from(order + "H", data, at + 20)
        elif name == b"ds64" and at + 24 <= len(data):
            (n_wide,) = struct.unpack_from("<Q", data, at + 16)
        elif name == b"data":
            n_there = len(data) - at - 8
            (of_file,) = struct.unpack_from(order + "I", data, 4)
            if size == 0 and n_there and not 0 < of_file < _UNKNOWN_SIZE:
                return b"".join([data[: at + 4], b"\xff" * 4, data[at + 8 :]]), None
            if data[:4] == b"RF64" and size == 0xFFFFFFFF and n_wide < _UNKNOWN_FRAMES:
                size = n_wide
            elif size >= _UNKNOWN_SIZE:
                return data, None
            if size - n_there < max(1, n_bytes_per_frame):
                return data, None
            return data, f"{size:,} bytes of samples promised, {n_there:,} are there"
        at += 8 + size + size % 2
    return data, None


def _last_page(data: bytes) -> bytes:
    return data[max(0, data.rfind(b"OggS")) :] if data[:4] == b"OggS" else b""


def _ends(page: bytes) -> bool:
    """Return whether an Ogg page is whole and says that it is the last."""
    n_segments = page[26] if len(page) > 26 else 255
    return len(page) >= 27 + n_segments + sum(page[27 : 27 + n_segments]) and bool(page[5] & 4)


def _has_count(data: bytes) -> bool:
    """Return whether the first frame of an MP3 file tells how many there are."""
    at = 0
    if data[:3] == b"ID3" and len(data) > 10:
        at = 10 + sum((byte & 127) << 7 * (3 - i) for i, byte in enumerate(data[6:10]))
    return re.search(rb"Xing|Info|VBRI", data[at : at + 2048]) is not None
