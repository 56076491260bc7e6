"""Log-mel spectra and cepstra: against NumPy, torchaudio and what is known of simple sounds."""

import math
import wave

import numpy as np
import pytest
import torch
import torchaudio

from skembed.audio import _spectra
from skembed.audio._spectra import MFCC, LogMel
from tests.audio import reference
from tests.materials import spoken_prompts

RATE = 16_000


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
def test_spectra_and_cepstra_are_those_of_the_formulae(sound):
    make, tolerance = SOUNDS[sound]
    waveform = make()[:6000]
    spectra = reference.log_mel(waveform)
    assert_close(LogMel()(waveform[None])[0], spectra, tolerance)
    cepstra = reference.dct(spectra, 20)
    assert_close(MFCC()(waveform[None])[0], cepstra)


def test_spectra_and_cepstra_are_those_of_torchaudio():
    waveforms = torch.stack([noise(8000), tone(440), chirp()])
    settings = {"n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 80}
    settings.update(mel_scale="htk", norm=None, pad_mode="constant")
    power = torchaudio.transforms.MelSpectrogram(RATE, **settings)(waveforms)
    found = LogMel()(waveforms)
    assert_close(found, torch.log(power + 1e-6).mT, 2e-4)
    cepstra = torchaudio.transforms.MFCC(RATE, n_mfcc=20, log_mels=True, melkwargs=settings)
    assert_close(MFCC()(waveforms), cepstra(waveforms).mT, 5e-5)


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


@pytest.mark.parametrize("frequency", [125, 440, 1000, 3000, 7000])
def test_a_tone_is_loudest_in_the_band_around_its_frequency(frequency):
    # The two bands whose triangles hold the frequency, by where it is on the scale.
    position = 81 * reference.to_mel(frequency, "htk") / reference.to_mel(RATE / 2, "htk") - 1
    loudest = LogMel()(tone(frequency)[None])[0, 5:-5].argmax(-1)
    assert set(loudest.tolist()) <= {math.floor(position), math.ceil(position)}


def test_a_click_is_in_the_frames_whose_windows_hold_it():
    waveform = torch.zeros(1, 4000)
    waveform[0, 1600] = 1
    is_heard = LogMel()(waveform)[0].amax(-1) > math.log(2e-6)
    # Windows reach 200 samples to each side, frames are 160 apart.
    assert is_heard.nonzero().flatten().tolist() == [9, 10, 11]


def test_every_band_of_the_two_front_ends_hears_something():
    assert bool((LogMel().filters.sum(0) > 0).all())


def test_the_front_ends_have_no_parameters_and_round_their_tables_once():
    module = MFCC()
    assert not list(module.parameters())
    rounded = torch.from_numpy(reference.filters(512, RATE, 80, "htk", None).T).float()
    torch.testing.assert_close(module.log_mel.filters, rounded, rtol=1e-6, atol=1e-12)
    assert {buffer.dtype for buffer in module.buffers()} == {torch.float32}
