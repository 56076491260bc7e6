"""Rows of sound: what is one clip whatever it came as, and what is wrong with the others."""

import io
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import soundfile
import torch

from skembed.audio._decoding import UnreadableSound
from skembed.audio._inputs import check_rate, check_sounds
from skembed.exceptions import InvalidInputError, InvalidParameterError
from tests.audio.networks import RATE, clips

CLIP = clips(1)[0]
PCM = (CLIP * 20000).astype(np.int16)


def digests(rows, **params):
    checked = check_sounds(rows, **params)
    assert not checked.faults, checked.faults
    return [item.digest for item in checked.items]


def faults(rows, **params):
    return check_sounds(rows, **params).faults


def encoded(samples=PCM, rate=RATE, form="WAV"):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form)
    return file.getvalue()


def test_a_file_is_one_row_whatever_it_came_as(tmp_path):
    data = encoded()
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    with path.open("rb") as file:
        rows = [path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data), file]
        rows += [{"bytes": data, "path": None}, {"path": str(path), "bytes": None}]
        assert len(set(digests(rows))) == 1


def test_a_waveform_is_one_row_whatever_it_came_as():
    as_float = (PCM / 32768).astype(np.float32)
    rows = [(PCM, RATE), [PCM, RATE], (PCM, np.float64(RATE)), (torch.from_numpy(PCM), RATE)]
    rows += [(PCM, torch.tensor(RATE)), (PCM, np.array(RATE))]
    rows += [{"array": PCM, "sampling_rate": None, "rate": RATE}]
    rows += [{"array": PCM, "sampling_rate": RATE}, PCM, torch.from_numpy(PCM), as_float]
    rows += [as_float.astype(np.float64), PCM[:, None], PCM[None], np.stack([PCM, PCM])]
    rows += [PCM.astype(">i2"), as_float.tolist(), (as_float.tolist(), RATE)]
    assert len(set(digests(rows, sampling_rate=RATE))) == 1


def test_rate_and_samples_are_part_of_the_content():
    rows = [(PCM, RATE), (PCM, 8000), (PCM[:-1], RATE), (-PCM, RATE), (PCM[::-1], RATE)]
    assert len(set(digests(rows))) == len(rows)


def test_the_row_s_own_rate_goes_before_the_parameter():
    a, b = digests([{"array": PCM, "sampling_rate": 8000}, (PCM, 8000)], sampling_rate=RATE)
    assert [a, b] == digests([PCM, PCM], sampling_rate=8000)


@pytest.mark.parametrize(
    "make",
    [
        np.asarray,
        torch.from_numpy,
        pd.DataFrame,
        lambda x: pd.DataFrame(x, index=[7, 7, -1]),
        lambda x: pl.DataFrame(x),
        lambda x: pa.table({str(i): column for i, column in enumerate(x.T)}),
        lambda x: np.stack([x, x], 1),
        lambda x: np.stack([x, x], 2),
    ],
)
def test_a_matrix_has_one_clip_a_row(make):
    matrix = np.stack(clips(3, lengths=(300,)))
    assert digests(make(matrix), sampling_rate=RATE) == digests([(row, RATE) for row in matrix])


def test_series_and_frames_of_one_column_keep_their_order(tmp_path):
    paths = []
    for i, clip in enumerate(clips(3)):
        paths.append(str(tmp_path / f"{i}.flac"))
        soundfile.write(paths[-1], clip, RATE)
    expected = digests(paths)
    series = pd.Series(paths, index=[5, 5, "x"])
    for rows in (series, series.to_frame(), pl.Series(paths), np.array(paths), pa.array(paths)):
        assert digests(rows) == expected
    assert digests(pd.Series(paths[::-1])) == expected[::-1]


def test_a_missing_rate_is_said_never_guessed():
    found = faults([CLIP, torch.from_numpy(CLIP), {"array": CLIP}, [0.1, -0.1], (CLIP, RATE)])
    assert sorted(found) == [0, 1, 2, 3]
    assert all(
        "no sampling rate, which is never guessed: set sampling_rate=" in each
        for each in found.values()
    )
    with pytest.raises(InvalidInputError, match=r"shape \(2, 50\) and no sampling rate"):
        check_sounds(np.ones((2, 50)))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (None, "missing"),
        (float("nan"), "missing"),
        (pd.NA, "missing"),
        (3, "expected a path, an encoded file"),
        ("", "an empty path"),
        ("no/such.wav", "no such file: 'no/such.wav'"),
        ("http://x/y.wav", "a URL"),
        (b"", "empty bytes"),
        (b"hello", "5 bytes: not a sound"),
        (io.BytesIO(), "an empty BytesIO"),
        (io.StringIO("x"), "returns str; open the file with mode 'rb'"),
        (
            (RATE, PCM),
            r"\(rate, waveform\), as from scipy.io.wavfile; expected \(waveform, rate\)",
        ),
        ((torch.ones(1, 9), RATE, "yes", 3), r"a tuple of 4, .*; expected \(waveform, rate\)"),
        ((PCM, 0), "with the rate 0: expected a sampling rate"),
        ((PCM, 44.1), "in Hz, not in kHz"),
        ((PCM, None), "no sampling rate"),
        ((PCM, float("nan")), "with the rate nan"),
        ((PCM, True), "with the rate True"),
        ({"sampling_rate": RATE}, "a dict without a clip"),
        (np.zeros(0), "it has no samples"),
        (np.full(500, np.nan), "not finite|NaN"),
        (np.array([0.1, np.inf] * 50), "not finite|inf"),
        (PCM.astype(np.float64), "expected -1 to 1"),
        (PCM.astype(np.int64), "full scale is unknown"),
        (CLIP > 0, "expected float32 between"),
        (CLIP * 1j, "complex numbers are not sound samples"),
        (np.zeros((9, 9)), "channels and samples cannot be told apart"),
        (np.zeros((2, 2, 2)), "expected"),
        (np.zeros((100, 200)), "at most 64 channels"),
        (np.ma.masked_array(CLIP, CLIP > 0.2), "missing or masked"),
        (np.array(["a", "b"]), "expected numbers"),
        ([[1, 2], [3]], "expected a pair"),
        (Path("/"), "a directory"),
    ],
)
def test_bad_rows_are_named(row, reason):
    checked = check_sounds([(PCM, RATE), row, (PCM, RATE)], sampling_rate=None)
    if isinstance(row, np.ndarray):
        checked = check_sounds([(PCM, RATE), row, (PCM, RATE)], sampling_rate=RATE)
    assert list(checked.faults) == [1]
    assert checked.positions.tolist() == [0, 2]
    with pytest.raises(ValueError, match=reason):
        raise ValueError(checked.faults[1])


@pytest.mark.parametrize(
    ("X", "reason"),
    [
        ("a.wav", "single str. Put it in a list"),
        (b"RIFF", "single bytes"),
        (Path("a.wav"), "single .*Path"),
        (io.BytesIO(b"x"), "single BytesIO"),
        ((PCM, RATE), "a single pair"),
        ({"array": PCM, "sampling_rate": RATE}, "a single dict of a clip"),
        (PCM, "a single waveform of 800 samples"),
        (torch.from_numpy(PCM), "a single waveform"),
        (5, "got an int"),
        (pd.DataFrame({"a": ["x"], "b": ["y"]}), "of 2 columns"),
        (np.zeros((2, 2, 2, 2)), r"expected clips of shape|Expected clips of shape"),
        (np.zeros((2, 0)), "Expected clips of shape"),
        (np.array([b"ab", b"cd"]), "drops trailing zero bytes"),
    ],
)
def test_what_is_no_collection_of_clips_is_refused(X, reason):
    with pytest.raises(InvalidInputError, match=reason):
        check_sounds(X, sampling_rate=RATE)


def test_a_missing_row_after_one_waveform_is_no_rate():
    checked = check_sounds([CLIP, float("nan")], sampling_rate=RATE)
    assert list(checked.faults) == [1]


@pytest.mark.parametrize(
    ("samples", "finding"),
    [
        (np.zeros(500), "silent: no sample is more than -80 dB"),
        (np.full(500, 0.25), "silent: "),
        (np.stack([CLIP, -CLIP], 1), "in opposite phase: its channels cancel out"),
        (PCM.astype(np.int32), "silent"),
        (np.clip(9 * np.sin(np.arange(900) / 20), -1, 1), "clipped: "),
    ],
)
def test_poor_waveforms_are_read_and_told(samples, finding):
    rows = [(samples, RATE), np.asarray(samples)]
    checked = check_sounds([*rows, (CLIP, RATE)], sampling_rate=RATE)
    assert not checked.faults
    for item in checked.items[:2]:
        sound = item.read(RATE)
        assert len(sound.samples) == len(samples)
        assert re.match(finding, sound.quality)
        assert sound.content == item.digest
    assert checked.items[2].read(RATE).quality is None


def test_poor_files_are_read_and_told():
    silent, cut = encoded(0 * PCM), encoded()[:-100]
    for data, finding in ((silent, "silent"), (cut, "truncated: 1,600 bytes of samples promised")):
        sound = check_sounds([data]).items[0].read(RATE)
        assert sound.quality.startswith(finding)
        assert sound.content is None
    assert len(sound.samples) == len(PCM) - 50


def test_arrays_of_other_libraries_are_waveforms():
    class Lazy:
        def __array__(self, dtype=None, copy=None):
            return PCM

    assert digests([Lazy(), (Lazy(), RATE)], sampling_rate=RATE) == digests([(PCM, RATE)] * 2)


def test_gaps_of_a_frame_are_faults_of_their_rows():
    frame = pd.DataFrame(np.stack(clips(3, lengths=(60,))))
    frame.iloc[1, 5] = np.nan
    assert list(faults(frame, sampling_rate=RATE)) == [1]
    assert list(faults(pl.DataFrame(frame), sampling_rate=RATE)) == [1]


@pytest.mark.parametrize("rows", [[], np.zeros((0, 5)), pd.Series([], dtype=object)])
def test_no_rows_are_no_fault(rows):
    assert len(check_sounds(rows, sampling_rate=RATE).items) == 0
    assert check_sounds(rows).n_rows == 0


@pytest.mark.parametrize("rate", [0, -1, 16, True, np.inf, 1e9])
def test_rates_that_mean_nothing_are_refused(rate):
    with pytest.raises(InvalidParameterError, match="expected a sampling rate from 100 to"):
        check_rate(rate)


def test_file_objects_are_left_where_they_were():
    file = io.BytesIO(encoded())
    file.seek(11)
    assert len(set(digests([file, file]))) == 1
    assert file.tell() == 11


@pytest.mark.parametrize("dtype", ["int16", "float64"])
def test_long_waveforms_need_no_more_memory_than_their_result(dtype):
    waveform = np.tile((CLIP * 20000).astype(dtype), (2, 6000))[:, : 100 * 44_100].T
    waveform = waveform / 32768 if dtype != "int16" else waveform
    tracemalloc.start()
    try:
        (clip,) = check_sounds([(waveform, 44_100)]).items
        samples = clip.read(RATE).samples
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Of 100 seconds the result is 6 MB; in float32 the waveform would be 35 MB.
    assert len(samples) == 100 * RATE
    assert peak < samples.nbytes * 9 / 8 + (8 << 20)


def test_a_waveform_that_changes_after_its_check_is_taken_as_it_is_then():
    waveform = CLIP.copy()
    (clip,) = check_sounds([(waveform, RATE)]).items
    waveform *= 0.5
    found = clip.read(RATE)
    assert np.array_equal(found.samples, waveform)
    assert [found.content] == digests([(waveform, RATE)])
    assert found.content != clip.digest
    waveform[5] = np.nan
    with pytest.raises(UnreadableSound, match="NaN"):
        clip.read(RATE)


class AudioSamples:
    def __init__(self):
        self.data, self.sample_rate = torch.from_numpy(CLIP)[None], RATE


class AudioDecoder:
    def get_all_samples(self):
        return AudioSamples()


class BrokenDecoder:
    def get_all_samples(self):
        raise RuntimeError("no frames left")


def test_what_torchcodec_decodes_is_read():
    assert digests([AudioDecoder(), AudioSamples()]) == digests([(CLIP, RATE)] * 2)
    reason = "the samples of its BrokenDecoder cannot be read: RuntimeError: no frames left"
    assert faults([BrokenDecoder()]) == {0: reason}


@pytest.mark.parametrize("lengths", [(300,), (300, 400)])
@pytest.mark.parametrize("make", [lambda x: np.array(x, dtype=object), pd.Series, list])
def test_pairs_in_any_container_are_rows(make, lengths):
    for n in (2, 3):
        rows = [(clip, RATE) for clip in clips(n, lengths=lengths)]
        of_torch = [(torch.from_numpy(clip)[None], rate) for clip, rate in rows]
        assert digests(make(rows)) == digests(of_torch) == digests(rows)


@pytest.mark.parametrize(
    ("X", "fix"),
    [
        (pd.Series([7, 8, 9]), r"choose the column .* \[np\.asarray\(X\)\]"),
        ([["a.wav"], ["b.wav"]], r"use \[row\[0\] for row in X\]"),
    ],
)
def test_a_column_of_the_wrong_kind_has_one_fault(X, fix):
    (fault,) = set(check_sounds(list(X), sampling_rate=16000).faults.values())
    assert re.search(fix, fault)
