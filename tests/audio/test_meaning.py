"""Real voices through AudioEmbedder with a real speaker encoder, and damaged files."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from skembed import AudioEmbedder
from skembed.exceptions import InvalidRowsError
from tests.audio.speaker_encoder import mels_of, speaker_encoder
from tests.audio.test_fuzz import mutants
from tests.materials import material, spoken_prompts

N_CLIPS = 12


@pytest.fixture(scope="module")
def prompts():
    """Return paths of prompts of three voices, each at least two seconds, and whose they are."""
    paths, voices = [], []
    for voice in ("en", "fr", "it"):
        files = sorted(Path(spoken_prompts(voice)).glob("*.wav"))
        files = [path for path in files if 32_000 < path.stat().st_size < 100_000]
        paths += files[:: len(files) // N_CLIPS][:N_CLIPS]
        voices += [voice] * N_CLIPS
    assert len(paths) == 3 * N_CLIPS
    return paths, np.array(voices)


def embedder(**params):
    encoder = speaker_encoder(material("resemblyzer"))
    return AudioEmbedder(
        encoder, preprocess=mels_of, window=1.6, hop=0.8, normalize=True, cache=None, **params
    )


def nearest_share(vectors, voices):
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    return (voices[similarity.argmax(1)] == voices).mean()


def test_clips_of_one_voice_are_closer_than_those_of_others(prompts):
    paths, voices = prompts
    vectors = embedder().fit_transform(paths)
    assert vectors.shape == (len(paths), 256)
    similarity = vectors @ vectors.T
    is_same = voices[:, None] == voices[None]
    is_other_clip = ~np.eye(len(paths), dtype=bool)
    within = similarity[is_same & is_other_clip].mean()
    across = similarity[~is_same].mean()
    assert within > across + 0.1
    assert nearest_share(vectors, voices) >= 0.97
    # Every clip, not only their mean: its own voice is the nearest on average.
    of_voices = np.stack([similarity[:, voices == v].mean(1) for v in ("en", "fr", "it")], 1)
    assert (np.array(["en", "fr", "it"])[of_voices.argmax(1)] == voices).all()


def test_random_weights_tell_voices_apart_less(prompts):
    paths, voices = prompts
    encoder = speaker_encoder(material("resemblyzer"))
    for parameter in encoder.parameters():
        # The same numbers at other places.
        flat = parameter.data.view(-1)
        parameter.data = flat[np.random.default_rng(0).permutation(len(flat))].view_as(parameter)
    vectors = AudioEmbedder(
        encoder, preprocess=mels_of, window=1.6, hop=0.8, normalize=True, cache=None
    ).transform(paths)
    assert nearest_share(vectors, voices) < 0.9


@pytest.mark.parametrize("kind", ["wav", "flac", "vorbis", "mp3"])
def test_every_damaged_file_is_embedded_or_named(kind):
    rows = [*mutants(kind)]
    logmel = AudioEmbedder("logmel", on_error="nan", cache=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vectors = logmel.transform(rows)
    faults = logmel.report_.faults
    is_nan = np.isnan(vectors).all(1)
    assert np.isfinite(vectors[~is_nan]).all()
    assert np.flatnonzero(is_nan).tolist() == sorted(faults)
    assert all(faults.values())
    assert 0.1 * len(rows) < is_nan.sum() < len(rows)
    with pytest.raises(InvalidRowsError, match="rows cannot be embedded") as error:
        logmel.set_params(on_error="raise").transform(rows)
    assert set(error.value.faults) <= set(faults)
