"""Log-mel spectra and cepstra: against NumPy, torchaudio and what is known of simple sounds."""

import math
import wave

import numpy as np
import pytest
import torch
import torchaudio

from skembed.audio import _spectra
from skembed.audio._spectra import MFCC, LogMel, cosine_matrix, mel_filters
from skembed.exceptions import InvalidParameterError
from tests.audio import reference
from tests.materials import spoken_prompts

RATE = 16_000
SCALES = [("htk", None), ("htk", "slaney"), ("slaney", None), ("slaney", "slaney")]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    # Where other programs are busy, threads wait for each other at every short step: on 2 cores
    # beside two of them the tests of audio took 214 s with two threads and 16 s with one.
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def tone(frequency, seconds=0.5, rate=RATE):
    times = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    return torch.sin(2 * math.pi * frequency * times).float()


def noise(n_samples, level=0.1):
    return level * torch.randn(n_samples, generator=torch.Generator().manual_seed(0))


def chirp():
    times = torch.arange(8000, dtype=torch.float64) / RATE
    return torch.sin(2 * math.pi * (100 * times + 7000 * times**2)).float()


def quiet_then_loud():
    return torch.cat([noise(4000, 1e-4), noise(4000, 1.0)])


def speech():
    with wave.open(str(spoken_prompts() / "activated.wav")) as file:
        assert file.getframerate() == 8000
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    return torch.from_numpy(samples.astype(np.float32) / 32768)


# A band far from a full-scale tone has 1e-10 of its power, which float32 rounds to 1e-3 of itself:
# torchaudio's spectra, in float32 too, are up to 9e-5 of their range off, ours up to 7e-5.
SOUNDS = {
    "tone": (lambda: tone(440), 1e-4),
    "chirp": (chirp, 1e-4),
    "noise": (lambda: noise(8000), 1e-5),
    "quiet, then loud": (quiet_then_loud, 1e-5),
    "speech": (speech, 2e-5),
}


def assert_close(found, expected, tolerance=1e-5):
    """Compare to a share of the range of the expected values."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.ptp(expected)


@pytest.mark.parametrize("sound", SOUNDS)
@pytest.mark.parametrize(("scale", "norm"), SCALES)
def test_spectra_and_cepstra_are_those_of_the_formulae(sound, scale, norm):
    make, tolerance = SOUNDS[sound]
    waveform = make()[:6000]
    spectra = reference.log_mel(waveform, scale=scale, norm=norm)
    assert_close(LogMel(scale=scale, norm=norm)(waveform[None])[0], spectra, tolerance)
    cepstra = reference.dct(spectra, 20)
    assert_close(MFCC(scale=scale, norm=norm)(waveform[None])[0], cepstra)


@pytest.mark.parametrize(("scale", "norm"), SCALES)
@pytest.mark.parametrize(("n_fft", "rate", "n_mels"), [(512, 16_000, 80), (2048, 44_100, 40)])
def test_filters_are_those_of_the_formulae_and_of_torchaudio(scale, norm, n_fft, rate, n_mels):
    found = mel_filters(n_fft, rate, n_mels, scale=scale, norm=norm)
    expected = reference.filters(n_fft, rate, n_mels, scale, norm).T
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    theirs = torchaudio.functional.melscale_fbanks(
        n_fft // 2 + 1, 0.0, rate / 2, n_mels, rate, norm, scale
    )
    # Theirs are float32 throughout.
    torch.testing.assert_close(found.float(), theirs, rtol=0, atol=2e-5 * float(found.max()))


def torchaudio_settings(scale, norm):
    return {
        "n_fft": 512,
        "win_length": 400,
        "hop_length": 160,
        "n_mels": 80,
        "mel_scale": scale,
        "norm": norm,
        "pad_mode": "constant",
    }


@pytest.mark.parametrize(("scale", "norm"), SCALES)
def test_spectra_and_cepstra_are_those_of_torchaudio(scale, norm):
    waveforms = torch.stack([noise(8000), tone(440), chirp()])
    settings = torchaudio_settings(scale, norm)
    power = torchaudio.transforms.MelSpectrogram(RATE, **settings)(waveforms)
    found = LogMel(scale=scale, norm=norm)(waveforms)
    assert_close(found, torch.log(power + 1e-6).mT, 2e-4)
    cepstra = torchaudio.transforms.MFCC(RATE, n_mfcc=20, log_mels=True, melkwargs=settings)
    assert_close(MFCC(scale=scale, norm=norm)(waveforms), cepstra(waveforms).mT, 5e-5)


def test_the_cosines_are_orthonormal_and_invert():
    whole = cosine_matrix(80, 80)
    torch.testing.assert_close(whole @ whole.T, torch.eye(80, dtype=torch.float64))
    assert torch.equal(cosine_matrix(80, 20), whole[:, :20])


@pytest.mark.parametrize("n_samples", [0, 1, 2, 159, 160, 399, 400, 401, 512, 1000])
def test_clips_shorter_than_a_window_have_frames_too(n_samples):
    waveform = noise(n_samples)
    found = LogMel()(waveform[None])
    assert found.shape == (1, 1 + n_samples // 160, 80)
    expected = reference.log_mel(waveform)
    assert np.abs(found[0].numpy() - expected).max() < 1e-4


@pytest.mark.parametrize("module", [LogMel(), MFCC()], ids=["LogMel", "MFCC"])
def test_a_clip_has_the_same_frames_alone_and_beside_others(module):
    waveforms = torch.stack([noise(9000), tone(440, 9000 / RATE), torch.zeros(9000)])
    together = module(waveforms)
    for waveform, expected in zip(waveforms, together, strict=True):
        torch.testing.assert_close(module(waveform[None])[0], expected, rtol=1e-6, atol=1e-5)
    assert torch.equal(module(waveforms), together)


def test_a_clip_that_is_not_a_number_leaves_the_others_alone():
    waveforms = torch.stack([noise(4000), torch.full((4000,), math.nan)])
    found = LogMel()(waveforms)
    torch.testing.assert_close(found[0], LogMel()(waveforms[:1])[0], rtol=1e-6, atol=1e-5)
    assert found[1].isnan().all()


@pytest.mark.parametrize("n_frames", [1, 2, 7, 64])
def test_pieces_of_any_size_give_the_same(monkeypatch, n_frames):
    waveforms = torch.stack([noise(20_000), tone(1000, 20_000 / RATE)])
    whole = LogMel()(waveforms)
    monkeypatch.setattr(_spectra, "_N_FRAMES", n_frames)
    torch.testing.assert_close(LogMel()(waveforms), whole, rtol=1e-6, atol=1e-5)


def test_long_audio_is_worked_on_in_pieces(monkeypatch):
    sizes = []
    rfft = torch.fft.rfft

    def watched(frames, n):
        sizes.append(frames.shape[:-1].numel())
        return rfft(frames, n)

    monkeypatch.setattr(torch.fft, "rfft", watched)
    LogMel()(torch.zeros(3, 100 * RATE))
    assert max(sizes) <= 2048
    assert sum(sizes) == 3 * 10_001


def test_silence_is_the_floor():
    silence = torch.zeros(1, 8000)
    found = LogMel()(silence)
    assert torch.equal(found, torch.full_like(found, 1e-6).log())
    cepstra = MFCC()(silence)
    # A constant spectrum: all of it is in coefficient 0.
    assert cepstra[..., 0].numpy() == pytest.approx(math.log(1e-6) * math.sqrt(80), rel=1e-6)
    assert float(cepstra[..., 1:].abs().max()) < 1e-4


@pytest.mark.parametrize("scale", ["htk", "slaney"])
@pytest.mark.parametrize("frequency", [125, 440, 1000, 3000, 7000])
def test_a_tone_is_loudest_in_the_band_around_its_frequency(frequency, scale):
    # The two bands whose triangles hold the frequency, by where it is on the scale.
    position = 81 * reference.to_mel(frequency, scale) / reference.to_mel(RATE / 2, scale) - 1
    loudest = LogMel(scale=scale)(tone(frequency)[None])[0, 5:-5].argmax(-1)
    assert set(loudest.tolist()) <= {math.floor(position), math.ceil(position)}


def test_a_click_is_in_the_frames_whose_windows_hold_it():
    waveform = torch.zeros(1, 4000)
    waveform[0, 1600] = 1
    is_heard = LogMel()(waveform)[0].amax(-1) > math.log(2e-6)
    # Windows reach 200 samples to each side, frames are 160 apart.
    assert is_heard.nonzero().flatten().tolist() == [9, 10, 11]


@pytest.mark.parametrize(
    ("rate", "window", "hop", "n_fft"),
    [
        (8000, 200, 80, 256),
        (8080, 202, 81, 256),
        (11_025, 276, 110, 512),
        (22_050, 551, 220, 1024),
        (48_000, 1200, 480, 2048),
    ],
)
def test_window_and_hop_are_milliseconds_at_any_rate(rate, window, hop, n_fft):
    module = LogMel(rate, n_mels=24)
    assert (module.window, module.hop, module.n_fft) == (window, hop, n_fft)
    waveform = noise(5000)
    expected = reference.log_mel(waveform, rate, window, hop, n_fft, 24)
    assert_close(module(waveform[None])[0], expected)
    assert_close(
        MFCC(rate, n_mels=24, n_coefficients=13)(waveform[None])[0], reference.dct(expected, 13)
    )


@pytest.mark.parametrize(
    ("window_ms", "hop_ms", "n_fft"), [(20, 5, 400), (5, 20, 128), (25, 10, 400), (25, 10, 401)]
)
def test_other_windows_hops_and_transforms(window_ms, hop_ms, n_fft):
    waveform = noise(3000)
    module = LogMel(window_ms=window_ms, hop_ms=hop_ms, n_fft=n_fft, n_mels=24)
    expected = reference.log_mel(waveform, RATE, 16 * window_ms, 16 * hop_ms, n_fft, 24)
    assert_close(module(waveform[None])[0], expected)


def test_a_window_that_is_a_power_of_two_is_its_own_transform():
    assert LogMel(window_ms=32).n_fft == LogMel(window_ms=32).window == 512


def test_width_is_the_number_of_values_in_a_frame():
    for module in (LogMel(n_mels=40), MFCC(n_coefficients=13)):
        assert module(torch.zeros(1, 100)).shape[-1] == module.width


def test_every_band_of_the_two_front_ends_hears_something():
    assert bool((mel_filters(512, RATE, 80).sum(0) > 0).all())


def test_the_front_ends_have_no_parameters_and_round_their_tables_once():
    module = MFCC(scale="slaney", norm="slaney")
    assert not list(module.parameters())
    exact = reference.filters(512, RATE, 80, "slaney", "slaney").T
    rounded = torch.from_numpy(exact).float()
    torch.testing.assert_close(module.log_mel.filters, rounded, rtol=1e-6, atol=1e-12)
    assert {buffer.dtype for buffer in module.buffers()} == {torch.float32}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": "bark"}, "scale='bark': expected 'htk' or 'slaney'"),
        ({"norm": "area"}, "norm='area': expected None or 'slaney'"),
        ({"n_fft": 256}, "the window of 25.0 ms has 400 samples at 16000 Hz. Choose n_fft=400"),
        ({"n_coefficients": 81}, "n_coefficients=81: expected 1 to 80, the number of bands"),
        ({"n_coefficients": 0}, "n_coefficients=0: expected 1 to 80"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(InvalidParameterError, match=message):
        MFCC(**settings)
    with pytest.raises(TypeError, match="n_mel'"):
        MFCC(n_mel=40)
