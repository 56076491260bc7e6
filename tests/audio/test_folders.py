"""Folders of audio models: what they may lack, what is refused, files that change, other names."""

import json

import numpy as np
import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

from skembed import AudioEmbedder, unload_models
from skembed.exceptions import InvalidParameterError, ModelWarning, UnsupportedModelError
from tests.audio.checkpoints import (
    FAMILIES,
    TOWER,
    clips,
    embed,
    rate_of,
    sounds,
    stir,
    write_checkpoint,
)
from tests.audio.test_transformers import assert_close, random_states


def test_a_ctc_checkpoint_needs_no_mask_vector_and_no_head(tmp_path, folders):
    rows = clips(0.5, 0.7)
    whole = folders("wav2vec2-ctc")
    folder = without(tmp_path, "wav2vec2-ctc", "masked_spec_embed", "lm_head.")
    np.testing.assert_array_equal(embed(folder, rows), embed(whole, rows))


def test_whisper_and_clap_need_no_other_half(tmp_path, folders):
    for family, lost in (("whisper-generation", "decoder."), ("clap", "text_model.")):
        folder = without(tmp_path, family, lost)
        rows = clips(0.5, 0.7, rate=rate_of(folder))
        np.testing.assert_array_equal(embed(folder, rows), embed(folders(family), rows))


@pytest.mark.parametrize(
    ("family", "lost", "shown"),
    [
        ("wav2vec2", "encoder.layers.1.feed_forward.", "feed_forward"),
        ("whisper", "encoder.layers.1.fc1.", "fc1"),
        ("clap", "audio_projection.", "audio_projection"),
        ("ast", "layernorm.", "layernorm"),
    ],
)
def test_a_missing_weight_that_is_run_is_refused(family, lost, shown, tmp_path):
    folder = without(tmp_path, family, lost)
    with pytest.raises(UnsupportedModelError, match=rf"lacks \d+ weights .*{shown}"):
        embed(folder, clips(0.5, rate=rate_of(folder)))


def without(folder, family, *lost):
    """Write a checkpoint and take weights out of it."""
    folder = write_checkpoint(folder / family, family)
    state = load_file(folder / "model.safetensors")
    kept = {k: v for k, v in state.items() if not any(f".{name}" in f".{k}" for name in lost)}
    assert len(kept) < len(state)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_model_of_texts_is_refused(tmp_path):
    config = tf.BertConfig(**TOWER, vocab_size=16)
    tf.BertModel(config).save_pretrained(tmp_path)
    tf.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"model of type 'bert'; AudioEmbedder reads"):
        AudioEmbedder(tmp_path).fit([])


def test_a_folder_that_does_not_say_how_clips_are_prepared_is_refused(tmp_path):
    folder = write_checkpoint(tmp_path, "wav2vec2")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(UnsupportedModelError, match=r"no preprocessor_config.json. Save"):
        AudioEmbedder(folder).fit([])


def test_an_extractor_nested_in_processor_config_is_read(tmp_path, folders):
    folder = write_checkpoint(tmp_path, "hubert")
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    nested = {"feature_extractor": settings, "processor_class": "Wav2Vec2Processor"}
    (folder / "processor_config.json").write_text(json.dumps(nested))
    rows = clips(0.5, 0.7)
    options = {"dtype": "float32", "cache": None, "sampling_rate": 16_000}
    found = AudioEmbedder(folder, **options).fit_transform(rows)
    np.testing.assert_array_equal(found, embed(folders("hubert"), rows))


@pytest.mark.parametrize("weights", [None, "weights.pt"])
def test_weights_of_another_place_are_refused(weights, folders):
    with pytest.raises(InvalidParameterError, match=r"has its own\. Leave weights='auto'"):
        AudioEmbedder(folders("wav2vec2"), weights=weights).fit([])


@pytest.mark.parametrize(
    ("family", "layer", "message"),
    [
        ("wav2vec2", 4, r"layer=4, but .* hidden states 0 .* to 3, or -4 to -1"),
        ("wavlm", -5, r"layer=-5, but .* hidden states 0 .* to 3, or -4 to -1"),
        ("wavlm", "encoder", r"layer='encoder': expected the number of a hidden state"),
        ("sew", 4, r"layer=4, .* hidden states -4 to 3"),
        ("whisper", 3, r"layer=3, .* hidden states -3 to 2"),
        ("clap", "layers.0", r"layer='layers.0': expected the number of a hidden state"),
        ("ast", True, r"layer=True: expected the name"),
    ],
)
def test_layers_that_are_not_there_are_refused(family, layer, message, folders):
    with pytest.raises(InvalidParameterError, match=message):
        AudioEmbedder(folders(family), layer=layer).fit([])


def test_an_adapter_after_the_last_layer_is_refused(tmp_path):
    folder = write_checkpoint(tmp_path, "wav2vec2", add_adapter=True)
    with pytest.raises(UnsupportedModelError, match="adapter after its last layer"):
        embed(folder, clips(0.5))


@pytest.mark.parametrize("family", ["wav2vec2", "whisper"])
def test_files_that_change_after_fit_are_never_mixed_with_those_before(family, tmp_path):
    folder = write_checkpoint(tmp_path / "model", family)
    other = write_checkpoint(tmp_path / "other", family, seed=1)
    rows = clips(0.5, 0.7)
    embedder = AudioEmbedder(folder, dtype="float32", cache=None, sampling_rate=16_000).fit(rows)
    encoder = embedder.encoder_
    write_checkpoint(folder, family, seed=1)
    with pytest.raises(UnsupportedModelError, match="changed while the model was in use"):
        encoder.backbone.source.check_unchanged()
    np.testing.assert_array_equal(embedder.transform(rows), embed(other, rows))


@pytest.mark.parametrize("family", ["wavlm", "clap", "clap-fused", "ast"])
def test_the_global_random_states_are_left_alone(family, folders):
    rows = clips(0.5, rate=rate_of(folders(family)))
    before = random_states()
    unload_models()
    embed(folders(family), rows, layer=1, pooling="cls")
    assert random_states() == before


def test_digests_tell_settings_and_files_apart(folders):
    def digest(family, **settings):
        options = {"dtype": "float32", "sampling_rate": 16_000, **settings}
        return AudioEmbedder(folders(family), **options).fit([]).encoder_.digest

    made = [digest("wavlm", **settings) for settings in ({}, {"pooling": "std"}, {"layer": 1})]
    made.append(digest("wav2vec2"))
    assert len(set(made)) == len(made)
    assert digest("wavlm") == made[0]


def rewritten(folder, rename, *, is_pickled=False):
    """Write the weights of a checkpoint by other names, or as older releases did."""
    path = folder / "model.safetensors"
    state = {rename(name): tensor for name, tensor in load_file(path).items()}
    if is_pickled:
        path.unlink()
        torch.save(state, folder / "pytorch_model.bin")
    else:
        save_file(state, path, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("is_pickled", [False, True])
@pytest.mark.parametrize("family", ["wav2vec2-ctc", "sew"])
def test_older_checkpoints_name_weight_norms_otherwise(family, is_pickled, tmp_path, folders):
    def rename(name):
        name = name.replace("parametrizations.weight.original0", "weight_g")
        return name.replace("parametrizations.weight.original1", "weight_v")

    folder = write_checkpoint(tmp_path, family)
    assert any(rename(name) != name for name in load_file(folder / "model.safetensors"))
    rewritten(folder, rename, is_pickled=is_pickled)
    rows = sounds(folder)[:2]
    np.testing.assert_array_equal(embed(folder, rows), embed(folders(family), rows))


def test_a_checkpoint_of_pretraining_needs_none_of_its_heads(tmp_path):
    _, config_class, settings, extractor_class, options = FAMILIES["wav2vec2"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = tf.Wav2Vec2ForPreTraining(config_class(**settings)).eval()
        stir(model)
    model.save_pretrained(tmp_path)
    extractor_class(**options).save_pretrained(tmp_path)
    rows = sounds(tmp_path)
    with torch.inference_mode():
        states = [model.wav2vec2(torch.from_numpy(row)[None])[0][0] for row in rows]
    assert_close(embed(tmp_path, rows), [each.mean(0) for each in states])


def test_what_happens_to_a_head_of_x_vectors_is_said(tmp_path, monkeypatch):
    _, _, settings, *extractor = FAMILIES["hubert"]
    dims = {"tdnn_dim": (8, 8, 16), "tdnn_kernel": (5, 3, 1), "tdnn_dilation": (1, 2, 1)}
    settings = {**settings, **dims, "xvector_output_dim": 12}
    family = tf.WavLMForXVector, tf.WavLMConfig, settings, *extractor
    monkeypatch.setitem(FAMILIES, "wavlm-speakers", family)
    folder = write_checkpoint(tmp_path, "wavlm-speakers")
    rows = sounds(folder)
    with pytest.warns(ModelWarning, match=r"WavLMForXVector.*below its x-vector head") as caught:
        assert embed(folder, rows).shape == (len(rows), 32)
    assert "preprocess=lambda x: (x - x.mean()) / x.std()" in str(caught[0].message)
    # What the message says to do for them.
    whole = tf.WavLMForXVector.from_pretrained(folder).eval()
    found = AudioEmbedder(
        whole, preprocess=lambda x: (x - x.mean()) / x.std(), sampling_rate=16_000, cache=None
    ).fit_transform(rows)
    prepare = tf.AutoFeatureExtractor.from_pretrained(folder)
    for row, vector in zip(rows, found, strict=True):
        values = prepare(row, sampling_rate=16_000, return_tensors="pt").input_values
        with torch.inference_mode():
            expected = whole(values).embeddings[0].numpy()
        np.testing.assert_allclose(vector, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("layer", [None, 1])
@pytest.mark.parametrize(
    ("family", "change", "made"),
    [
        ("ast", {"num_mel_bins": 64}, r"\(256, 64\)"),
        ("ast", {"max_length": 512}, r"\(512, 128\)"),
        ("whisper", {"feature_size": 128}, r"\(128, 3000\)"),
    ],
)
def test_a_checkpoint_whose_parts_disagree_is_named(tmp_path, family, change, made, layer):
    folder = write_checkpoint(tmp_path, family)
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(UnsupportedModelError, match=rf"parts of this checkpoint disagree.*{made}"):
        AudioEmbedder(folder, layer=layer).fit([])
