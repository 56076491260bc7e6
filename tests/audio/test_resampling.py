import numpy as np
import pytest

from skembed.audio._resampling import Resampler, resample
from tests.audio.sounds import noise, tone

RATES = [44100, 48000, 22050, 8000, 11025, 11025.5, 32000]


def in_pieces(samples, rate, to, sizes):
    resampler, blocks, start = Resampler(rate, to), [], 0
    for size in sizes:
        blocks += resampler.push(samples[start : start + size])
        start += size
    blocks += resampler.push(samples[start:])
    return np.concatenate([*blocks, *resampler.finish()])


def spectrum(samples, rate):
    """Return frequencies and amplitudes of sines, by a window with side lobes below -150 dB."""
    middle = samples[len(samples) // 8 : -len(samples) // 8].astype(np.float64)
    window = np.kaiser(len(middle), 20)
    amplitudes = np.abs(np.fft.rfft(middle * window)) / (window.sum() / 2)
    return np.fft.rfftfreq(len(middle), 1 / rate), amplitudes


def level_and_phase(samples, hertz, rate):
    """Fit a sine of known frequency to the middle, by least squares."""
    n = len(samples)
    at = np.arange(n // 4, 3 * n // 4)
    angle = 2 * np.pi * hertz * at / rate
    basis = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    (a, b), *_ = np.linalg.lstsq(basis, samples[at].astype(np.float64), rcond=None)
    return np.hypot(a, b), np.arctan2(b, a)


def windowed_sinc(samples, rate, to, half_width=300):
    """Resample by the definition: every output is a sum over sinc, a low-pass below both rates."""
    samples = samples.astype(np.float64)
    # In the middle between the edges of pass- and stopband.
    cutoff = 0.955 * min(rate, to) / rate
    out = np.zeros(int(np.ceil(len(samples) * to / rate)))
    for k in range(len(out)):
        time = k * rate / to
        first = max(0, int(np.ceil(time - half_width / cutoff)))
        last = min(len(samples) - 1, int(np.floor(time + half_width / cutoff)))
        distance = np.arange(first, last + 1) - time
        window = np.i0(14 * np.sqrt(1 - (distance * cutoff / half_width) ** 2)) / np.i0(14)
        out[k] = np.sum(samples[first : last + 1] * cutoff * np.sinc(cutoff * distance) * window)
    return out


@pytest.mark.parametrize("rate", RATES)
def test_pieces_give_bit_for_bit_what_the_whole_gives(rate):
    samples = noise(100_003)
    whole = resample(samples, rate, 16000)
    assert np.array_equal(whole, in_pieces(samples, rate, 16000, [1, 7, 0, 40_000, 32_768]))
    assert np.array_equal(whole, in_pieces(samples, rate, 16000, [999] * 100))


@pytest.mark.parametrize("rate", [*RATES, 7, 65_000_000])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 1000])
def test_the_length_is_rounded_up(rate, n):
    found = resample(noise(n), rate, 16000)
    assert found.dtype == np.float32
    assert found.shape == (-int(-n * 16000 // rate),)


def test_equal_rates_leave_the_samples_as_they_are():
    samples = noise(1000)
    assert resample(samples, 16000, 16000.0) is samples
    assert np.array_equal(in_pieces(samples, 16000, 16000, [3, 500]), samples)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.91])
def test_a_tone_keeps_frequency_level_and_phase(rate, share):
    hertz = share * min(rate, 16000) / 2
    found = resample(tone(hertz, rate, int(rate), phase=0.6), rate, 16000)
    level, phase = level_and_phase(found, hertz, 16000)
    # No delay: a tenth of a sample at 7 kHz would be 0.27 rad.
    assert abs(20 * np.log10(level / 0.5)) < 0.011
    assert abs(phase - 0.6) < 1e-4
    frequencies, amplitudes = spectrum(found, 16000)
    assert abs(frequencies[amplitudes.argmax()] - hertz) < 2
    others = amplitudes[abs(frequencies - hertz) > 60]
    assert 20 * np.log10(others.max() / 0.5) < -125


@pytest.mark.parametrize("rate", [44100, 48000, 22050, 32000])
@pytest.mark.parametrize("hertz", [8001, 8300, 9000, 10900])
def test_tones_above_the_new_nyquist_frequency_leave_no_alias(rate, hertz):
    _, amplitudes = spectrum(resample(tone(hertz, rate, rate), rate, 16000), 16000)
    assert 20 * np.log10(amplitudes.max() / 0.5) < -125


@pytest.mark.parametrize("rate", [44100, 48000, 22050, 8000, 11025.5])
def test_values_are_those_of_a_windowed_sinc(rate):
    rng = np.random.default_rng(3)
    # Several tones within the passband, beginning and ending softly.
    n = 4000
    samples = sum(
        tone(share * min(rate, 16000) / 2, rate, n, phase=rng.uniform(0, 6), level=0.1)
        for share in (0.05, 0.33, 0.61, 0.85)
    ) * np.hanning(n).astype(np.float32)
    found, expected = resample(samples, rate, 16000), windowed_sinc(samples, rate, 16000)
    assert found.shape == expected.shape
    # 0.011 dB of ripple are 0.13 %.
    assert np.abs(found - expected).max() < 0.0014 * np.abs(expected).max()


def test_there_is_no_delay():
    click = np.zeros(4410, np.float32)
    click[2205] = 1
    assert resample(click, 44100, 16000).argmax() == 800


@pytest.mark.parametrize("rate", [0, -8000, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match=r"a sample rate of \S+ Hz, expected a positive number"):
        resample(noise(10), rate, 16000)
    with pytest.raises(ValueError, match="expected a positive number"):
        Resampler(16000, rate)


@pytest.mark.parametrize(("rate", "to"), [(1, 16000), (16000, 1), (1e-9, 16000)])
def test_rates_too_far_apart_are_refused(rate, to):
    with pytest.raises(ValueError, match="more than 4,096 times apart"):
        resample(noise(10), rate, to)
