"""Training of sound models: every family, random views."""

import numpy as np
import pytest
import torch

from skembed import AudioEmbedder, FineTune
from skembed.audio._views import mask_bands, random_view
from skembed.exceptions import InvalidParameterError, InvalidRowsError
from tests.audio.checkpoints import clips, rate_of, write_checkpoint
from tests.audio.networks import RATE, TinyNetwork
from tests.training.trained import check_trained

Y = ["a", "b"] * 4
SECONDS = (0.5, 0.4, 0.5, 0.3) * 2
FAMILIES = ("wav2vec2", "wav2vec2-stable", "hubert", "wavlm", "sew", "ast")


def tuned(model, method, rate=RATE, **options):
    """Return what makes an embedder with a strategy of these parameters."""
    options = {"dtype": "float32", "cache": None, "device": "cpu", **options}

    def make(training=True, **parameters):
        strategy = FineTune(method, dtype="float32", learning_rate=1e-2, **parameters)
        return AudioEmbedder(
            model, sampling_rate=rate, training=strategy if training else None, **options
        )

    return make


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_transformers_are_trained_and_served(tmp_path, monkeypatch, family, method):
    folder = write_checkpoint(tmp_path, family)
    rate = rate_of(folder)
    check_trained(tuned(folder, method, rate), clips(*SECONDS, rate=rate), Y, monkeypatch)


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("family", ["clap", "whisper"])
def test_models_that_fill_clips_up_are_trained_and_served(tmp_path, monkeypatch, family, method):
    folder = write_checkpoint(tmp_path, family)
    rate = rate_of(folder)
    few = clips(*SECONDS[:4], rate=rate)
    check_trained(tuned(folder, method, rate), few, Y[:4], monkeypatch, n_epochs=1)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_own_modules_are_trained_and_served(monkeypatch, method):
    make = tuned(TinyNetwork(), method)
    check_trained(make, clips(*SECONDS), Y, monkeypatch, lora_rank=2)


def test_training_a_speech_model_leaves_numpys_random_state(tmp_path):
    make = tuned(write_checkpoint(tmp_path, "wav2vec2"), "full")
    before = np.random.get_state()[1].copy()  # noqa: NPY002  (what must not change)
    make(n_epochs=1).fit(clips(*SECONDS), Y)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize("name", ["logmel", "mfcc"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_baselines_have_nothing_to_train(name, method):
    with pytest.raises(InvalidParameterError, match=f"{name} has no weights.*method='head'"):
        tuned(name, method)().fit(clips(*SECONDS), Y)


def test_a_head_is_trained_on_a_baseline():
    make = tuned("logmel", "head")
    found = make().fit(clips(*SECONDS), Y).transform(clips(*SECONDS))
    assert np.abs(found - make(training=None).fit_transform(clips(*SECONDS))).max() > 1e-3


# Random views ----------------------------------------------------------------------------


def tone(seconds=1.0):
    return (0.25 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE)) / RATE)).astype("f4")


def view(seed, samples=None, **options):
    samples = tone() if samples is None else samples
    return random_view(samples, np.random.default_rng(seed), **options)


def test_a_view_depends_on_its_seed_alone_and_leaves_the_clip():
    clip = tone()
    one, same, other = view(3, clip), view(3, clip), view(4, clip)
    np.testing.assert_array_equal(one, same)
    assert len(one) != len(other) or np.abs(one - other).max() > 0.01
    np.testing.assert_array_equal(clip, tone())


def test_views_are_parts_at_other_speeds():
    lengths = [len(view(seed)) / RATE for seed in range(60)]
    assert 0.8 / 1.1 - 0.01 <= min(lengths) < 0.82
    assert 0.95 < max(lengths) <= 1 / 0.9 + 0.01


def test_speed_changes_pitch():
    pitches = []
    for seed in range(30):
        part = view(seed)[:4000]
        spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)), 1 << 16))
        pitches.append(float(spectrum.argmax()) * RATE / (1 << 16))
    assert 0.9 * 440 - 3 < min(pitches) < 0.94 * 440 and 1.06 * 440 < max(pitches) < 1.1 * 440 + 3


def test_gain_and_noise_keep_to_their_bounds():
    for seed in range(40):
        found = view(seed)
        heard = found[found != 0]
        level = 20 * np.log10(np.sqrt(np.mean(heard**2)) / np.sqrt(np.mean(tone() ** 2)))
        assert -6.5 < level < 6.9  # noise of 10 dB below adds 0.4 dB


def test_loud_clips_are_not_made_louder_than_1_before_noise():
    loud = np.sign(tone()).astype("f4")
    assert max(np.abs(view(seed, loud)).mean() for seed in range(20)) < 1.1


def test_silent_and_very_short_clips_have_views():
    assert not view(0, np.zeros(1000, "f4")).any()
    assert len(view(0, tone()[:3], least=3)) >= 3


def test_gaps_are_at_most_a_tenth():
    shares = [float((view(seed) == 0).mean()) for seed in range(40)]
    assert 0 < max(shares) <= 0.1


@pytest.mark.parametrize("dimension", [0, 1])
def test_masked_bands_have_the_mean(dimension):
    features = torch.randn(100, 100, generator=torch.Generator().manual_seed(0))
    masked = mask_bands(features, dimension, np.random.default_rng(1))
    changed = masked != features
    bands = changed.all(1 - dimension)
    assert torch.equal(changed.any(1 - dimension), bands)
    assert 0 < int(bands.sum()) <= 30
    torch.testing.assert_close(masked[changed].unique(), features.mean()[None])


def test_views_of_features_have_masked_bands(tmp_path):
    folder = write_checkpoint(tmp_path, "ast")
    backbone = tuned(folder, "head")(training=None).fit(clips(1.0)).encoder_.backbone
    part = backbone.prepare(clips(1.0)[0], np.random.default_rng(0))
    assert part.values.shape == backbone.prepare(clips(1.0)[0]).values.shape
    assert int((part.values == part.values[:1]).all(0).sum()) > 0


@pytest.mark.parametrize("family", ["wav2vec2", "ast"])
def test_training_on_views_is_repeated_bit_by_bit(tmp_path, family):
    folder = write_checkpoint(tmp_path, family)
    make = tuned(folder, "full", rate_of(folder))
    X = clips(*SECONDS, rate=rate_of(folder))

    def digest(**options):
        return make(n_epochs=2, validation_fraction=None, **options).fit(X, Y).trained_.digest

    assert digest(augment=True) == digest(augment=True) != digest()


def test_views_of_long_clips_are_windows_at_random_places(tmp_path):
    encoder = tuned(TinyNetwork(), "head", window=0.2)(training=None).fit(clips(1.0)).encoder_
    silent_then_loud = np.concatenate([np.zeros(RATE, "f4"), np.ones(RATE, "f4") / 2])
    items = AudioEmbedder(sampling_rate=RATE)._check_rows([silent_then_loud]).items
    parts = encoder.views(items * 30, range(30))
    assert max(len(part.values) for part in parts) <= 0.2 / 0.9 * RATE + 1
    is_loud = [float(part.values.abs().mean()) > 0.1 for part in parts]
    assert 5 < sum(is_loud) < 25


def test_rows_whose_views_fail_are_named():
    def preprocess(samples):
        if len(samples) < 0.29 * RATE:
            raise ValueError("too short for me")
        return samples

    make = tuned(TinyNetwork(), "full", preprocess=preprocess)
    with pytest.raises(InvalidRowsError, match=r"rows? 3.*too short for me"):
        make(augment=True, n_epochs=9).fit(clips(*SECONDS), Y)
