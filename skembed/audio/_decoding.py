"""One sound file, as bytes: which library decodes it, what is wrong with it, and its samples."""

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

__all__ = ["DECODERS", "MOST_CHANNELS", "Sink", "UnreadableSound", "decode", "why_not_a_sound"]

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

# Samples of all channels that are decoded at once: 1 MiB as float32.
_BLOCK = 1 << 18

_LIBSNDFILE = tuple(b"RIFF RIFX RF64 riff FORM .snd dns. caff fLaC OggS NIST".split())

# None of these opens another file, as playlists do.
_FFMPEG = "aac,ac3,eac3,amr,asf,avi,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,tta,wav,wv"

# Formats whose header says how long the sound is; of others FFmpeg guesses.
_TOLD = ("mov", "matroska", "tta", "wv")

# Programs that write to a pipe cannot know the size: 0 or all ones (ffmpeg), nearly 2 GiB (SoX).
_UNKNOWN_SIZE = 0x7FFFF000
_UNKNOWN_FRAMES = 1 << 62

# Samples of two frames of MP3.
_MOST_EXCESS = 2 * 1152

_READ = ("a sound", "a video", "a WMA or WMV file")
_RAW = (
    "not a sound that libsndfile or FFmpeg can read; if it has no header (raw PCM), read it with "
    "numpy.frombuffer and pass the array"
)

# Of FFmpeg's names.
_DTYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "flt": "f4", "dbl": "f8"}

Frames = NDArray[np.float32]


class UnreadableSound(Exception):
    """A sound cannot be read; the message says why."""


class _Unopened(UnreadableSound):
    """Another library may open it."""


def why_not_a_sound(data: bytes) -> str | None:
    """Say what is wrong with a file as far as its header tells; decodes next to nothing."""
    try:
        with _opened(data):
            return None
    except UnreadableSound as error:
        return str(error)


def decode(data: bytes, rate: int) -> tuple[NDArray[np.float32], str | None]:
    """Return a file's channels averaged, at `rate` Hz, and what is poor about it or None.

    Poor is what is "truncated: ...", of which fewer frames came than promised, and what
    `QualityCheck` finds. UnreadableSound is raised for what neither libsndfile nor FFmpeg decodes
    to its end, and for samples that are no numbers. A few MiB are needed beyond the result.
    """
    with _opened(data) as stream:
        n_read, sink = 0, Sink()
        check: QualityCheck | None = None
        for frames in stream.blocks():
            n_read += len(frames)
            _refuse_absurd(stream.rate, frames.shape[1], n_read)
            if check is None:  # a header's rate may be half of the decoder's (HE-AAC)
                check, resampler = QualityCheck(stream.rate), Resampler(stream.rate, rate)
            sink.take(resampler.push(check.mix(frames)))
        if check is None:
            raise UnreadableSound(stream.why_truncated(0) or "it has no frames")
        if reason := check.why_unreadable():
            raise UnreadableSound(reason)
        sink.take(resampler.finish())
        return sink.samples(), stream.why_truncated(n_read) or check.finding()


@contextmanager
def _opened(data: bytes) -> Iterator[_Libsndfile | _FFmpeg]:
    if what := describe_bytes(data, but=_READ):
        raise UnreadableSound(f"not a sound, but {what}")
    # Several streams, or one that was saved before its end: libsndfile fails on Opus there.
    last = _last_page(data) if data[:4] == b"OggS" else b""
    is_odd = bool(last) and (data[14:18] != last[14:18] or (_is_whole(last) and not last[5] & 4))
    stream: _Libsndfile | _FFmpeg
    if not data.startswith(_LIBSNDFILE) or data[8:12] == b"AVI " or is_odd:
        stream = _FFmpeg(data)
    else:
        try:
            stream = _Libsndfile(data)
        except _Unopened as error:
            if data[:4] not in (b"RIFF", b"OggS"):
                raise
            try:  # codecs that libsndfile lacks
                stream = _FFmpeg(data)
            except UnreadableSound:
                raise error from None
    try:
        yield stream
    finally:
        stream.close()


class _Stream:
    """A file that is read forward: frames of its channels at `rate` Hz."""

    rate: int
    n_promised: int
    tolerance: int = 0
    cut: str | None = None

    def why_truncated(self, n_read: int) -> str | None:
        """Say what lacks of what the file promises, once it has been read."""
        if self.n_promised > n_read + self.tolerance:
            return f"truncated: {self.n_promised:,} frames promised, {n_read:,} decoded"
        return f"truncated: {self.cut}" if self.cut else None


class _Libsndfile(_Stream):
    def __init__(self, data: bytes) -> None:
        if data[:4] in (b"RIFF", b"RIFX", b"RF64"):
            data, self.cut = _look_at_wav(data)
        elif data[:4] == b"OggS" and not _is_whole(_last_page(data)):
            self.cut = "its last page is cut"
        try:
            self._file = _SoundFile(_Bytes(data))
        except soundfile.SoundFileError as error:
            raise _Unopened(f"damaged or cut: {_in_words(error)}") from error
        self.rate, n_frames = self._file.samplerate, self._file.frames
        self.n_promised = n_frames if 0 <= n_frames < _UNKNOWN_FRAMES else 0
        if n_frames == 0:
            raise UnreadableSound(self.why_truncated(0) or "it has no frames")
        _refuse_absurd(self.rate, self._file.channels, self.n_promised)
        self.close = self._file.close

    def blocks(self) -> Iterator[Frames]:
        """Decode frames, blocks of shape (n, channels)."""
        n_channels = self._file.channels
        # Where a FLAC file is cut, libsndfile gives up all that one call would read.
        n_at_once = 4096 if self._file.format == "FLAC" else _BLOCK // n_channels
        block = np.empty((n_at_once, n_channels), np.float32)
        while True:
            try:
                n = self._file.buffer_read_into(block, "float32")
            except soundfile.SoundFileError as error:
                if not re.search("psf_fseek|lost sync", reason := _in_words(error)):
                    raise UnreadableSound(f"damaged: {reason}") from error
                self.cut, n = "its last frames cannot be decoded", 0  # of FLAC
            if n == 0:
                return
            yield block[:n]


def _in_words(error: soundfile.SoundFileError) -> str:
    # Its own text has the address of the bytes.
    return str(getattr(error, "error_string", error)).removeprefix("Error : ").rstrip(".")


class _SoundFile(soundfile.SoundFile):
    def seekable(self) -> bool:
        """Return False: FLAC of unknown length refuses to seek, if only to where it is."""
        return False


class _Bytes(io.BytesIO):
    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to a position; stay if there is none such, as cffi would print the traceback."""
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
        except (av.error.FFmpegError, ValueError) as error:
            reason = "damaged or cut: FFmpeg cannot open it" if describe_bytes(data) else _RAW
            raise UnreadableSound(reason) from error
        self.close = self._container.close
        try:
            stream: Any = self._container.streams.best("audio")
            if stream is None or stream.codec_context is None:
                raise UnreadableSound("it has no sound, or uses a codec that FFmpeg lacks")
            self._stream, self.rate = stream, stream.rate or 0
            self._format = self._container.format.name.split(",")[0]
            self._seconds = self._told_seconds(data)
            _refuse_absurd(self.rate, stream.channels, int(self._seconds * self.rate))
        except UnreadableSound:
            self.close()
            raise

    def _told_seconds(self, data: bytes) -> float:
        if self._format not in _TOLD and not (self._format == "mp3" and _has_count(data)):
            return 0.0
        if self._stream.duration:
            seconds = self._stream.duration * self._stream.time_base
            # FFmpeg guesses also for MP3 files that are longer than their header says.
            is_guess = self._format == "mp3" and (seconds * self.rate).denominator != 1
            return 0.0 if is_guess else float(seconds)
        # That of the longest stream, were there others.
        is_only = len(self._container.streams) == 1
        return (self._container.duration or 0) / av.time_base if is_only else 0.0

    def blocks(self) -> Iterator[Frames]:
        """Decode frames, blocks of shape (n, channels)."""
        fifo, kind, bad, n, largest = av.AudioFifo(), None, "", 0, 0
        n_held = _MOST_EXCESS if self._format == "mp3" else 0
        for frame in self._frames():
            second = n / (self.rate or 1)
            if isinstance(frame, str):
                bad = bad or f"damaged at second {second:.3f}: {frame}"
                continue
            if bad:  # and yet it goes on
                raise UnreadableSound(bad)
            self.rate, frame.pts = frame.sample_rate, None  # not all formats have right times
            n, largest = n + frame.samples, max(largest, frame.samples)
            last, kind = kind, (frame.sample_rate, frame.layout.nb_channels, frame.format.name)
            if last not in (None, kind):  # the queue would not notice, and crash
                raise UnreadableSound(f"its rate or channels change at second {second:.3f}")
            fifo.write(frame)
            if fifo.samples * frame.layout.nb_channels >= _BLOCK:
                yield _samples_of(fifo.read(fifo.samples - n_held))
        # What follows the last frame of an MP3 file may look like another one.
        n_excess = n - round(self._seconds * self.rate) if self._seconds else 0
        if 0 < n_excess <= n_held < fifo.samples:
            yield _samples_of(fifo.read(fifo.samples - n_excess))
        elif fifo.samples:
            yield _samples_of(fifo.read())
        # Behind the last frame of an MP3 file there may be tags and junk.
        self.cut = "its end cannot be decoded" if bad and self._format != "mp3" else None
        # Some headers count what codecs add at either end.
        self.tolerance = largest * (1 if self._format == "mp3" else 4)
        self.n_promised = round(self._seconds * self.rate)

    def _frames(self) -> Iterator[Any]:
        """Decode frame by frame; a str is what is wrong at that place."""
        packets, has_failed = self._container.demux(self._stream), False
        while True:
            try:
                packet = next(packets)
                if has_failed and not packet.size:  # what the decoder held back is no new frame
                    return
                for frame in packet.decode():
                    yield "a corrupt frame" if frame.is_corrupt else frame
            except (StopIteration, av.error.EOFError):
                return
            except (av.error.FFmpegError, IndexError) as error:  # of a stream it did not announce
                has_failed = True
                yield getattr(error, "strerror", None) or type(error).__name__


def _samples_of(frame: Any) -> Frames:
    n_channels, kind = frame.layout.nb_channels, frame.format.packed.name
    if kind not in _DTYPES:
        raise UnreadableSound(f"samples of kind {kind} are not supported")
    # Not `to_ndarray`, which takes eight planes for nine, and crashes (PyAV 18.1).
    planes = frame.planes[: n_channels if frame.format.is_planar else 1]
    arrays = [np.frombuffer(plane, _DTYPES[kind]) for plane in planes]
    if frame.format.is_planar:
        return to_float(np.stack([array[: frame.samples] for array in arrays], axis=1))
    return to_float(arrays[0][: frame.samples * n_channels].reshape(-1, n_channels))


class Sink:
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
    hours = n_frames / max(1, rate) / 3600
    if not _LOWEST_RATE <= rate <= _HIGHEST_RATE:
        reason = f"a sample rate of {rate:,} Hz, expected {_LOWEST_RATE:,} to {_HIGHEST_RATE:,}"
    elif not 1 <= n_channels <= MOST_CHANNELS:
        reason = f"{n_channels:,} channels, expected 1 to {MOST_CHANNELS}"
    elif hours > _MOST_HOURS:
        reason = f"too long: {hours:,.1f} hours or more, at most {_MOST_HOURS} are read; split it"
    else:
        return
    raise UnreadableSound(reason)


def _look_at_wav(data: bytes) -> tuple[bytes, str | None]:
    """Return a WAV file, what its writer forgot put right, and what lacks of it.

    A size of the samples that was never written (0) becomes unknown; chunks of odd size get the
    byte that fills them up.
    """
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
            if size == 0 and n_there and not _is_chunk(data, at + 8, order):
                return b"".join([data[: at + 4], b"\xff" * 4, data[at + 8 :]]), None
            if data[:4] == b"RF64" and size == 0xFFFFFFFF and n_wide < _UNKNOWN_FRAMES:
                size = n_wide
            elif size >= _UNKNOWN_SIZE:
                return data, None
            if size - n_there < max(1, n_bytes_per_frame):
                return data, None
            return data, f"{size:,} bytes of samples promised, {n_there:,} are there"
        at += 8 + size
        if size % 2 and not _is_chunk(data, at + 1, order) and _is_chunk(data, at, order):
            data = b"".join([data[:at], b"\0", data[at:]])
        at += size % 2
    return data, None


def _is_chunk(wav: bytes, at: int, order: str) -> bool:
    """Return whether a chunk of a WAV file seems to begin at a place."""
    if re.match(rb"[ -~]{4}.{4}", wav[at : at + 8], re.DOTALL) is None:
        return False
    (size,) = struct.unpack_from(order + "I", wav, at + 4)
    return wav[at : at + 4] == b"data" or at + 8 + size <= len(wav)


def _last_page(ogg: bytes) -> bytes:
    return ogg[ogg.rfind(b"OggS") :]


def _is_whole(page: bytes) -> bool:
    """Return whether all of an Ogg page is there."""
    n_segments = page[26] if len(page) > 26 else 255
    return len(page) >= 27 + n_segments + sum(page[27 : 27 + n_segments])


def _has_count(mp3: bytes) -> bool:
    """Return whether the first frame of an MP3 file tells how many there are."""
    at = 0
    if mp3[:3] == b"ID3":
        at = 10 + sum((byte & 127) << 7 * (3 - i) for i, byte in enumerate(mp3[6:10]))
    return re.search(rb"Xing|Info|VBRI", mp3[at : at + 2048]) is not None
