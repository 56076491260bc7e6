"""Damaged files, decoded in another process: it may crash, hang, or print."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from skembed.audio._decoding import UnreadableSound, decode, why_not_a_sound
from tests.audio.sounds import KINDS, encode, encode_by_ffmpeg, noise

N_PER_KIND = 600
FUZZED = ["wav", "wav float", "wav adpcm", "wavex", "rf64", "w64", "aiff", "caf", "nist"]
FUZZED += ["flac", "flac 24", "vorbis", "opus", "mp3"]
BY_FFMPEG = {"m4a": ("ipod", "aac"), "webm": ("webm", "libopus"), "wma": ("asf", "wmav2")}
SOME_BYTES = [0, 1, 0x7F, 0x80, 0xFE, 0xFF]


def ogg_checksum(page):
    """Compute a page's CRC bit by bit, by a table: polynomial 0x04C11DB7 from 0."""
    crc = 0
    for byte in page:
        crc = (crc << 8 & 0xFFFFFFFF) ^ TABLE[crc >> 24 ^ byte]
    return crc


def table_entry(byte):
    entry = byte << 24
    for _ in range(8):
        entry = (entry << 1) ^ 0x04C11DB7 * (entry >> 31) & 0x1FFFFFFFF
        entry &= 0xFFFFFFFF
    return entry


TABLE = [table_entry(byte) for byte in range(256)]


def with_serial(data, serial=7):
    """Return an Ogg file with a given serial number, which libsndfile takes from the clock."""
    if not data.startswith(b"OggS"):
        return data
    out, at = bytearray(data), 0
    while at < len(out):
        n_segments = out[at + 26]
        end = at + 27 + n_segments + sum(out[at + 27 : at + 27 + n_segments])
        out[at + 14 : at + 18] = serial.to_bytes(4, "little")
        out[at + 22 : at + 26] = bytes(4)
        out[at + 22 : at + 26] = ogg_checksum(out[at:end]).to_bytes(4, "little")
        at = end
    return bytes(out)


def mutants(kind):
    """Yield damaged files, always the same."""
    rng = np.random.default_rng([*sorted(KINDS), *BY_FFMPEG].index(kind))
    if kind in BY_FFMPEG:
        files = [
            encode_by_ffmpeg(*BY_FFMPEG[kind], noise(4800 + 4800 * i, seed=i)) for i in range(3)
        ]
    else:
        clips = [noise(4800 + 4800 * i, 1 + i % 2, seed=i) for i in range(3)]
        files = [with_serial(encode(kind, clip)) for clip in clips]
    other = with_serial(encode("flac" if kind != "flac" else "vorbis", noise(4800)))
    for number in range(N_PER_KIND):
        data = bytearray(files[number % 3])
        for _ in range(int(rng.integers(1, 4))):
            MUTATIONS[number % len(MUTATIONS)](data, rng, files, other)
        yield bytes(data)


def flip_bits(data, rng, files, other):
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)


def flip_in_header(data, rng, files, other):
    data[rng.integers(min(120, len(data)))] ^= 1 << rng.integers(8)


def set_in_header(data, rng, files, other):
    at, n = int(rng.integers(min(120, len(data)))), int(rng.integers(1, 9))
    data[at : at + n] = bytes([rng.choice(SOME_BYTES)]) * n


def cut_end(data, rng, files, other):
    del data[rng.integers(len(data)) :]
    data += bytes(not data)


def cut_out(data, rng, files, other):
    at = int(rng.integers(len(data)))
    del data[at : at + int(rng.integers(1, 2000))]
    data += bytes(not data)


def insert(data, rng, files, other):
    at = int(rng.integers(len(data)))
    data[at:at] = rng.bytes(int(rng.integers(1, 600)))


def zero(data, rng, files, other):
    at, n = int(rng.integers(len(data))), int(rng.integers(1, 1000))
    data[at : at + n] = bytes(len(data[at : at + n]))


def swap(data, rng, files, other):
    source = [*files, other][rng.integers(4)]
    at, start, n = rng.integers(len(data)), rng.integers(len(source)), int(rng.integers(4, 1500))
    data[at : at + n] = source[start : start + n]


def repeat(data, rng, files, other):
    at, n = int(rng.integers(len(data))), int(rng.integers(1, 3000))
    data[at:at] = data[at : at + n]


MUTATIONS = [flip_bits, flip_in_header, set_in_header, cut_end, cut_out, insert, zero, swap, repeat]


def peak_mib():
    """Return the most memory that this process has had, where the system tells (Linux)."""
    # Not ru_maxrss, which begins at what the parent process had.
    status = Path("/proc/self/status")
    peaks = re.findall(r"VmHWM:\s+(\d+)", status.read_text()) if status.exists() else []
    return int(peaks[0]) / 1024 if peaks else 0.0


def decode_mutants():
    """Print what became of them all, as JSON."""
    outcomes = {}
    surprises = []
    before = peak_mib()
    for kind in (*FUZZED, *BY_FFMPEG):
        counts = outcomes[kind] = {}
        for number, data in enumerate(mutants(kind)):
            try:
                early = why_not_a_sound(data)
                samples, quality = decode(data, 16000)
                outcome = quality or "decoded"
                if early is not None:
                    surprises.append(f"{kind} {number}: decoded in spite of {early}")
                if samples.dtype != np.float32 or samples.ndim != 1 or not len(samples):
                    surprises.append(f"{kind} {number}: {samples.dtype}, {samples.shape}")
                if not np.isfinite(samples).all():
                    surprises.append(f"{kind} {number}: not finite")
            except UnreadableSound as error:
                outcome = str(error)
                if early is not None and early != outcome:
                    surprises.append(f"{kind} {number}: first {early}, then {outcome}")
            except BaseException as error:
                outcome = "surprise"
                surprises.append(f"{kind} {number}: {type(error).__name__}: {error}")
            counts[outcome] = counts.get(outcome, 0) + 1
    n_mib = peak_mib() - before
    sys.stdout.write(json.dumps({"outcomes": outcomes, "surprises": surprises, "n_mib": n_mib}))


@pytest.fixture(scope="module")
def result():
    root = str(Path(__file__).parents[2])
    code = f"import sys; sys.path.insert(0, {root!r})\n"
    code += "from tests.audio.test_fuzz import decode_mutants; decode_mutants()"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "faulthandler", "-c", code],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {**json.loads(done.stdout), "stderr": done.stderr}


@pytest.mark.parametrize("kind", ["flac", "vorbis"])
def test_mutants_are_always_the_same(kind):
    first = list(mutants(kind))
    # The next file would have another serial number.
    encode("vorbis", noise(100))
    assert list(mutants(kind)) == first


def test_ogg_files_of_another_serial_number_are_whole():
    data = encode("vorbis", noise(9600))
    assert np.array_equal(decode(with_serial(data), 48000)[0], decode(data, 48000)[0])


def test_damage_raises_nothing_but_faults(result):
    assert result["surprises"] == []
    assert sum(sum(counts.values()) for counts in result["outcomes"].values()) >= 8000


def test_damage_prints_nothing(result):
    assert result["stderr"] == ""


def test_headers_that_lie_take_no_memory(result):
    assert result["n_mib"] < 200


def test_damage_reaches_the_decoders(result):
    for kind, counts in result["outcomes"].items():
        n_files = sum(counts.values())
        # Checksums leave hardly any damage of Ogg and FLAC files unseen.
        assert counts["decoded"] >= 0.005 * n_files, kind
        assert len(counts) >= 5, kind


def test_damage_of_files_with_checksums_is_seen(result):
    # The rest is damage outside of the sound, such as of comments.
    for kind in ("flac", "flac 24"):
        assert result["outcomes"][kind]["decoded"] < 0.3 * N_PER_KIND
    for kind in ("vorbis", "opus"):
        assert result["outcomes"][kind]["decoded"] < 0.1 * N_PER_KIND
