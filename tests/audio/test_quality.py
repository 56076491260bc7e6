import numpy as np
import pytest

from skembed.audio._quality import QualityCheck, mix, mixed, to_float
from tests.audio.sounds import noise, tone

RATE = 16000


def pcm16(samples):
    return to_float(np.clip(np.round(np.asarray(samples) * 32768), -32768, 32767).astype(np.int16))


def said_of(check):
    return check.why_unreadable() or check.finding()


def in_pieces(samples, size):
    check = QualityCheck(RATE)
    for start in range(0, len(samples), size):
        check.add(samples[start : start + size])
    return said_of(check)


def mix_and_check(samples, rate):
    check = QualityCheck(rate)
    return np.concatenate(list(mixed(samples, check))), check


def why_unfit(samples, rate):
    return said_of(mix_and_check(samples, rate)[1])


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        ("int16", [-32768, -1, 0, 32767], [-1, -1 / 32768, 0, 32767 / 32768]),
        (">i2", [-32768, 256], [-1, 256 / 32768]),
        ("int8", [-128, 0, 127], [-1, 0, 127 / 128]),
        ("uint8", [0, 128, 255], [-1, 0, 127 / 128]),
        ("int32", [-(2**31), 0, 2**30, 2**31 - 1], [-1, 0, 0.5, 1]),
        ("float16", [-1, 0.25], [-1, 0.25]),
        ("float32", [-1, 0.1, 3], [-1, np.float32(0.1), 3]),
        (">f4", [-1, 0.5], [-1, 0.5]),
        ("float64", [-1, 0.1], [-1, np.float32(0.1)]),
        ("float64", [1e300, -1e300], [np.inf, -np.inf]),
    ],
)
def test_samples_become_floats_by_their_full_scale(dtype, values, expected):
    found = to_float(np.array(values, dtype))
    assert found.dtype == np.float32
    assert found.dtype.isnative
    assert found.tolist() == [float(each) for each in expected]


def test_the_array_that_is_given_stays_as_it_is():
    array = np.array([0, 128], np.uint8)
    to_float(array)
    assert array.tolist() == [0, 128]


@pytest.mark.parametrize(
    ("dtype", "advice"),
    [
        ("int64", r"use \.astype\('int16'\), else divide by the full scale"),
        ("uint16", r"use \.astype\('int16'\)"),
        ("uint32", "their full scale is unknown"),
        ("bool", "expected float32 between -1 and 1"),
        ("complex64", "pass the waveform, not a spectrum"),
        ("longdouble", "expected float32 between -1 and 1 or int16"),
        ("O", "expected float32"),
        ("U3", "expected float32"),
    ],
)
def test_a_dtype_without_a_certain_scale_is_refused(dtype, advice):
    array = np.zeros(3, dtype)
    with pytest.raises(TypeError, match=f"samples of dtype .*: .*{advice}"):
        to_float(array)


def test_channels_are_averaged_whatever_their_layout():
    frames = noise(1000, n_channels=7)
    expected = np.array([sum(map(float, frame)) / 7 for frame in frames]).astype(np.float32)
    assert mix(frames).dtype == np.float32
    assert np.array_equal(mix(frames), expected)
    assert np.array_equal(mix(np.asfortranarray(frames)), expected)
    assert np.array_equal(mix(frames[:, :1]), frames[:, 0])


@pytest.mark.parametrize(
    "samples",
    [
        noise(8000),
        tone(100, RATE, RATE, level=1.0),
        pcm16(tone(20, 44100, 44100, level=1.0)),
        pcm16(tone(1000, 48000, 48000, level=1.0)),
        # 8 bits, as loud as they get: a sine that reaches both ends.
        to_float(np.round(127.5 + 127.5 * tone(50, RATE, RATE, level=1.0)).astype(np.uint8)),
        to_float(np.round(127 * tone(50, RATE, RATE, level=1.0)).astype(np.int8)),
        # A master by a limiter: noise 6 dB into a soft ceiling.
        pcm16(np.tanh(noise(44100, level=1.0) * 2)),
        # Peaks cut one by one: 4 % at the end of the scale, in short runs.
        pcm16(np.random.default_rng(0).standard_normal(44100) * 0.48),
        np.full(1000, 0.5, np.float32) + tone(440, RATE, 1000, level=0.01),
        tone(440, RATE, 1000, level=2e-4),
        tone(440, RATE, 1000, level=7.9),
    ],
    ids=lambda samples: f"{len(samples)}",
)
def test_sounds_are_fit(samples):
    assert why_unfit(samples, RATE) is None


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.zeros(1000, np.float32), "silent: no sample is more than -80 dB"),
        (np.full(1000, 0.25, np.float32), "silent: "),
        (np.float32(0.1) + tone(440, RATE, 1000, level=9e-5), "silent: "),
        (to_float(np.random.default_rng(0).integers(-1, 2, 1000).astype(np.int16)), "silent: "),
        (pcm16(tone(440, RATE, RATE, level=1.2)), r"clipped: 3\d% of its samples"),
        (np.clip(tone(100, RATE, RATE, level=2), -1, 1), r"clipped: 6\d% of its samples"),
        (np.clip(tone(100, RATE, RATE, level=4), -3, 3), r"clipped: 4\d% of its samples"),
        (np.sign(tone(100, RATE, 1600, phase=0.1)), "clipped: 100% of its samples"),
        (tone(440, RATE, 1000) * 65534, r"its samples reach 32,7\d\d(\.\d+)?, expected -1 to 1: "),
        (noise(1000) * 128, "divide integers by their full scale, 32,768 for 16 bits"),
    ],
)
def test_what_is_unfit_is_told(samples, reason):
    samples = samples.astype(np.float32)
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(why_unfit(samples, RATE))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.filterwarnings("error")
def test_the_first_sample_that_is_no_number_is_named(value):
    samples = noise(200_000)
    samples[[120_000, 150_000, 150_001]] = value
    expected = "3 of its samples are NaN or infinite, the first at second 7.500"
    assert why_unfit(samples, RATE) == expected
    assert in_pieces(samples, 1000) == expected


@pytest.mark.parametrize("seed", range(20))
def test_pieces_are_judged_as_the_whole(seed):
    rng = np.random.default_rng(seed)
    samples = pcm16(tone(rng.uniform(20, 300), RATE, 8000, level=rng.uniform(0.9, 1.1)))
    whole = why_unfit(samples, RATE)
    assert [in_pieces(samples, size) for size in (1, 3, 7, 1000)] == [whole] * 4


def share_at_the_ends(samples):
    """Count by the definition: samples equal to the maximum, in runs of 4 and more."""
    n = 0
    for side in (samples, -samples):
        run = 0
        for each in [*(side == side.max()), False]:
            if each:
                run += 1
            else:
                n += run * (run >= 4)
                run = 0
    return n / len(samples)


@pytest.mark.parametrize("level", [1.001, 1.002, 1.003, 1.004, 1.01])
def test_clipped_are_five_percent_in_runs_at_the_ends(level):
    samples = pcm16(tone(37, RATE, RATE, level=level))
    assert (why_unfit(samples, RATE) is not None) == (share_at_the_ends(samples) >= 0.05)


@pytest.mark.parametrize(("n_in_run", "is_clipped"), [(1, False), (3, False), (4, True)])
def test_shorter_runs_than_four_samples_are_peaks(n_in_run, is_clipped):
    samples = noise(8000)
    for i in range(n_in_run):
        samples[i::20] = 1
    assert (why_unfit(samples, RATE) is not None) == (is_clipped and n_in_run / 20 >= 0.05)
    assert (in_pieces(samples, 2) is not None) == is_clipped


def test_a_level_passed_later_is_not_the_end_of_the_scale():
    # Half of it stays at 1, but floats go on to 1.5 later.
    samples = np.concatenate([np.clip(tone(100, RATE, RATE, level=2), -1, 1), [1.5, -1.5]])
    assert why_unfit(samples.astype(np.float32), RATE) is None
    assert in_pieces(samples.astype(np.float32), 100) is None


def test_nothing_is_unreadable():
    assert QualityCheck(RATE).why_unreadable() == "empty: no samples"


def test_channels_that_cancel_out_are_told_from_silence():
    samples = noise(100_000)
    opposite = np.stack([samples, -samples], axis=1)
    found, check = mix_and_check(opposite, RATE)
    assert not found.any()
    assert "its channels cancel out" in check.finding()
    assert mix_and_check(np.zeros((1000, 2)), RATE)[1].finding().startswith("silent: no sample")
    half = np.concatenate([opposite, np.stack([samples, samples], axis=1)])
    assert mix_and_check(half, RATE)[1].finding() is None


def test_the_mixed_waveform_is_a_copy():
    samples = noise(1000)
    (found,) = mixed(samples)
    assert np.array_equal(found, samples)
    assert not np.shares_memory(found, samples)
