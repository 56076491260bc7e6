"""Audio models of transformers against their own feature extractor and forward pass."""

import functools

import numpy as np
import pytest
import torch
import transformers as tf

from skembed.exceptions import InvalidParameterError, InvalidRowsError
from tests.audio.checkpoints import (
    FAMILIES,
    clips,
    embed,
    sounds,
    write_checkpoint,
)

WAVES = (
    *("wav2vec2", "wav2vec2-stable", "wav2vec2-ctc", "hubert", "wavlm", "data2vec-audio"),
    *("unispeech-sat", "sew", "wav2vec2-conformer"),
)
WHISPER = ("whisper", "whisper-generation")
ENDS = ("wav2vec2", "wav2vec2-stable", "wavlm", "sew", "wav2vec2-conformer", "whisper", "ast")
CLAP = ("clap", "clap-fused", "clap-audio")
AST = ("ast", "ast-classes")

# Kernels of 10, 8 and 4 at steps of 5, 8 and 8; SEW makes one frame of two.
LEAST = 10 + 5 * (7 + 8 * 3)
LEAST_OF_SEW = LEAST + 5 * 8 * 8


def random_states():
    """Return NumPy's and torch's global random states, in a form that can be compared."""
    _, words, *others = np.random.get_state()  # noqa: NPY002
    return words.tolist(), others, torch.get_rng_state().tolist()


def part_of(model):
    """Return what hears, of a whole model of transformers."""
    for name in ("wav2vec2", "audio_spectrogram_transformer"):
        if hasattr(model, name):
            return getattr(model, name)
    return model.get_encoder() if "Whisper" in type(model).__name__ else model


def references(folder, rows, *, all_states=False):
    """Return what the model of transformers gives for each clip alone."""
    return run_reference(folder, tuple(row.tobytes() for row in rows), all_states)


@functools.cache
def run_reference(folder, rows, all_states):
    model = part_of(FAMILIES[folder.name][0].from_pretrained(folder).eval())
    extractor = tf.AutoFeatureExtractor.from_pretrained(folder)
    found = []
    for row in (np.frombuffer(each, np.float32).copy() for each in rows):
        inputs = extractor(row, sampling_rate=extractor.sampling_rate, return_tensors="pt")
        name = next(each for each in ("input_values", "input_features") if each in inputs)
        # Of one clip, CLAP's extractor says always that it is longer than the model takes.
        more = {"is_longer": torch.zeros(1, 1, dtype=bool)} if "is_longer" in inputs else {}
        run = model.get_audio_features if isinstance(model, tf.ClapModel) else model
        with torch.inference_mode():
            found.append(run(inputs[name].float(), output_hidden_states=all_states, **more))
    return found


def states_of(folder, rows, layer):
    """Return a hidden state of each clip alone, (frames, d)."""
    outputs = references(folder, rows, all_states=True)
    states = [each.hidden_states[layer][0] for each in outputs]
    return [each.flatten(1).T if each.ndim == 3 else each for each in states]


def n_own_frames(row):
    """Return how many of Whisper's frames are the clip's: one each 20 ms, begun ones too."""
    return int(np.ceil(len(row) / 320))


def own_frames(folder, rows):
    """Return the last frames of each clip alone, without padding and tokens."""
    frames = [each.last_hidden_state[0] for each in references(folder, rows)]
    if folder.name in WHISPER:
        return [each[: n_own_frames(row)] for each, row in zip(frames, rows, strict=True)]
    if folder.name in AST:
        return [own_patches(folder, each, row) for each, row in zip(frames, rows, strict=True)]
    return frames


def own_patches(folder, states, row):
    """Return AST's states of patches that begin before the clip ends: 10 frames of 10 ms each."""
    config = tf.ASTConfig.from_pretrained(folder)
    n_mels = (config.num_mel_bins - 16) // 10 + 1
    patches = states[2:].unflatten(0, (n_mels, -1))
    starts = 10 * np.arange(patches.shape[1])
    n_frames = sum(start + 400 <= len(row) for start in range(0, len(row), 160))
    return patches[:, starts < n_frames].flatten(0, 1)


def own_vector(family, output):
    """Return the vector that a model has for a clip."""
    if family == "clap-audio":
        return output.audio_embeds[0]
    return output.pooler_output[0]


def assert_close(found, expected):
    expected = np.stack([np.asarray(each) for each in expected])
    scale = np.abs(expected).max()
    # Or a wrong model would do as well, where all clips give one vector.
    for i in range(1, len(expected)):
        assert np.abs(expected[0] - expected[i]).mean() > 0.02 * np.abs(expected).mean()
    assert 0.05 < scale < 100  # the difference allowed below is a share of the largest value
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=1e-5)


def test_a_checkpoint_of_every_kind_is_compared():
    assert set(FAMILIES) == {*WAVES, *WHISPER, *CLAP, *AST}


@pytest.mark.parametrize("family", [*WAVES, *WHISPER])
def test_a_vector_is_the_mean_of_the_clips_own_frames(family, folders):
    folder = folders(family)
    rows = sounds(folder)
    assert_close(embed(folder, rows), [each.mean(0) for each in own_frames(folder, rows)])


@pytest.mark.parametrize("family", [*CLAP, *AST])
def test_models_with_a_vector_of_their_own_give_it(family, folders):
    folder = folders(family)
    rows = sounds(folder)
    expected = [own_vector(family, each) for each in references(folder, rows)]
    assert_close(embed(folder, rows), expected)


@pytest.mark.parametrize("family", ["clap", "clap-fused"])
def test_claps_vectors_are_those_of_its_audio_part_alone(family, folders):
    folder = folders(family)
    rows = sounds(folder)
    model = tf.ClapAudioModelWithProjection.from_pretrained(folder).eval()
    extractor = tf.AutoFeatureExtractor.from_pretrained(folder)
    expected = []
    for row in rows:
        values = extractor(row, sampling_rate=48_000, return_tensors="pt")["input_features"]
        with torch.inference_mode():
            out = model(values.float(), is_longer=torch.zeros(1, 1, dtype=bool))
        expected.append(out.audio_embeds[0])
    assert_close(embed(folder, rows, normalize=False), expected)


POOLINGS = {
    "mean": lambda frames: frames.mean(0),
    "std": lambda frames: frames.std(0, correction=0),
    "mean+std": lambda frames: torch.cat([frames.mean(0), frames.std(0, correction=0)]),
    "max": lambda frames: frames.amax(0),
    "cls": lambda frames: frames[0],
}


@pytest.mark.parametrize(
    ("family", "pooling"),
    [(family, pooling) for family in ("wav2vec2", "sew") for pooling in POOLINGS]
    + [("whisper", "mean+std"), ("whisper", "max")],
)
def test_frames_are_pooled_as_asked(family, pooling, folders):
    folder = folders(family)
    rows = sounds(folder)
    expected = [POOLINGS[pooling](each) for each in own_frames(folder, rows)]
    assert_close(embed(folder, rows, pooling=pooling), expected)


def test_of_ast_tokens_are_no_frames_and_first_is_the_class_token(folders):
    folder = folders("ast")
    rows = sounds(folder)[:2]
    states = [each.last_hidden_state[0] for each in references(folder, rows)]
    assert_close(embed(folder, rows, pooling="cls"), [each[0] for each in states])
    own = [own_patches(folder, each, row) for each, row in zip(states, rows, strict=True)]
    assert len(own[0]) < len(own[1]) < len(states[1]) - 2
    assert_close(embed(folder, rows, pooling="mean"), [each.mean(0) for each in own])
    std = [each.std(0, correction=0) for each in own]
    assert_close(embed(folder, rows, pooling="std"), std)


@pytest.mark.parametrize("family", ["clap", "clap-fused"])
def test_of_clap_the_last_map_can_be_pooled(family, folders):
    folder = folders(family)
    rows = sounds(folder)[:2]
    model = tf.ClapModel.from_pretrained(folder).eval().audio_model
    extractor = tf.AutoFeatureExtractor.from_pretrained(folder)
    maps = []
    for row in rows:
        values = extractor(row, sampling_rate=48_000, return_tensors="pt")["input_features"]
        with torch.inference_mode():
            out = model(values.float(), is_longer=torch.zeros(1, 1, dtype=bool))
        maps.append(out.last_hidden_state[0])
    assert_close(embed(folder, rows, pooling="mean"), [each.mean((1, 2)) for each in maps])
    assert_close(embed(folder, rows, pooling="max"), [each.amax((1, 2)) for each in maps])


@pytest.mark.parametrize(
    ("family", "layer"),
    [(family, 1) for family in (*WAVES, "whisper", "ast")]
    + [(family, layer) for family in ENDS for layer in (0, -1)],
)
def test_a_layers_frames_are_those_of_the_whole_pass(family, layer, folders):
    folder = folders(family)
    rows = sounds(folder)[:3]
    states = states_of(folder, rows, layer)
    if family == "whisper":
        states = [each[: n_own_frames(row)] for each, row in zip(states, rows, strict=True)]
    if family == "ast":
        states = [own_patches(folder, *each) for each in zip(states, rows, strict=True)]
    assert_close(embed(folder, rows, layer=layer), [each.mean(0) for each in states])


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_claps_maps_are_pooled_as_frames(layer, folders):
    folder = folders("clap-audio")
    rows = sounds(folder)[:2]
    expected = [each.mean(0) for each in states_of(folder, rows, layer)]
    assert_close(embed(folder, rows, layer=layer), expected)


def test_whispers_dither_is_left_out(tmp_path, folders):
    folder = write_checkpoint(tmp_path / "whisper", "whisper")
    tf.WhisperFeatureExtractor(dither=0.05).save_pretrained(folder)
    rows = sounds(folder)
    np.testing.assert_array_equal(embed(folder, rows), embed(folder, rows))
    np.testing.assert_array_equal(embed(folder, rows), embed(folders("whisper"), rows))


@pytest.mark.parametrize("family", [*WAVES, "whisper", "clap-fused", "ast"])
def test_clips_of_mixed_lengths_give_what_each_gives_alone(family, folders):
    folder = folders(family)
    rows = sounds(folder)
    alone = np.concatenate([embed(folder, [row]) for row in rows])
    together = embed(folder, rows[::-1], batch_size=8)[::-1]
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5 * np.abs(alone).max())


@pytest.mark.parametrize("family", ["clap", "clap-fused"])
def test_a_long_clip_is_the_mean_of_windows_that_end_with_it(family, folders):
    folder = folders(family)
    [row] = clips(25, rate=48_000)
    second = 48_000
    windows = [row[: 10 * second], row[10 * second : 20 * second], row[15 * second :]]
    expected = embed(folder, windows, normalize=False).mean(0)
    before = random_states()
    found = [embed(folder, [row], normalize=False)[0] for _ in range(2)]
    assert random_states() == before
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    apart = embed(folder, windows)
    assert np.abs(apart[0] - apart[2]).max() > 0.02 * np.abs(apart).max()  # the last one matters


def test_windows_and_hops_of_ones_own_are_those_of_slices(folders):
    folder = folders("wavlm")
    [row] = clips(1.3)
    starts = (0, 4_000, 8_000, 12_000, 12_800)
    expected = embed(folder, [row[at : at + 8_000] for at in starts]).mean(0)
    found = embed(folder, [row], window=0.5, hop=0.25)[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    with pytest.raises(InvalidParameterError, match="takes at most 10 s at once"):
        embed(folders("clap"), [row], window=11.0)


@pytest.mark.parametrize("family", ["wav2vec2", "hubert", "wavlm", "sew", "wav2vec2-conformer"])
def test_clips_shorter_than_the_model_takes_are_named(family, folders):
    folder = folders(family)
    good, least = clips(0.5)[0], LEAST_OF_SEW if family == "sew" else LEAST
    with pytest.raises(InvalidRowsError, match=rf"(?s)1 of 3 .*row 2: .*too short.*{family}"):
        embed(folder, [good, good[:least], good[: least - 1]])


@pytest.mark.parametrize("family", ["wav2vec2", "wav2vec2-stable", "wavlm", "sew"])
def test_the_shortest_clip_that_gives_a_frame_is_taken(family, folders):
    folder = folders(family)
    [row] = clips(1.0)
    least = LEAST_OF_SEW if family == "sew" else LEAST
    rows = [row[5_000 : 5_000 + least], row[9_000 : 9_000 + least]]
    frames = own_frames(folder, rows)
    assert {len(each) for each in frames} == {2 if family == "sew" else 1}
    assert_close(embed(folder, rows), [each.mean(0) for each in frames])


@pytest.mark.parametrize("family", ["sew", "wav2vec2-conformer", "whisper", "clap", "ast"])
def test_models_of_stacks_run_in_bfloat16(folders, family):
    rows = sounds(folders(family))
    found = embed(folders(family), rows, dtype="bfloat16", normalize=True)
    expected = embed(folders(family), rows, normalize=True)
    assert (found * expected).sum(1).min() > 0.999
