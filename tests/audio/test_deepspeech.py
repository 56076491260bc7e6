"""DeepSpeech against torchaudio's own forward pass, watched at its hidden layers."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchaudio.models import DeepSpeech

from skembed import AudioEmbedder, unload_models
from skembed.audio._backbone import AudioSettings
from skembed.audio._backbones import find_backbone
from skembed.audio._spectra import LogMel
from skembed.exceptions import InvalidParameterError, InvalidRowsError, UnsupportedModelError
from tests.audio.checkpoints import clips

SIZES = {"n_feature": 26, "n_hidden": 24, "n_class": 7}
OPTIONS = {"dtype": "float32", "cache": None, "sampling_rate": 16_000}
ROWS = clips(0.7, 1.1, 0.7, 0.4)
NAMES = ("fc1", "fc2", "fc3", "bi_rnn", "fc4")


def module_of(seed=0, **changes):
    """Return torchaudio's model with weights large enough that sounds and neighbours matter."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        module = DeepSpeech(**{**SIZES, **changes}).eval()
        for name, parameter in module.named_parameters():
            if parameter.ndim == 2:
                std = 0.1 if "_hh" in name else 1.5 / parameter.shape[1] ** 0.5
                torch.nn.init.normal_(parameter, std=std)
            else:
                torch.nn.init.normal_(parameter, std=0.1)
    return module


@pytest.fixture
def weights(tmp_path):
    """Save the model's weights."""
    torch.save(module_of().state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def bands_of(row, n_mels=26):
    """Return log-mel bands of mean 0 and variance 1 over the clip, (frames, bands)."""
    with torch.inference_mode():
        bands = LogMel(n_mels=n_mels)(torch.from_numpy(row)[None])[0].numpy()
    return torch.from_numpy((bands - bands.mean(0)) / bands.std(0))


def hidden_of(module, rows, layer, n_mels=26):
    """Return a hidden layer's output for each clip alone: (frames, hidden)."""
    found = []

    def take(_, inputs, output):
        if layer != 4:
            found.append(output.flatten(0, -2))

    def take_input(_, inputs):
        if layer == 4:  # the fifth layer takes the sum of both directions
            found.append(inputs[0][:, 0])

    part = getattr(module, NAMES[layer - 1])
    hooks = [part.register_forward_hook(take), module.fc4.register_forward_pre_hook(take_input)]
    with torch.inference_mode():
        for row in rows:
            module(bands_of(row, n_mels)[None, None])
    for hook in hooks:
        hook.remove()
    return found


def embed(rows=ROWS, **options):
    return AudioEmbedder("deepspeech", **{**OPTIONS, **options}).fit_transform(rows)


def assert_close(found, expected):
    expected = np.stack([np.asarray(each) for each in expected])
    scale = np.abs(expected).max()
    # Or a wrong model would do as well, where all clips give one vector.
    for i in range(1, len(expected)):
        assert np.abs(expected[0] - expected[i]).mean() > 0.02 * np.abs(expected).mean()
    assert 0.05 < scale < 100  # the difference allowed below is a share of the largest value
    # 1e-5 is added to the deviation of a band, which is above 0.5.
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=4e-5)


@pytest.mark.parametrize("layer", [1, 2, 3, 4, 5])
def test_a_layers_vectors_are_means_of_what_the_model_computes_there(layer, weights):
    states = hidden_of(module_of(), ROWS, layer)
    assert all(each.shape[1] == SIZES["n_hidden"] for each in states)
    found = embed(weights=weights, layer=layer)
    assert_close(found, [each.mean(0) for each in states])
    np.testing.assert_array_equal(embed(weights=weights, layer=layer - 6), found)


def test_the_default_is_the_last_hidden_layer(weights):
    found = embed(weights=weights)
    np.testing.assert_array_equal(found, embed(weights=weights, layer=5))
    assert np.abs(found - embed(weights=weights, layer=4)).max() > 0.1


def test_the_layers_last_output_is_what_the_classes_are_made_of(weights):
    module = module_of()
    [state] = hidden_of(module, ROWS[:1], 5)
    with torch.inference_mode():
        expected = module(bands_of(ROWS[0])[None, None])[0]
        found = module.out(state).log_softmax(-1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", ["std", "mean+std", "max", "cls"])
def test_frames_are_pooled_as_asked(pooling, weights):
    pool = {
        "std": lambda x: x.std(0, correction=0),
        "mean+std": lambda x: torch.cat([x.mean(0), x.std(0, correction=0)]),
        "max": lambda x: x.amax(0),
        "cls": lambda x: x[0],
    }[pooling]
    expected = [pool(each) for each in hidden_of(module_of(), ROWS, 4)]
    assert_close(embed(weights=weights, layer=4, pooling=pooling), expected)


def test_weights_of_safetensors_and_of_parallel_training_do_as_well(weights, tmp_path):
    expected = embed(weights=weights)
    state = module_of().state_dict()
    save_file(state, tmp_path / "weights.safetensors")
    found = embed(weights=str(tmp_path / "weights.safetensors"))
    np.testing.assert_array_equal(found, expected)
    parallel = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"state_dict": parallel}, tmp_path / "parallel.pth")
    np.testing.assert_array_equal(embed(weights=tmp_path / "parallel.pth"), expected)


@pytest.mark.parametrize("sizes", [{"n_feature": 40}, {"n_hidden": 16}, {"n_class": 3}])
def test_shapes_of_the_weights_tell_the_sizes(sizes, tmp_path):
    module = module_of(**sizes)
    torch.save(module.state_dict(), tmp_path / "weights.pth")
    states = hidden_of(module, ROWS, 5, n_mels=sizes.get("n_feature", 26))
    found = embed(weights=tmp_path / "weights.pth")
    assert found.shape == (4, sizes.get("n_hidden", 24))
    assert_close(found, [each.mean(0) for each in states])


def test_clips_of_mixed_lengths_give_what_each_gives_alone(weights):
    alone = np.concatenate([embed([row], weights=weights) for row in ROWS])
    together = embed(ROWS[::-1], weights=weights, batch_size=8)[::-1]
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5 * np.abs(alone).max())


def test_a_clip_is_heard_alike_at_any_level(weights):
    found = embed([ROWS[0], ROWS[0] / 3], weights=weights)
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-3 * np.abs(found).max())


@pytest.mark.parametrize("n", [2, 100, 400])
def test_the_shortest_clips_give_finite_vectors(n, weights):
    assert np.isfinite(embed([ROWS[0][5_000 : 5_000 + n]], weights=weights)).all()


def test_random_weights_are_always_the_same_and_leave_the_random_state_alone():
    torch.manual_seed(1)
    first = embed(ROWS[:2], weights=None, layer=1)
    unload_models()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    np.testing.assert_array_equal(embed(ROWS[:2], weights=None, layer=1), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.shape == (2, 2048)
    assert np.abs(first[0] - first[1]).mean() > 0.02 * np.abs(first).mean()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"weights": "auto"}, "no weights of deepspeech are published"),
        (
            {"weights": "no/such.pth"},
            "expected a file with a state dict for deepspeech; no weights",
        ),
        ({"layer": 0}, "layer=0: DeepSpeech has hidden layers 1 to 5, or -1 to -5"),
        ({"layer": 6}, "layer=6: DeepSpeech has hidden layers"),
        ({"layer": -6}, "layer=-6: DeepSpeech has hidden layers"),
        ({"layer": "fc2"}, "layer='fc2': DeepSpeech has hidden layers"),
        ({"revision": "main"}, "revision='main': only models on the hub"),
        ({"model_sampling_rate": 8_000}, "model_sampling_rate=8000, but .* takes 16,000 Hz"),
        ({"preprocess": abs}, "preprocess is for your own torch.nn.Module"),
    ],
)
def test_what_it_does_not_have_is_refused(params, message):
    embedder = AudioEmbedder("deepspeech", **{"weights": None, "cache": None, **params})
    with pytest.raises(InvalidParameterError, match=message):
        embedder.fit([])


def test_a_file_of_another_model_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "other.pth")
    with pytest.raises(UnsupportedModelError, match=r"no state dict for .*got weight, bias"):
        AudioEmbedder("deepspeech", weights=tmp_path / "other.pth").fit([])


@pytest.mark.parametrize("name", ["fc2.fc.weight", "bi_rnn.weight_hh_l0_reverse", "fc4.fc.bias"])
def test_a_file_that_lacks_weights_is_refused_with_their_names(name, tmp_path):
    state = module_of().state_dict()
    torch.save({k: v for k, v in state.items() if k != name}, tmp_path / "some.pth")
    with pytest.raises(UnsupportedModelError, match=rf"deepspeech.*{name}"):
        embed(weights=tmp_path / "some.pth")


def test_files_that_change_while_in_use_are_refused(weights):
    embedder = AudioEmbedder("deepspeech", weights=weights, **OPTIONS).fit(ROWS)
    backbone = embedder.encoder_.backbone
    backbone.source.check_unchanged()
    torch.save(module_of(seed=1).state_dict(), weights)
    with pytest.raises(UnsupportedModelError, match="changed while the model was in use"):
        backbone.source.check_unchanged()
    np.testing.assert_array_equal(embedder.transform(ROWS), embed(weights=weights))


def test_a_loaded_model_stays_as_it_is_when_its_file_is_overwritten(weights):
    encoder = AudioEmbedder("deepspeech", weights=weights, **OPTIONS).fit(ROWS).encoder_
    parts = [encoder.backbone.prepare(row) for row in ROWS]
    before = encoder.encode(parts).numpy()
    with weights.open("r+b") as file:
        file.write(bytes(weights.stat().st_size))
    np.testing.assert_array_equal(encoder.encode(parts).numpy(), before)


def test_digests_tell_settings_and_weights_apart(weights):
    def digest(**settings):
        return find_backbone(AudioSettings("deepspeech", **{"weights": None, **settings})).digest

    made = [digest(), digest(layer=2), digest(pooling="std"), digest(weights=weights)]
    assert len(set(made)) == len(made)
    assert digest() == made[0] == digest(layer=5) == digest(layer=-1)


def test_empty_clips_are_named(weights):
    with pytest.raises(InvalidRowsError, match=r"(?s)1 of 2 .*row 1"):
        embed([ROWS[0], ROWS[0][:0]], weights=weights)
