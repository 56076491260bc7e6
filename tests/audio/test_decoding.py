import io
import struct
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import pytest

from skembed.audio._decoding import UnreadableSound, decode, why_not_a_sound
from skembed.audio._quality import mix, to_float
from skembed.audio._resampling import resample
from tests.audio.sounds import KINDS, STEPS, encode, encode_by_ffmpeg, noise, tone

# Of these the decoder takes the size of the samples from the file's own.
TRUSTED = ("w64", "aiff", "au", "caf", "nist")


def samples_of(data, rate=48000):
    """Return the samples of a file with which nothing is wrong."""
    samples, quality = decode(data, rate)
    assert quality is None
    return samples


def quality_of(data, rate=16000):
    return decode(data, rate)[1]


def reason_of(data, rate=16000):
    with pytest.raises(UnreadableSound, match=r".") as caught:
        decode(data, rate)
    return str(caught.value)


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("n_channels", [1, 2, 3])
def test_lossless_files_give_the_samples_that_went_in(kind, n_channels):
    samples = noise(5000, n_channels)
    data = encode(kind, samples)
    assert why_not_a_sound(data) is None
    found = samples_of(data)
    assert found.dtype == np.float32
    assert found.shape == (5000,)
    # mix is tested by itself; here a plain mean will do.
    expected = samples.reshape(5000, -1).mean(axis=1)
    assert np.abs(found - expected).max() <= STEPS[kind] + 1e-7


@pytest.mark.parametrize("kind", ["wav mu-law", "wav a-law", "wav adpcm", "vorbis", "opus", "mp3"])
@pytest.mark.parametrize("n_channels", [1, 2])
def test_lossy_files_give_nearly_the_samples_that_went_in(kind, n_channels):
    samples = noise(48000, n_channels, level=0.001)
    found = samples_of(encode(kind, samples))
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
    assert np.array_equal(decode(data, 16000)[0], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_resampled_after_its_channels_are_averaged(kind):
    data = encode(kind, noise(48000, 2))
    assert np.array_equal(samples_of(data, 16000), resample(samples_of(data), 48000, 16000))


@pytest.mark.parametrize("kind", [each for each in KINDS if each not in TRUSTED])
@pytest.mark.parametrize("share", [0.95, 0.7])
def test_files_that_were_cut_give_what_there_is_and_say_so(kind, share):
    data = encode(kind, noise(96000, 2))
    whole = decode(data, 48000)[0]
    samples, quality = decode(data[: int(len(data) * share)], 48000)
    assert quality.startswith("truncated: ")
    assert (share - 0.15) * len(whole) < len(samples) < len(whole)
    n = len(samples) - 2000  # codecs end otherwise where they are cut
    np.testing.assert_allclose(samples[:n], whole[:n], atol=1e-6)


@pytest.mark.parametrize("kind", ["wav", "wav u8", "wav float", "wavex"])
def test_a_wav_header_that_is_a_little_too_large_is_no_damage(kind):
    data = bytearray(encode(kind, noise(4800)))
    at = data.index(b"data") + 4
    (size,) = struct.unpack_from("<I", data, at)
    for more in (0, 1 if kind != "wav u8" else 0):
        struct.pack_into("<I", data, at, size + more)
        assert len(samples_of(bytes(data))) == 4800
    struct.pack_into("<I", data, at, size + 400)
    assert quality_of(bytes(data)).startswith("truncated: ")


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000])
def test_wav_files_from_a_pipe_are_read_to_their_end(size):
    data = bytearray(encode("wav", noise(4800)))
    data[4:8] = struct.pack("<I", size)
    data[40:44] = struct.pack("<I", size)
    assert np.array_equal(samples_of(bytes(data)), samples_of(encode("wav", noise(4800))))


@pytest.mark.parametrize("size_of_file", [36, 9636])
def test_a_wav_file_whose_writer_stopped_before_the_sizes_is_read(size_of_file):
    data = bytearray(encode("wav", noise(4800)))
    whole = samples_of(bytes(data))
    data[4:8], data[40:44] = struct.pack("<I", size_of_file), bytes(4)
    assert np.array_equal(samples_of(bytes(data)), whole)


@pytest.mark.parametrize("place", [12, 36])
def test_a_wav_chunk_of_odd_size_may_lack_the_byte_that_fills_it_up(place):
    data = encode("wav", noise(4800))
    for chunk in (b"LIST\5\0\0\0abcde", b"LIST\5\0\0\0abcde\0"):
        assert np.array_equal(samples_of(data[:place] + chunk + data[place:]), samples_of(data))


def test_what_follows_no_samples_is_not_read_as_samples():
    empty = encode("wav", noise(4800)[:0])
    data = empty + b"LIST" + struct.pack("<I", 400) + np.random.default_rng(0).bytes(400)
    data = data[:4] + struct.pack("<I", len(data) - 8) + data[8:]
    assert why_not_a_sound(data) == "it has no frames"


def test_au_and_flac_files_from_a_pipe_are_read_to_their_end():
    au = bytearray(encode("au", noise(4800)))
    au[8:12] = b"\xff" * 4
    assert len(samples_of(bytes(au))) == 4800
    flac = bytearray(encode("flac", noise(4800)))
    flac[21] &= 0xF0
    flac[22:26] = bytes(4)  # the number of frames
    assert len(samples_of(bytes(flac))) == 4800


def test_a_flac_file_after_a_tag_is_read():
    data = encode("flac", noise(4800))
    tagged = b"ID3\x04\0\0\0\0\0\x10" + bytes(16) + data
    assert np.array_equal(samples_of(tagged), samples_of(data))


def test_flac_damage_within_is_told():
    data = bytearray(encode("flac", noise(48000)))
    data[len(data) // 2] ^= 4
    assert "flac" in reason_of(bytes(data))


@pytest.mark.parametrize("kind", ["vorbis", "opus"])
def test_ogg_damage_is_told(kind):
    data = encode(kind, noise(960_000))
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    assert "truncated: 960,000 frames promised, 9" in quality_of(bytes(flipped))
    pages = [b"OggS" + each for each in data.split(b"OggS")[1:]]
    assert "its last page is cut" in quality_of(b"".join(pages)[:-9])
    assert np.array_equal(samples_of(data + b"tag of another program"), samples_of(data))


@pytest.mark.parametrize("kind", ["vorbis", "opus"])
def test_ogg_files_without_the_flag_of_an_end_are_whole(kind):
    data = encode(kind, noise(960_000))
    whole = samples_of(data)
    # As of a live stream that is saved: the page before the last one does not say that it is last.
    found = samples_of(data[: data.rfind(b"OggS")])
    assert 900_000 < len(found) < 960_000
    np.testing.assert_allclose(found[:900_000], whole[:900_000], atol=1e-4)


def mp3_frames(data):
    """Cut an MP3 of the tests (48 kHz, its header bytes known) into frames."""
    starts, at = [], 0
    while (at := data.find(data[:2], at)) >= 0:
        # The first frame has the number of frames.
        starts.append(at)
        at += 96
    return [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]


def test_mp3_samples_are_those_that_went_in():
    samples = noise(48000, level=0.001)
    assert len(samples_of(encode("mp3", samples))) == 48000
    error = samples_of(encode("mp3", samples)) - samples
    assert np.abs(error[2000:-2000]).max() < 0.01


def test_mp3_files_without_a_number_of_frames_are_read_whole():
    # Quiet, then loud: the bitrate changes, from which the length would be guessed wrong.
    samples = np.concatenate([np.zeros(240_000), noise(240_000, level=0.3)]).astype(np.float32)
    data = encode("mp3", samples, bitrate_mode="VARIABLE")
    bare = data[len(mp3_frames(data)[0]) :]
    found, expected = samples_of(bare), samples_of(data)
    # What the encoder put in front is not known to be silence here.
    assert 480_000 <= len(found) <= 480_000 + 3 * 1152
    errors = [
        np.abs(found[d + 300_000 :][:99] - expected[300_000:][:99]).max() for d in range(3456)
    ]
    assert min(errors) < 1e-5


def test_mp3_damage_is_told():
    data = encode("mp3", noise(96000))
    frames = mp3_frames(data)
    assert len(frames) > 60
    assert "96,000 frames promised, 9" in quality_of(b"".join(frames[:-5]))
    gap = [*frames[:30], np.random.default_rng(0).bytes(20_000), *frames[50:]]
    reason = "".join(outcome(b"".join(gap)))
    assert "damaged at second" in reason or "truncated" in reason


@pytest.mark.parametrize(
    "tail",
    [
        b"\r\n",
        b"\xaa" * 3,
        bytes(100),
        b"TAG" + b"x" * 125 + b"TAG" + b"y" * 125,
        b"LYRICSBEGINwords000016LYRICS200",
        b"APETAGEX" + struct.pack("<4I", 2000, 40, 0, 0x80000000) + bytes(8),
        b"ID3\4\0\x10\0\0\0\x02TT3DI\4\0\x10\0\0\0\x02",
        b"\xff" * 40,
        b"<html>not found</html>",
    ],
)
def test_what_follows_the_last_mp3_frame_is_no_damage(tail):
    data = encode("mp3", noise(96000))
    bare = data[len(mp3_frames(data)[0]) :]
    for mp3 in (data, bare, b"ID3\x04\0\0\0\0\x01\x00" + bytes(128) + data):
        assert np.array_equal(samples_of(mp3 + tail), samples_of(mp3))


def test_the_header_of_another_frame_after_the_last_mp3_frame_adds_nothing():
    data = encode("mp3", noise(96000))
    for n in (4, 60):
        assert np.array_equal(samples_of(data + mp3_frames(data)[1][:n]), samples_of(data))


def test_nothing_is_printed_of_damage(capfd):
    data = encode("mp3", noise(96000, 2, level=0.3))
    for seed in range(40):
        rng = np.random.default_rng(seed)
        damaged = bytearray(data)
        frame = data.find(data[:2], int(rng.integers(5000, len(data) - 500)))
        damaged[frame + 4 : frame + 36] = rng.bytes(32)
        outcome(bytes(damaged))
    assert capfd.readouterr() == ("", "")


def outcome(data):
    """Return what became of a file, as two strings."""
    try:
        samples, quality = decode(data, 16000)
    except UnreadableSound as error:
        return str(error), ""
    assert np.isfinite(samples).all()
    return samples.tobytes().hex(), quality or ""


@pytest.mark.parametrize(
    ("form", "codec"),
    [("ipod", "aac"), ("adts", "aac"), ("webm", "libopus"), ("asf", "wmav2"), ("ac3", "ac3")],
)
def test_what_phones_and_browsers_record_is_read(form, codec):
    samples = noise(96000, level=0.001)
    data = encode_by_ffmpeg(form, codec, samples)
    assert why_not_a_sound(data) is None
    found = samples_of(data)
    assert abs(len(found) - 96000) < 3 * 2048
    # The codec's delay moves a tone by samples: compare what it sounds like.
    spectra = [np.abs(np.fft.rfft(each[10_000:74_000])) for each in (found, samples)]
    assert np.corrcoef(*spectra)[0, 1] > 0.9
    assert quality_of(data[: len(data) // 2]) if form in ("adts", "webm", "ac3") else True


@pytest.mark.parametrize(
    ("codec", "layout"), [("aac", "7.1"), ("aac", "5.1"), ("pcm_s16le", "stereo")]
)
def test_surround_sound_is_averaged(codec, layout):
    channels = noise(48000, av.AudioLayout(layout).nb_channels, level=0.001).T
    data = encode_by_ffmpeg("mov", codec, channels, layout=layout)
    found = samples_of(data)
    assert abs(len(found) - 48000) < 3000
    level = np.sqrt(np.mean(found[5000:-5000] ** 2) / np.mean(channels.mean(0) ** 2))
    assert 0.8 < level < 1.1  # the deepest of 5.1 and 7.1 channels has lost its tone


def test_the_sound_of_a_video_is_read():
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width = video.height = 32
        audio = container.add_stream("aac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(noise(48000)[None], format="fltp", layout="mono")
        frame.rate, frame.pts = 48000, 0
        for packet in (*audio.encode(frame), *audio.encode(None)):
            container.mux(packet)
        picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        for packet in (*video.encode(picture), *video.encode(None)):
            container.mux(packet)
    assert abs(len(samples_of(file.getvalue())) - 48000) < 3000


def test_a_video_without_sound_is_a_fault():
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width = video.height = 32
        picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        for packet in (*video.encode(picture), *video.encode(None)):
            container.mux(packet)
    assert "it has no sound" in why_not_a_sound(file.getvalue())


def test_a_file_opens_no_other_file(tmp_path):
    (tmp_path / "a.wav").write_bytes(encode("wav", noise(4800)))
    for text in (
        f"#EXTM3U\n#EXTINF:1,\n{tmp_path}/a.wav\n",
        f"ffconcat version 1.0\nfile {tmp_path}/a.wav",
    ):
        assert "not a sound, but text" in why_not_a_sound(text.encode())
        assert why_not_a_sound(b"\xef\xbb\xbf" + text.encode()) is not None


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "not a sound, but an empty file"),
        (b"\0" * 1000, "not a sound, but zeros"),
        (b"hello, world\n" * 9, "not a sound, but text"),
        (b"\n<!DOCTYPE html><html>", "not a sound, but an HTML page"),
        (b"\x89PNG\r\n\x1a\n" + b"\0\1" * 50, "not a sound, but an image"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "not a sound, but an image"),
        (b"MThd\0\0\0\6\0\1" + bytes(99), "not a sound, but MIDI"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not a sound, but a Git LFS pointer"),
        (b"PK\3\4" + bytes(99), "not a sound, but an archive"),
        (b"\x1a\x45\xdf\xa3\x9f\x42" + bytes(99), "damaged or cut: FFmpeg cannot open it"),
        (np.random.default_rng(2).bytes(1000), r"no header \(raw PCM\)"),
        (np.cumsum(np.ones(500)).astype("<i2").tobytes(), r"no header \(raw PCM\)"),
    ],
)
def test_what_is_no_sound_is_called_what_it_looks_like(data, what):
    with pytest.raises(UnreadableSound, match=what):
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
    assert reason == "too long: 397.7 hours or more, at most 12 are read; split it"


def test_a_flac_file_that_says_it_is_longer_is_told():
    flac = bytearray(encode("flac", noise(4800)))
    flac[22:26] = struct.pack(">I", 4900)
    assert "truncated: 4,900 frames promised, 4," in quality_of(bytes(flac))


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


def test_poor_samples_are_told():
    assert "silent: " in quality_of(encode("wav", np.zeros(4800, np.int16)))
    assert "clipped: " in quality_of(encode("wav", tone(440, 48000, 4800, level=2.0)))
    opposite = noise(48000, level=0.01)[:, None] * np.float32([1, -1])
    for kind in ("wav", "mp3", "opus"):
        assert quality_of(encode(kind, opposite)).startswith("in opposite phase: ")
    one_channel = np.stack([noise(4800), np.zeros(4800, np.float32)], axis=1)
    assert quality_of(encode("wav", one_channel)) is None


def test_integers_in_floats_are_a_fault():
    loud = encode("wav float", tone(440, 48000, 48000) * 32767)
    assert "its samples reach 16,38" in reason_of(loud)


@pytest.mark.parametrize("kind", ["wav", "flac", "vorbis"])
def test_decoding_needs_little_more_memory_than_its_result(kind):
    n = 600 * 44100
    samples = np.tile(noise(441_000, 2), (60, 1))[:n] if kind == "wav" else noise(n // 10, 2)
    data = encode(kind, samples, 44100)
    n_result = 4 * len(samples) * 16000 // 44100
    del samples
    tracemalloc.start()
    try:
        found, _ = decode(data, 16000)
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
    files += [encode_by_ffmpeg("ipod", "aac", noise(30_000, seed=seed)) for seed in range(6)]
    expected = [outcome(data) for data in files]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(outcome, files)) == expected
