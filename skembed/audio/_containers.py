"""Sound files as bytes: what they look like, and whether all that their headers promise is there.

libsndfile gives what there is of a file that was cut, and says nothing. Decodes no samples.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import Any, NamedTuple

__all__ = [
    "StreamInfo",
    "describe_foreign",
    "flac_info",
    "is_mpeg",
    "why_incomplete",
    "with_known_size",
]

# Programs that write to a pipe cannot know the size: 0 or all ones (ffmpeg), nearly 2 GiB (SoX).
_UNKNOWN_FROM = 0x7FFFF000

_ADVICE = "convert it to WAV or FLAC first, e.g. with ffmpeg"

_FOREIGN = (
    (rb".{4}ftyp", f"an MP4, M4A or other container of AAC or video; {_ADVICE}"),
    (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", f"a WMA or WMV file; {_ADVICE}"),
    (rb"\xff[\xf0\xf1\xf8\xf9]|ADIF", f"AAC; {_ADVICE}"),
    (rb"#!AMR", f"AMR; {_ADVICE}"),
    (rb"\x1a\x45\xdf\xa3", f"a Matroska or WebM file; {_ADVICE}"),
    (rb"RIFF.{4}AVI ", f"an AVI video; {_ADVICE}"),
    (rb"FLV\x01|\x00\x00\x01\xba|\.RMF", f"a video; {_ADVICE}"),
    (rb"MAC |wvpk|TTA1|MPCK|MP\+|DSD |FRM8", f"a codec that libsndfile lacks; {_ADVICE}"),
    (rb"\x0b\x77", f"AC-3; {_ADVICE}"),
    (rb"MThd", "MIDI, which has notes and no sound; render it first"),
    (rb"\x89PNG|GIF8|\xff\xd8\xff|RIFF.{4}WEBP|BM.{4}\0\0\0\0|II\*\0|MM\0\*", "an image"),
    (rb"\x93NUMPY", "a NumPy file; load it and give the array"),
    (rb"%PDF", "a PDF document"),
    (rb"PK\x03\x04|\x1f\x8b|BZh|7z\xbc\xaf|\xfd7zXZ|Rar!", "an archive; unpack it first"),
    (rb"version https://git-lfs", "a Git LFS pointer; fetch the file itself with git lfs pull"),
    (rb"(?i)\s*<(!doctype html|html|head|body)", "an HTML page; perhaps a download that failed"),
    (rb"\s*<\?xml", "an XML document"),
)


class StreamInfo(NamedTuple):
    """What a FLAC file says of itself; 0 frames, and a digest of zeros, mean unknown."""

    n_frames: int
    n_bits: int
    md5: bytes


def describe_foreign(data: bytes) -> str | None:
    """Say what bytes look like that are no sound libsndfile reads; None if nothing is known."""
    if not data:
        return "an empty file"
    for pattern, what in _FOREIGN:
        if re.match(pattern, data[:64], re.DOTALL):
            return what
    start = data[:512]
    if not start.strip(b"\0"):
        return "zeros"
    if data.startswith(b"NIST_1A"):  # its header is text
        return None
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in start) and start.isascii():
        return "text"
    return None


def is_mpeg(data: bytes) -> bool:
    """Return whether bytes begin as MPEG audio does, perhaps after tags."""
    start = _after_id3(data)
    rest = data[start : start + 4]
    return rest[:1] == b"\xff" or (start > 0 and rest not in (b"fLaC", b"RIFF", b"OggS", b"FORM"))


def why_incomplete(data: bytes) -> str | None:
    """Say what lacks of what the headers promise; None if nothing, or if they cannot be read.

    Of WAV, RF64, W64, AIFF, AU, CAF and NIST files the size of the samples is compared with the
    file; of Ogg files the pages' checksums, numbers and end are checked. FLAC tells while it is
    decoded.
    """
    magic = data[:4]
    if magic in (b"RIFF", b"RIFX", b"RF64"):
        return _why_riff(data)
    if magic == b"riff":
        return _why_w64(data)
    if magic == b"FORM":
        return _why_chunks(data, ">", b"SSND" if data[8:11] == b"AIF" else b"BODY")
    if magic in (b".snd", b"dns."):
        order = ">" if magic == b".snd" else "<"
        offset, size = _unpack(order + "II", data, 4) or (0, 0)
        is_known = 0 < size < _UNKNOWN_FROM
        return _why_short(data, offset, size) if is_known else None
    if magic == b"caff":
        return _why_caf(data)
    if magic == b"OggS":
        return _why_ogg(data)
    return _why_nist(data) if data.startswith(b"NIST_1A") else None


def flac_info(data: bytes) -> StreamInfo | None:
    """Return what a FLAC file says of itself; None if it is no FLAC file."""
    at = _after_id3(data)
    if data[at : at + 4] != b"fLaC" or data[at + 4] & 127 or len(data) < at + 42:
        return None
    packed = int.from_bytes(data[at + 18 : at + 26], "big")
    return StreamInfo(packed & (1 << 36) - 1, (packed >> 36 & 31) + 1, data[at + 26 : at + 42])


def with_known_size(data: bytes) -> bytes:
    """Return a WAV file whose size was never written, 0, so that libsndfile reads it to its end."""
    if data[:4] not in (b"RIFF", b"RIFX") or data[8:12] != b"WAVE":
        return data
    order, at = ">" if data[:4] == b"RIFX" else "<", 12
    while chunk := _unpack(order + "I", data, at + 4):
        if data[at : at + 4] == b"data":
            if chunk[0] or at + 8 == len(data):
                return data
            return b"".join([data[: at + 4], b"\xff" * 4, data[at + 8 :]])
        at += 8 + chunk[0] + chunk[0] % 2
    return data


def _after_id3(data: bytes) -> int:
    start = 0
    while data[start : start + 3] == b"ID3" and len(data) >= start + 10:
        size = data[start + 6 : start + 10]
        start += 10 + sum((byte & 127) << 7 * (3 - i) for i, byte in enumerate(size))
    while start and data[start : start + 1] == b"\0":
        start += 1
    return start


def _unpack(form: str, data: bytes, offset: int) -> tuple[Any, ...] | None:
    if offset < 0 or offset + struct.calcsize(form) > len(data):
        return None
    return struct.unpack_from(form, data, offset)


def _why_short(data: bytes, offset: int, size: int) -> str | None:
    there = max(0, len(data) - offset)
    if size <= there:
        return None
    return f"truncated: its header promises {size:,} bytes of samples, {there:,} are there"


def _why_riff(data: bytes) -> str | None:
    order = ">" if data[:4] == b"RIFX" else "<"
    (of_file,) = _unpack(order + "I", data, 4) or (0,)
    return _why_chunks(data, order, b"data", is_open=of_file == 0 or of_file >= _UNKNOWN_FROM)


def _why_chunks(data: bytes, order: str, name: bytes, is_open: bool = False) -> str | None:
    at, of_data = 12, None
    while chunk := _unpack(order + "I", data, at + 4):
        size, this = chunk[0], data[at : at + 4]
        if this == b"ds64":
            of_data = (_unpack("<Q", data, at + 16) or (None,))[0]
        if this == name:
            if data[:4] == b"RF64" and size == 0xFFFFFFFF and of_data is not None:
                # RF64 files too are written to pipes, with 0 or all ones.
                is_known = 0 < of_data < (1 << 63) - 1
                return _why_short(data, at + 8, of_data) if is_known else None
            if size == 0 and not is_open:
                return "it has no frames"
            return _why_short(data, at + 8, size) if 0 < size < _UNKNOWN_FROM else None
        at += 8 + size + size % 2
    return None


def _why_w64(data: bytes) -> str | None:
    at = 40
    while chunk := _unpack("<Q", data, at + 16):
        size = chunk[0]
        if data[at : at + 4] == b"data":
            is_known = 24 < size < (1 << 63) - 1
            return _why_short(data, at + 24, size - 24) if is_known else None
        if size < 24:
            return None
        at += size + -size % 8
    return None


def _why_caf(data: bytes) -> str | None:
    at = 8
    while chunk := _unpack(">q", data, at + 4):
        size = chunk[0]
        if data[at : at + 4] == b"data":
            return _why_short(data, at + 12, size) if size > 0 else None
        if size < 0:
            return None
        at += 12 + size
    return None


def _why_nist(data: bytes) -> str | None:
    head, size = data[:1024], 1
    for name in (b"sample_count", b"channel_count", b"sample_n_bytes"):
        found = re.search(name + rb" -i (\d{1,12})\b", head)
        if found is None:
            return None
        size *= int(found[1])
    return _why_short(data, 1024, size)


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_checksum(page: bytes) -> int:
    """Return the CRC of a page: that of zlib with the bits the other way round, from 0."""
    reversed_bits = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reversed_bits:032b}"[::-1], 2)


def _why_ogg(data: bytes) -> str | None:
    at, number, serial, flags = 0, 0, None, 0
    while at < len(data):
        page = _unpack("<4sBBqIII", data, at)
        if page is None and data[at : at + 4] == b"OggS"[: len(data) - at]:
            return "truncated: its last page is cut"
        if page is None or page[0] != b"OggS":
            if flags & 4:  # what follows the end is not read
                return None
            return f"damaged: no page at byte {at:,}"
        if flags & 4:
            return "several Ogg streams in a row, of which one would be read; split or convert it"
        flags, checksum = page[2], page[6]
        if serial is None:
            serial = page[4]
        elif page[4] != serial:
            return f"several Ogg streams at once (video?); {_ADVICE}"
        n_segments = data[at + 26] if at + 26 < len(data) else 0
        end = at + 27 + n_segments + sum(data[at + 27 : at + 27 + n_segments])
        if end > len(data):
            return "truncated: its last page is cut"
        if page[5] != number:
            return f"damaged: page {number} lacks, or is not in its place"
        blank = data[at : at + 22] + bytes(4) + data[at + 26 : end]
        if _ogg_checksum(blank) != checksum:
            return f"damaged: page {number} has another checksum than it says"
        at, number = end, number + 1
    return None if flags & 4 else "truncated: its last page is not there"
