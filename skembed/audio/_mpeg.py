"""MPEG audio (MP3) as a row of frames: whether all are there, and how many there are.

Knows bytes, decodes no samples.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

__all__ = ["DamagedStream", "MpegStream", "read_mpeg"]

_V1 = 3
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
# kbit/s by (is version 1, layer).
_BITRATES = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MONO = 3

# Bytes of side information by (is version 1, channels); after it lies the number of frames.
_SIDE = {(True, 1): 17, (True, 2): 32, (False, 1): 9, (False, 2): 17}


class DamagedStream(Exception):
    """The message says what is wrong."""


class _Frame(NamedTuple):
    n_bytes: int
    n_samples: int
    rate: int
    version: int
    layer: int
    n_channels: int
    has_checksum: bool

    @property
    def kind(self) -> tuple[int, ...]:
        return self.rate, self.version, self.layer, self.n_channels


class MpegStream(NamedTuple):
    """Frames without tags around, the first of which tells how many there are (layer III)."""

    data: bytes
    n_samples: int
    n_samples_per_frame: int
    layer: int


@lru_cache(4096)
def _parse(header: int) -> _Frame | None:
    version, layer = header >> 19 & 3, 4 - (header >> 17 & 3)
    bitrate, rate = header >> 12 & 15, header >> 10 & 3
    if header >> 21 != 0x7FF or version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3:
        return None
    hertz = _RATES[version][rate]
    per_second = _BITRATES[version == _V1, layer][bitrate - 1] * 1000
    padding = header >> 9 & 1
    if layer == 1:
        n_samples, n_bytes = 384, (12 * per_second // hertz + padding) * 4
    else:
        n_samples = 576 if layer == 3 and version != _V1 else 1152
        n_bytes = n_samples // 8 * per_second // hertz + padding
    n_channels = 1 if header >> 6 & 3 == _MONO else 2
    return _Frame(n_bytes, n_samples, hertz, version, layer, n_channels, not header >> 16 & 1)


def _frame_at(data: bytes, offset: int, end: int) -> _Frame | None:
    if offset + 4 > end:
        return None
    # The bits that say nothing of the frame's size are left out, so that few headers differ.
    return _parse(int.from_bytes(data[offset : offset + 4], "big") & 0xFFFFFEC0)


def read_mpeg(data: bytes) -> MpegStream:
    """Go from frame to frame through a file that begins like MPEG audio.

    libsndfile takes the number of frames from the first of them, or guesses it from the size of the
    file, and returns no more; a file of changing bitrate without that number lost half its sound
    (libsndfile 1.2.2). Here the frames are counted, and the number put in where it lacks or lies.

    Raises
    ------
    DamagedStream
        If the frames do not follow each other to the end, or fewer are there than promised.
    """
    start, end = _without_tags(data)
    first = _frame_at(data, start, end)
    if first is None:
        if start + 4 <= end and data[start] == 0xFF and data[start + 2] >> 4 == 0:
            raise DamagedStream("MPEG audio of free format, which is not read; convert it to WAV")
        raise DamagedStream("damaged: no MPEG audio where its first frame should be")
    n_frames = _count(data, start, end, first)
    per_frame = first.n_samples
    if first.layer != 3:
        return MpegStream(data[start:end], n_frames * per_frame, per_frame, first.layer)
    n_promised, is_info = _promised(data[start : start + first.n_bytes], first)
    n_frames -= is_info
    # Some encoders count the frame that has the number.
    if n_promised is not None and n_promised > n_frames + 1:
        raise DamagedStream(
            f"truncated: its header promises {n_promised:,} frames, {n_frames:,} are there"
        )
    if n_frames == 0:
        raise DamagedStream("it has no frames")
    if n_promised == n_frames:
        stream = data[start:end]
    else:
        body = start + (first.n_bytes if is_info else 0)
        stream = _info_frame(data, body, n_frames) + data[body:end]
    return MpegStream(stream, n_frames * per_frame, per_frame, 3)


def _count(data: bytes, start: int, end: int, first: _Frame) -> int:
    offset, n_frames, kind = start, 0, first.kind
    while offset < end:
        frame = _frame_at(data, offset, end)
        second = n_frames * first.n_samples / first.rate
        if frame is None or frame.kind != kind:
            if n_frames < 2:
                raise DamagedStream("damaged: one MPEG frame is followed by something else")
            raise DamagedStream(f"damaged: no frame follows at second {second:.3f}")
        if offset + frame.n_bytes > end:
            raise DamagedStream(f"truncated: its last frame, at second {second:.3f}, is cut")
        offset += frame.n_bytes
        n_frames += 1
    return n_frames


def _without_tags(data: bytes) -> tuple[int, int]:
    """Return where the frames begin and end between ID3, APE and Lyrics3 tags and zeros."""
    start, end = 0, len(data)
    while data[start : start + 3] == b"ID3" and start + 10 <= end:
        size = data[start + 6 : start + 10]
        has_footer = data[start + 5] >> 4 & 1
        start += 10 + 10 * has_footer + sum((b & 127) << 7 * (3 - i) for i, b in enumerate(size))
    start = min(start, end)
    while start < end and data[start] == 0:
        start += 1
    if end - start >= 128 and data[end - 128 : end - 125] == b"TAG":
        end -= 128
    if data[end - 9 : end] == b"LYRICS200" and data[end - 15 : end - 9].isdigit():
        end = max(start, end - 15 - int(data[end - 15 : end - 9]))
    if end - start >= 32 and data[end - 32 : end - 24] == b"APETAGEX":
        size, _, flags = struct.unpack_from("<III", data, end - 20)
        end = max(start, end - size - 32 * (flags >> 31))
    return start, _end_of_frames(data, start, end)


def _end_of_frames(data: bytes, start: int, end: int) -> int:
    """Return where zeros after the last frame begin; a frame may end with zeros of its own."""
    n_zeros = end - start - len(data[start:end].rstrip(b"\0"))
    if n_zeros < 4:
        return end
    offset = start
    while (frame := _frame_at(data, offset, end)) and offset + frame.n_bytes <= end:
        offset += frame.n_bytes
    return offset if offset >= end - n_zeros else end


def _promised(frame: bytes, first: _Frame) -> tuple[int | None, bool]:
    """Return how many frames the first one says there are, and whether it is there for that."""
    at = 4 + _SIDE[first.version == _V1, first.n_channels]
    for offset in (at, at + 2 * first.has_checksum):
        if frame[offset : offset + 4] in (b"Xing", b"Info") and len(frame) >= offset + 12:
            flags, n_frames = struct.unpack_from(">II", frame, offset + 4)
            return (n_frames if flags & 1 else None), True
    if frame[36:40] == b"VBRI" and len(frame) >= 54:
        # mpg123 needs its number too, but only for seeking.
        return struct.unpack_from(">I", frame, 50)[0], True
    return None, False


def _info_frame(data: bytes, offset: int, n_frames: int) -> bytes:
    """Return a frame like the one at `offset`, of silence, that says how many follow."""
    header = int.from_bytes(data[offset : offset + 4], "big") | 1 << 16
    for bitrate in range(header >> 12 & 15, 15):
        frame = _parse(header & ~0xF000 & 0xFFFFFFFF | bitrate << 12)
        if frame is not None and frame.n_bytes >= 4 + 32 + 12:
            break
    else:
        raise DamagedStream("damaged: a frame too small")
    header = header & ~0xF000 & 0xFFFFFFFF | bitrate << 12
    info = header.to_bytes(4, "big") + bytes(_SIDE[frame.version == _V1, frame.n_channels])
    info += b"Info" + struct.pack(">II", 1, n_frames)
    return info + bytes(frame.n_bytes - len(info))
