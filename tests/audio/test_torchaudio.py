"""torchaudio's speech models against their own forward pass, with weights of many kinds."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchaudio import models, pipelines

from skembed import AudioEmbedder, unload_models
from skembed.audio._backbone import AudioSettings
from skembed.audio._backbones import find_backbone
from skembed.audio._torchaudio import bundle_names
from skembed.exceptions import (
    InvalidParameterError,
    InvalidRowsError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from tests.audio.checkpoints import clips, is_parametrized

# Of each architecture: group or layer norm, norms before or after, waveforms standardised or not.
NAMES = ("WAV2VEC2_BASE", "WAV2VEC2_LARGE_LV60K", "HUBERT_BASE", "WAVLM_BASE_PLUS", "WAVLM_LARGE")
LEAST = 10 + 5 * (7 + 8 * 3)
OPTIONS = {"dtype": "float32", "cache": None, "sampling_rate": 16_000}
ROWS = clips(0.7, 1.1, 0.7, 0.4)

SMALL = {
    "extractor_conv_layer_config": [(16, 10, 5), (16, 8, 8), (24, 4, 8)],
    "encoder_embed_dim": 32,
    "encoder_pos_conv_kernel": 16,
    "encoder_pos_conv_groups": 4,
    "encoder_num_layers": 3,
    "encoder_num_heads": 4,
    "encoder_ff_interm_features": 48,
}


@pytest.fixture(autouse=True)
def small_bundles(monkeypatch):
    """Let the bundles be of few and narrow layers."""
    unload_models()  # backbones of the bundles as they are
    for name in NAMES:
        bundle = getattr(pipelines, name)
        monkeypatch.setattr(bundle, "_params", {**bundle._params, **SMALL})


def module_of(name, seed=0, **changes):
    """Return torchaudio's model with weights large enough that sounds matter."""
    bundle = getattr(pipelines, name)
    build = models.wavlm_model if bundle._model_type == "WavLM" else models.wav2vec2_model
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        module = build(**{**bundle._params, **changes}).eval()
        for each in module.modules():
            if isinstance(each, torch.nn.Conv1d) and not is_parametrized(each):
                torch.nn.init.kaiming_normal_(each.weight)
            if isinstance(each, torch.nn.Linear):
                torch.nn.init.normal_(each.weight, std=0.3)
        for parameter in module.parameters():
            if parameter.ndim == 1 or parameter.min() == parameter.max():
                parameter += 0.1 * torch.randn_like(parameter)
    return module


@pytest.fixture
def file_of(tmp_path):
    """Save a model's weights."""

    def save(name, **changes):
        path = tmp_path / f"{name}.pth"
        torch.save(module_of(name, **changes).state_dict(), path)
        return path

    return save


def features_of(name, rows):
    """Return torchaudio's features of each clip alone: one (frames, d) for each layer."""
    module, is_standardized = module_of(name), getattr(pipelines, name)._normalize_waveform
    found = []
    for row in rows:
        waveform = torch.from_numpy(row)
        if is_standardized:  # as its `get_model` does
            waveform = torch.nn.functional.layer_norm(waveform, waveform.shape)
        with torch.inference_mode():
            found.append([each[0] for each in module.extract_features(waveform[None])[0]])
    return found


def embed(name, rows=ROWS, **options):
    return AudioEmbedder(name, **{**OPTIONS, **options}).fit_transform(rows)


def assert_close(found, expected):
    expected = np.stack([np.asarray(each) for each in expected])
    scale = np.abs(expected).max()
    # Or a wrong model would do as well, where all clips give one vector.
    for i in range(1, len(expected)):
        assert np.abs(expected[0] - expected[i]).mean() > 0.02 * np.abs(expected).mean()
    assert 0.05 < scale < 100  # the difference allowed below is a share of the largest value
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_layers_vectors_are_means_of_torchaudios_features(name, file_of):
    weights, expected = file_of(name), features_of(name, ROWS)
    for i in range(3):
        found = embed(name, weights=weights, layer=i + 1)
        assert_close(found, [each[i].mean(0) for each in expected])
    np.testing.assert_array_equal(embed(name, weights=weights, layer=-1), found)
    before = embed(name, weights=weights, layer=-3)
    assert_close(before, [each[0].mean(0) for each in expected])


@pytest.mark.parametrize("name", NAMES)
def test_the_default_is_the_models_own_output(name, file_of):
    weights, expected = file_of(name), []
    module, is_standardized = module_of(name), getattr(pipelines, name)._normalize_waveform
    for row in ROWS:
        waveform = torch.from_numpy(row)
        if is_standardized:
            waveform = torch.nn.functional.layer_norm(waveform, waveform.shape)
        with torch.inference_mode():
            expected.append(module(waveform[None])[0][0].mean(0))
    assert_close(embed(name, weights=weights), expected)


@pytest.mark.parametrize("name", ["WAV2VEC2_BASE", "WAVLM_BASE_PLUS"])
def test_layer_zero_is_what_enters_the_first_layer(name, file_of):
    weights, module, taken = file_of(name), module_of(name), []
    first = module.encoder.transformer.layers[0]
    first.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0][0].mean(0)))
    with torch.inference_mode():
        for row in ROWS:
            module.extract_features(torch.from_numpy(row)[None])
    assert_close(embed(name, weights=weights, layer=0), taken)
    assert_close(embed(name, weights=weights, layer=-4), taken)


@pytest.mark.parametrize("pooling", ["std", "mean+std", "max", "cls"])
def test_frames_are_pooled_as_asked(pooling, file_of):
    frames = [each[-1] for each in features_of("WAVLM_BASE_PLUS", ROWS)]
    pool = {
        "std": lambda x: x.std(0, correction=0),
        "mean+std": lambda x: torch.cat([x.mean(0), x.std(0, correction=0)]),
        "max": lambda x: x.amax(0),
        "cls": lambda x: x[0],
    }[pooling]
    weights = file_of("WAVLM_BASE_PLUS")
    found = embed("WAVLM_BASE_PLUS", weights=weights, pooling=pooling, layer=-1)
    assert_close(found, [pool(each) for each in frames])


@pytest.mark.parametrize("name", NAMES)
def test_clips_of_mixed_lengths_give_what_each_gives_alone(name, file_of):
    weights = file_of(name)
    alone = np.concatenate([embed(name, [row], weights=weights) for row in ROWS])
    together = embed(name, ROWS[::-1], weights=weights, batch_size=8)[::-1]
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5 * np.abs(alone).max())


def test_every_bundle_of_speech_models_is_known_with_its_width():
    bundles = {
        name
        for name in pipelines.__all__
        if isinstance(getattr(pipelines, name), pipelines.Wav2Vec2Bundle)
    }
    assert set(bundle_names()) == bundles
    assert len(bundles) == len(bundle_names()) >= 30
    for name in bundle_names():
        backbone = find_backbone(AudioSettings(name, weights=None))
        params = getattr(pipelines, name)._params
        assert (backbone.rate, backbone.width) == (16_000, params["encoder_embed_dim"])
        assert backbone.least == (LEAST if name in NAMES else 400)


def test_an_unknown_name_is_told_the_close_ones():
    with pytest.raises(InvalidParameterError, match=r"Did you mean .*'WAV2VEC2_BASE'"):
        AudioEmbedder("wav2vec2_base").fit([])
    with pytest.raises(InvalidParameterError, match=r"See skembed.list_models"):
        AudioEmbedder("zzz").fit([])


@pytest.mark.parametrize("name", NAMES)
def test_random_weights_are_always_the_same(name):
    torch.manual_seed(1)
    first = embed(name, weights=None)
    unload_models()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    np.testing.assert_array_equal(embed(name, weights=None), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.isfinite(first).all()
    assert np.abs(first[0] - first[1]).max() > 1e-3


def test_random_weights_are_the_same_in_another_process(tmp_path):
    names = ("WAVLM_LARGE", "deepspeech")  # in one process, which takes seconds to start
    np.save(tmp_path / "row.npy", ROWS[3])
    script = f"""
import numpy as np, torch
from torchaudio import pipelines
from skembed import AudioEmbedder
bundle = pipelines.WAVLM_LARGE
bundle._params = {{**bundle._params, **{SMALL!r}}}
torch.manual_seed(5)
row = np.load({str(tmp_path / "row.npy")!r})
for name in {names!r}:
    vectors = AudioEmbedder(name, weights=None, **{OPTIONS!r}).fit_transform([row])
    np.save({str(tmp_path)!r} + "/" + name + ".npy", vectors)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    for name in names:
        expected = embed(name, ROWS[3:], weights=None)
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), expected)


def test_weights_of_safetensors_and_with_a_head_do_as_well(tmp_path, file_of):
    expected = embed("WAV2VEC2_BASE", weights=file_of("WAV2VEC2_BASE"))
    module = module_of("WAV2VEC2_BASE")
    save_file(module.state_dict(), tmp_path / "weights.safetensors")
    found = embed("WAV2VEC2_BASE", weights=str(tmp_path / "weights.safetensors"))
    np.testing.assert_array_equal(found, expected)
    head = {"aux.weight": torch.ones(29, 32), "aux.bias": torch.ones(29)}
    torch.save({**module.state_dict(), **head}, tmp_path / "with_head.pth")
    found = embed("WAV2VEC2_BASE", weights=tmp_path / "with_head.pth")
    np.testing.assert_array_equal(found, expected)


def test_the_names_of_older_releases_and_of_parallel_training_do_as_well(tmp_path, file_of):
    expected = embed("WAVLM_LARGE", weights=file_of("WAVLM_LARGE"))
    state = module_of("WAVLM_LARGE").state_dict()
    olds = ("weight_g", "weight_v")
    for i, old in enumerate(olds):  # as the published files have them
        [new] = [name for name in state if name.endswith(f"parametrizations.weight.original{i}")]
        state[new.replace(f"parametrizations.weight.original{i}", old)] = state.pop(new)
    torch.save(state, tmp_path / "old.pth")
    np.testing.assert_array_equal(embed("WAVLM_LARGE", weights=tmp_path / "old.pth"), expected)
    state = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"state_dict": state}, tmp_path / "parallel.pth")
    found = embed("WAVLM_LARGE", weights=tmp_path / "parallel.pth")
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_weights_of_another_format_are_run_in_float32(dtype, tmp_path, file_of):
    expected = embed("HUBERT_BASE", weights=file_of("HUBERT_BASE"))
    state = {k: v.to(dtype) for k, v in module_of("HUBERT_BASE").state_dict().items()}
    torch.save(state, tmp_path / "weights.pth")
    found = embed("HUBERT_BASE", weights=tmp_path / "weights.pth")
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.02 * np.abs(expected).max())


def test_a_loaded_model_stays_as_it_is_when_its_file_is_overwritten(file_of):
    path = file_of("WAVLM_BASE_PLUS")
    embedder = AudioEmbedder("WAVLM_BASE_PLUS", weights=path, **OPTIONS)
    encoder = embedder.fit(ROWS).encoder_
    parts = [encoder.backbone.prepare(row) for row in ROWS]
    before = encoder.encode(parts).numpy()
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    np.testing.assert_array_equal(encoder.encode(parts).numpy(), before)


def test_weights_that_are_not_there_say_what_was_tried(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name, address in (
        ("WAVLM_LARGE", "https://download.pytorch.org/torchaudio/models/wavlm_large.pth"),
        ("MMS_FA", "https://dl.fbaipublicfiles.com/mms/torchaudio/ctc_alignment_mling_uroman/"),
    ):
        with pytest.raises(ModelNotFoundError, match="offline mode is on") as caught:
            AudioEmbedder(name).fit([])
        assert str(tmp_path) in str(caught.value)
        assert f"download {address}" in str(caught.value)


def test_weights_in_torchs_folder_are_found(monkeypatch, tmp_path, file_of):
    path = file_of("HUBERT_BASE")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    path.rename(folder / "hubert_fairseq_base_ls960.pth")
    expected = [each[-1].mean(0) for each in features_of("HUBERT_BASE", ROWS)]
    assert_close(embed("HUBERT_BASE"), expected)


def test_a_file_that_lacks_weights_is_refused_with_their_names(tmp_path):
    state = module_of("WAV2VEC2_BASE").state_dict()
    lost = "encoder.transformer.layers.1.final_layer_norm.weight"
    torch.save({k: v for k, v in state.items() if k != lost}, tmp_path / "some.pth")
    with pytest.raises(
        UnsupportedModelError,
        match=r"some\.pth does not hold the weights of WAV2VEC2_BASE.*layers\.1\.final.*missing",
    ):
        embed("WAV2VEC2_BASE", weights=tmp_path / "some.pth")


def test_a_file_of_another_model_is_refused(file_of, tmp_path):
    with pytest.raises(UnsupportedModelError, match=r"rel_attn_embed\S* is unknown"):
        embed("WAV2VEC2_BASE", weights=file_of("WAVLM_BASE_PLUS"))
    with pytest.raises(UnsupportedModelError, match=r"has shape \(40,.* where \(48,"):
        embed("HUBERT_BASE", weights=file_of("HUBERT_BASE", encoder_ff_interm_features=40))
    torch.save({"w": torch.ones(2)}, tmp_path / "other.pth")
    with pytest.raises(UnsupportedModelError, match=r"conv\.weight is missing"):
        embed("HUBERT_BASE", weights=tmp_path / "other.pth")


def test_files_that_change_while_in_use_are_refused(file_of):
    path = file_of("WAVLM_BASE_PLUS")
    embedder = AudioEmbedder("WAVLM_BASE_PLUS", weights=path, **OPTIONS).fit(ROWS)
    backbone = embedder.encoder_.backbone
    backbone.source.check_unchanged()
    file_of("WAVLM_BASE_PLUS", seed=1)
    with pytest.raises(UnsupportedModelError, match="changed while the model was in use"):
        backbone.source.check_unchanged()
    found = embedder.transform(ROWS)
    np.testing.assert_array_equal(found, embed("WAVLM_BASE_PLUS", weights=path))


def test_clips_shorter_than_a_frame_are_named(file_of):
    weights, row = file_of("WAVLM_LARGE"), ROWS[0]
    with pytest.raises(InvalidRowsError, match=r"(?s)1 of 2 .*row 1: .*too short.*WAVLM_LARGE"):
        embed("WAVLM_LARGE", [row[:LEAST], row[: LEAST - 1]], weights=weights)
    found = embed("WAVLM_LARGE", [row[:LEAST], row[5_000 : 5_000 + LEAST]], weights=weights)
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"weights": "no/such.pth"},
            r"a file with a state dict for WAVLM_LARGE; 'auto' is its own",
        ),
        ({"layer": 4}, r"layer=4, but WAVLM_LARGE has hidden states 0 .* to 3, or -4 to -1"),
        ({"layer": -5}, r"layer=-5, but WAVLM_LARGE has hidden states"),
        ({"layer": "encoder"}, r"layer='encoder', but WAVLM_LARGE has hidden states"),
        ({"revision": "main"}, r"revision='main': only models on the hub"),
        ({"model_sampling_rate": 8_000}, r"model_sampling_rate=8000, but .* takes 16,000 Hz"),
        ({"preprocess": abs}, r"preprocess is for your own torch.nn.Module"),
    ],
)
def test_what_a_model_does_not_have_is_refused(params, message):
    embedder = AudioEmbedder("WAVLM_LARGE", **{"weights": None, "cache": None, **params})
    with pytest.raises(InvalidParameterError, match=message):
        embedder.fit([])


def test_digests_tell_settings_and_weights_apart(file_of):
    def digest(name="WAVLM_LARGE", **settings):
        settings = {"weights": None, **settings}
        return find_backbone(AudioSettings(name, **settings)).digest

    made = [digest(), digest("HUBERT_BASE"), digest(layer=1), digest(pooling="max")]
    made.append(digest(weights=file_of("WAVLM_LARGE")))
    assert len(set(made)) == len(made)
    assert digest() == made[0]
    assert digest(layer=-3) == made[2]
