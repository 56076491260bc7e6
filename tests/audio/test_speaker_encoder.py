"""Real weights in a module of one's own tell voices apart.

The module and its mels are held against float64 NumPy; what they mean, against three voices.
"""

import math
import pickle
import wave

import numpy as np
import pytest
import torch
from torchaudio.functional import resample

from tests.audio import reference
from tests.audio.speaker_encoder import mels_of, raise_level, speaker_encoder
from tests.materials import VOICES, material, spoken_prompts

RATE = 16_000
WINDOW, HOP = round(1.6 * RATE), round(0.8 * RATE)
N_CLIPS = 20


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    # Where other programs are busy, threads wait for each other at every short step: on 2 cores
    # beside two of them the tests of audio took 214 s with two threads and 16 s with one.
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def network():
    return speaker_encoder(material("resemblyzer"))


def read(path):
    """Return a prompt as float32 at 16 kHz."""
    with wave.open(str(path)) as file:
        rate, content = file.getframerate(), file.readframes(file.getnframes())
    samples = np.frombuffer(content, "<i2").astype(np.float32) / 32768
    return resample(torch.from_numpy(samples), rate, RATE)


def sentences(language):
    """Return some prompts of 2.4 to 6 s (at 8 kHz, 2 bytes a sample), from all of the alphabet."""
    paths = sorted(spoken_prompts(language).glob("*.wav"))
    paths = [path for path in paths if 2.4 <= path.stat().st_size / 16_000 <= 6]
    return [read(path) for path in paths[:: len(paths) // N_CLIPS][:N_CLIPS]]


@pytest.fixture(scope="module")
def speech():
    return sentences("en")[3]


def embed_windows(network, waveform):
    """Return the vectors of windows of 1.6 s, one every 0.8 s."""
    windows = waveform.unfold(0, WINDOW, HOP)
    with torch.inference_mode():
        return network(torch.stack([mels_of(each) for each in windows]))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def run_lstm(state, frames, n_layers=3):
    """Return the last output of the last layer (Hochreiter and Schmidhuber, with forget gates)."""
    for layer in range(n_layers):
        names = [f"lstm.{kind}_l{layer}" for kind in ("weight_ih", "weight_hh")]
        from_input, from_output = (state[name] for name in names)
        bias = state[f"lstm.bias_ih_l{layer}"] + state[f"lstm.bias_hh_l{layer}"]
        cell = output = np.zeros(256)
        outputs = []
        for frame in frames:
            gates = from_input @ frame + from_output @ output + bias
            enter, forget, candidate, leave = gates.reshape(4, 256)
            cell = sigmoid(forget) * cell + sigmoid(enter) * np.tanh(candidate)
            output = sigmoid(leave) * np.tanh(cell)
            outputs.append(output)
        frames = outputs
    return frames[-1]


def test_vectors_are_those_of_the_published_arithmetic(network, speech):
    path = material("resemblyzer") / "pretrained.pt"
    state = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    state = {name: value.double().numpy() for name, value in state.items()}
    mels = torch.stack([mels_of(speech[:WINDOW]), mels_of(speech[HOP : HOP + WINDOW])])
    with torch.inference_mode():
        found = network(mels).numpy()
    for vector, frames in zip(found, mels.double().numpy(), strict=True):
        hidden = run_lstm(state, frames)
        expected = np.maximum(state["linear.weight"] @ hidden + state["linear.bias"], 0)
        expected /= np.sqrt((expected**2).sum())
        np.testing.assert_allclose(vector, expected, atol=1e-5)


@pytest.mark.parametrize("n_samples", [1, 300, 400, 8000])
def test_mels_are_those_of_the_formulae(n_samples, speech):
    waveform = speech[4000 : 4000 + n_samples]
    loud = raise_level(waveform).numpy()
    expected = reference.power_mel(loud, RATE, 400, 160, 400, 40, "slaney", "slaney")
    found = mels_of(waveform).numpy()
    assert found.shape == (1 + n_samples // 160, 40)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6 * expected.max())


def decibels(waveform):
    return 10 * math.log10(waveform.double().square().mean())


def test_a_soft_clip_is_raised_to_minus_30_decibels_and_a_loud_one_stays(speech):
    assert decibels(speech) > -30
    assert torch.equal(raise_level(speech), speech)
    soft = speech / 100
    assert decibels(soft) < -40
    assert decibels(raise_level(soft)) == pytest.approx(-30, abs=1e-4)
    torch.testing.assert_close(mels_of(soft), mels_of(speech / 50), rtol=1e-4, atol=1e-6)


def test_silence_has_a_vector(network):
    mels = mels_of(torch.zeros(WINDOW))
    assert not mels.any()
    with torch.inference_mode():
        assert network(mels[None]).isfinite().all()


def test_windows_and_whole_utterances_cut_into_frames_have_nearly_the_same_vectors(network, speech):
    # Resemblyzer cuts the frames of a whole utterance, so that windows have no edges.
    mels = mels_of(speech)
    with torch.inference_mode():
        cut = network(mels.unfold(0, 160, 80).mT)
    windows = embed_windows(network, speech)
    assert len(cut) == len(windows)
    assert torch.cosine_similarity(cut.mean(0), windows.mean(0), dim=0) > 0.99


@pytest.fixture(scope="module")
def voices(network):
    """Return the vectors of windows, and of each its voice and its clip."""
    vectors, languages, clips = [], [], []
    for language in VOICES:
        for number, waveform in enumerate(sentences(language)):
            found = embed_windows(network, waveform)
            vectors.append(found)
            languages += [language] * len(found)
            clips += [f"{language} {number}"] * len(found)
    return torch.cat(vectors).numpy(), np.array(languages), np.array(clips)


def test_vectors_have_unit_length_and_no_negative_component(voices):
    vectors = voices[0]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors.min() == 0


def test_windows_of_one_voice_are_closer_than_those_of_two(voices):
    # Measured: 0.74 to 0.78 within a voice, 0.66 between the women, 0.55 between them and the man.
    vectors, languages, clips = voices
    cosines = vectors @ vectors.T
    is_other_clip = clips[:, None] != clips
    means = {
        (a, b): cosines[(languages == a)[:, None] & (languages == b) & is_other_clip].mean()
        for a in VOICES
        for b in VOICES
    }
    for a in VOICES:
        for b in VOICES:
            assert a == b or means[a, a] > means[a, b] + 0.05


def test_the_nearest_window_of_another_clip_is_of_the_same_voice(voices):
    # Measured: all of 199; 95 % by the mean MFCC of a window, 45 % with random weights.
    vectors, languages, clips = voices
    cosines = np.where(clips[:, None] != clips, vectors @ vectors.T, -1)
    is_same = languages[cosines.argmax(1)] == languages
    assert is_same.mean() > 0.98


class Code:
    def __reduce__(self):
        return print, ("this ran",)


def test_a_file_of_weights_that_would_run_code_is_refused(tmp_path, capsys):
    torch.save({"model_state": Code()}, tmp_path / "pretrained.pt")
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        speaker_encoder(tmp_path)
    assert "this ran" not in capsys.readouterr().out
