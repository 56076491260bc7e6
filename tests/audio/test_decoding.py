import io
import os
import struct
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile

from skembed.audio._decoding import UnreadableSound, decode, duration_of, why_not_a_sound
from skembed.audio._quality import mix, to_float
from skembed.audio._resampling import resample
from tests.audio.sounds import KINDS, STEPS, encode, noise, tone


def reason_of(data, rate=16000):
    with pytest.raises(UnreadableSound, match=r".") as caught:
        decode(data, rate)
    return str(caught.value)


def body_of(wav):
    return wav.index(b"data") + 8


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("n_channels", [1, 2, 3])
def test_lossless_files_give_the_samples_that_went_in(kind, n_channels):
    samples = noise(5000, n_channels)
    data = encode(kind, samples)
    assert why_not_a_sound(data) is None
    assert duration_of(data) == (5000, 48000, n_channels)
    found = decode(data, 48000)
    assert found.dtype == np.float32
    assert found.shape == (5000,)
    # mix is tested by itself; here a plain mean will do.
    expected = samples.reshape(5000, -1).mean(axis=1)
    assert np.abs(found - expected).max() <= STEPS[kind] + 1e-7


@pytest.mark.parametrize("kind", ["wav mu-law", "wav a-law", "wav adpcm", "vorbis", "opus", "mp3"])
@pytest.mark.parametrize("n_channels", [1, 2])
def test_lossy_files_give_nearly_the_samples_that_went_in(kind, n_channels):
    samples = noise(48000, n_channels, level=0.001)
    found = decode(encode(kind, samples), 48000)
    assert abs(len(found) - 48000) < (3000 if kind == "wav adpcm" else 1)
    error = (found[:48000] - samples.reshape(48000, -1).mean(axis=1))[2000:-2000]
    # The level is 0.14; a sample of delay would be an error of 0.01.
    assert np.sqrt(np.mean(error**2)) < 0.006


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("wav", "int16"), ("wav 32", "int32"), ("wav u8", "uint8"), ("flac", "int16")],
)
@pytest.mark.parametrize("n_channels", [1, 2, 5])
@pytest.mark.parametrize("rate", [44100, 16000])
def test_a_file_and_the_array_in_it_give_the_same_bits(kind, dtype, n_channels, rate):
    limits = np.iinfo(dtype)
    rng = np.random.default_rng(0)
    array = rng.integers(limits.min, limits.max, (70_001, n_channels), dtype, endpoint=True)
    array[0], array[1] = limits.min, limits.max
    if dtype == "uint8":  # soundfile writes no uint8; libsndfile halves the steps of int16
        data = encode(kind, ((array.astype(np.int16) - 128) * 256), rate)
    else:
        data = encode(kind, array, rate)
    expected = resample(mix(to_float(array)), rate, 16000)
    assert np.array_equal(decode(data, 16000), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_resampled_after_its_channels_are_averaged(kind):
    data = encode(kind, noise(48000, 2))
    assert np.array_equal(decode(data, 16000), resample(decode(data, 48000), 48000, 16000))


@pytest.mark.parametrize("kind", [each for each in KINDS if each not in ("flac", "flac 24")])
@pytest.mark.parametrize("share", [0.999, 0.7, 0.3])
def test_files_that_were_cut_are_told_by_their_headers(kind, share):
    data = encode(kind, noise(9600, 2))
    reason = why_not_a_sound(data[: int(len(data) * share)])
    assert reason is not None
    assert reason.startswith("truncated: ")


@pytest.mark.parametrize("kind", ["flac", "flac 24"])
@pytest.mark.parametrize("n_less", [1, 100, 10_000])
def test_flac_files_that_were_cut_are_told(kind, n_less):
    data = encode(kind, noise(9600, 2))
    assert "damaged, cut or" in reason_of(data[:-n_less])


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000])
def test_wav_files_from_a_pipe_are_read_to_their_end(size):
    data = bytearray(encode("wav", noise(4800)))
    data[4:8] = struct.pack("<I", size)
    data[40:44] = struct.pack("<I", size)
    assert np.array_equal(decode(bytes(data), 16000), decode(encode("wav", noise(4800)), 16000))


def test_what_follows_no_samples_is_not_read_as_samples():
    empty = encode("wav", noise(4800)[:0])
    data = empty + b"LIST" + struct.pack("<I", 400) + np.random.default_rng(0).bytes(400)
    data = data[:4] + struct.pack("<I", len(data) - 8) + data[8:]
    assert why_not_a_sound(data) == "it has no frames"


def test_au_and_flac_files_from_a_pipe_are_read_to_their_end():
    au = bytearray(encode("au", noise(4800)))
    au[8:12] = b"\xff" * 4
    assert len(decode(bytes(au), 48000)) == 4800
    flac = bytearray(encode("flac", noise(4800)))
    flac[21] &= 0xF0
    flac[22:26] = bytes(4)  # the number of frames
    assert duration_of(bytes(flac)).n_frames in (-1, 4800)
    assert len(decode(bytes(flac), 48000)) == 4800
    flac[26:42] = bytes(16)  # the digest
    assert len(decode(bytes(flac), 48000)) == 4800


def test_flac_samples_of_another_digest_are_told():
    data = bytearray(encode("flac", noise(4800)))
    data[30] ^= 1
    assert "its samples are not those that its MD5 digest is of" in reason_of(bytes(data))


def test_flac_damage_within_is_told():
    data = bytearray(encode("flac", noise(48000)))
    data[len(data) // 2] ^= 4
    assert "flac" in reason_of(bytes(data))


@pytest.mark.parametrize("kind", ["vorbis", "opus"])
def test_ogg_damage_is_told(kind):
    data = encode(kind, noise(96000))
    flipped = bytearray(data)
    flipped[-300] ^= 1
    assert "has another checksum than it says" in why_not_a_sound(bytes(flipped))
    pages = [b"OggS" + each for each in data.split(b"OggS")[1:]]
    assert "truncated: its last page is not there" in why_not_a_sound(b"".join(pages[:-1]))
    lacks = b"".join(pages[:2] + pages[3:])
    assert "page 2 lacks, or is not in its place" in why_not_a_sound(lacks)
    assert "several Ogg streams in a row" in why_not_a_sound(data + data)
    other = [bytearray(each) for each in pages]
    other[1][14] ^= 1  # of the serial number
    assert "several Ogg streams at once" in why_not_a_sound(b"".join(map(bytes, other)))
    assert why_not_a_sound(data + b"tag of another program") is None


def mp3_frames(data):
    """Cut an MP3 of the tests (48 kHz, its header bytes known) into frames."""
    starts, at = [], 0
    while (at := data.find(data[:2], at)) >= 0:
        # The first frame has the number of frames.
        starts.append(at)
        at += 96
    return [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]


def test_mp3_files_without_a_number_of_frames_are_read_whole():
    # Quiet, then loud: the bitrate changes, from which libsndfile would guess.
    samples = np.concatenate([np.zeros(240_000), noise(240_000, level=0.3)]).astype(np.float32)
    data = encode("mp3", samples, bitrate_mode="VARIABLE")
    bare = data[len(mp3_frames(data)[0]) :]
    with soundfile.SoundFile(io.BytesIO(bare)) as file:
        assert file.frames < 400_000 or file.frames > 560_000
    found, expected = decode(bare, 48000), decode(data, 48000)
    # What the encoder put in front is not known to be silence here.
    assert 480_000 <= len(found) <= 480_000 + 3 * 1152
    delays = [
        d
        for d in range(3 * 1152)
        if np.array_equal(found[d + 300_000 :][:99], expected[300_000:][:99])
    ]
    assert len(delays) == 1
    assert np.array_equal(found[delays[0] :][:480_000], expected)


def test_mp3_damage_is_told():
    data = encode("mp3", noise(96000))
    frames = mp3_frames(data)
    assert len(frames) > 60
    assert "truncated: its header promises" in why_not_a_sound(b"".join(frames[:-5]))
    assert "is cut" in why_not_a_sound(data[:-1])
    junk = b"".join([*frames[:50], b"junk", *frames[50:]])
    assert "no frame follows at second 1.2" in why_not_a_sound(junk)
    twice = decode(data + data[len(frames[0]) :], 48000)
    assert len(twice) >= 2 * 96000


def test_mp3_tags_are_not_taken_for_damage():
    data = encode("mp3", noise(9600))
    id3 = b"ID3\x04\0\0\0\0\x01\x00" + bytes(128)
    ape = b"APETAGEX" + struct.pack("<4I", 2000, 40, 0, 0xA0000000) + bytes(8) + b"12345678"
    ape += b"APETAGEX" + struct.pack("<4I", 2000, 40, 0, 0x80000000) + bytes(8)
    lyrics = b"LYRICSBEGIN" + b"words" + b"000016" + b"LYRICS200"
    tagged = id3 + data + bytes(100) + ape + lyrics + b"TAG" + b"title".ljust(125)
    assert np.array_equal(decode(tagged, 16000), decode(data, 16000))


def test_what_mpg123_says_of_damage_is_a_fault_and_is_not_printed(capfd):
    data = encode("mp3", noise(96000, 2, level=0.3))
    told = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        damaged = bytearray(data)
        at = int(rng.integers(5000, len(data) - 500))
        frame = data.find(data[:2], at)
        damaged[frame + 4 : frame + 36] = rng.bytes(32)
        try:
            assert np.isfinite(decode(bytes(damaged), 16000)).all()
        except UnreadableSound as error:
            told.add(str(error))
    assert any("big_values" in each or "part2_3" in each or "quant" in each for each in told), told
    assert capfd.readouterr() == ("", "")


_OTHERS_WRITE = """
import os, sys, threading
import numpy as np
sys.path.insert(0, {root!r})
from skembed.audio._decoding import decode
from tests.audio.sounds import encode, noise
data = encode("mp3", noise(480_000))
stop = threading.Event()
def work():
    while not stop.is_set():
        decode(data, 16000)
thread = threading.Thread(target=work)
thread.start()
for i in range(3000):
    os.write(2, b"line %d\\n" % i)
stop.set(); thread.join()
"""


def test_what_other_threads_write_to_stderr_is_not_lost():
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))  # noqa: PTH120
    code = _OTHERS_WRITE.format(root=root)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert sorted(done.stderr.split(b"\n")[:-1]) == sorted(b"line %d" % i for i in range(3000))


def test_sounds_are_read_where_stderr_is_closed():
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))  # noqa: PTH120
    code = f"import os, sys; sys.path.insert(0, {root!r}); os.close(2)\n"
    code += "from skembed.audio._decoding import decode\n"
    code += "from tests.audio.sounds import encode, noise\n"
    code += "print(len(decode(encode('mp3', noise(4800)), 48000)))"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    assert done.stdout.strip() == b"4800"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "an empty file"),
        (b"\0" * 1000, "zeros"),
        (b"hello, world\n" * 9, "text"),
        (b"\n<!DOCTYPE html><html>", "an HTML page"),
        (b"\x89PNG\r\n\x1a\n" + b"\0\1" * 50, "an image"),
        (b"\xff\xd8\xff\xe0" + b"\0\1" * 50, "an image"),
        (b"\0\0\0\x20ftypM4A \0\0\0\0" + bytes(99), "AAC or video; convert it to WAV or FLAC"),
        (b"\xff\xf1\x50\x80" + bytes(99), "AAC; convert it to WAV or FLAC first, e.g. with ffmpeg"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9" + bytes(99), "a WMA or WMV file; convert"),
        (b"#!AMR\n" + b"\x3c\x55" * 50, "AMR; convert it"),
        (b"\x1a\x45\xdf\xa3\x9f\x42" + bytes(99), "a Matroska or WebM file; convert it"),
        (b"RIFF\xff\0\0\0AVI LIST" + bytes(99), "an AVI video"),
        (b"MThd\0\0\0\6\0\1" + bytes(99), "MIDI, which has notes and no sound"),
        (b"\x93NUMPY\1\0v\0{'descr'" + bytes(99), "a NumPy file; load it and give the array"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"PK\3\4" + bytes(99), "an archive"),
        (np.random.default_rng(2).bytes(1000), r"no header \(raw PCM\)"),
        (np.cumsum(np.ones(500)).astype("<i2").tobytes(), r"no header \(raw PCM\)"),
    ],
)
def test_what_is_no_sound_is_called_what_it_looks_like(data, what):
    with pytest.raises(UnreadableSound, match=f"not a sound that libsndfile reads.*{what}"):
        decode(data, 16000)
    assert why_not_a_sound(data) == reason_of(data)


# Of the others nothing is written at all.
@pytest.mark.parametrize("kind", [each for each in STEPS if each not in ("flac", "flac 24")])
def test_files_without_frames_are_told(kind):
    assert "it has no frames" in why_not_a_sound(encode(kind, noise(4800)[:0]))


def test_absurd_headers_are_told():
    data = encode("wav", noise(4800))

    def changed(at, form, value):
        out = bytearray(data)
        struct.pack_into(form, out, at, value)
        return why_not_a_sound(bytes(out))

    assert "a sample rate of 7 Hz, expected 1,000 to 1,000,000" in changed(24, "<I", 7)
    assert "a sample rate of 2,000,000,000 Hz" in changed(24, "<I", 2_000_000_000)
    many = encode("wav", np.zeros((10, 65), np.int16))
    assert "65 channels, expected 1 to 64" in why_not_a_sound(many)
    flac = bytearray(encode("flac", noise(4800)))
    flac[21:26] = bytes([flac[21] | 15]) + b"\xff" * 4
    reason = why_not_a_sound(bytes(flac))
    assert reason == "too long: 397.7 hours or more, at most 12 are read; cut it in pieces"


def test_a_flac_file_that_says_it_is_longer_is_told():
    flac = bytearray(encode("flac", noise(4800)))
    flac[22:26] = struct.pack(">I", 4801)
    flac[26:42] = bytes(16)
    assert "4,801 frames promised, 4,800 decoded" in reason_of(
        bytes(flac)
    ) or "damaged" in reason_of(bytes(flac))


@pytest.mark.parametrize("kind", ["wav float", "wav double"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_told(kind, value):
    samples = noise(48000, 2)
    samples[24000:24003, 1] = value
    expected = "3 of its samples are NaN or infinite, the first at second 0.500"
    assert reason_of(encode(kind, samples)) == expected


def test_samples_too_large_for_float32_are_told():
    samples = noise(4800).astype(np.float64)
    samples[0] = 1e300
    assert "1 of its samples are NaN or infinite" in reason_of(encode("wav double", samples))


def test_unfit_samples_are_told():
    assert "silent: " in reason_of(encode("wav", np.zeros(4800, np.int16)))
    assert "clipped: " in reason_of(encode("wav", tone(440, 48000, 4800, level=2.0)))
    assert "its samples reach 16,38" in reason_of(
        encode("wav float", tone(440, 48000, 48000) * 32767)
    )


@pytest.mark.parametrize("kind", ["wav", "flac", "vorbis"])
def test_decoding_needs_little_more_memory_than_its_result(kind):
    n = 600 * 44100
    samples = np.tile(noise(441_000, 2), (60, 1))[:n] if kind == "wav" else noise(n // 10, 2)
    data = encode(kind, samples, 44100)
    n_result = 4 * len(samples) * 16000 // 44100
    del samples
    tracemalloc.start()
    try:
        found = decode(data, 16000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert abs(found.nbytes - n_result) < 8
    # Of ten minutes the result is 38 MB; the decoded file would be 212 MB.
    assert peak < n_result * 9 / 8 + (8 << 20)


def test_threads_get_what_one_gets():
    files = [
        encode(kind, noise(30_000 + 100 * seed, 2, seed))
        for kind in ("wav", "flac", "vorbis", "opus", "mp3")
        for seed in range(6)
    ]
    files[7] = files[7][:-500]
    files[28] = files[28][:-50]

    def outcome(data):
        try:
            return decode(data, 16000).tobytes()
        except UnreadableSound as error:
            return str(error)

    expected = [outcome(data) for data in files]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(outcome, files)) == expected
