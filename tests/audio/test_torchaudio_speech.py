"""torchaudio's speech models as transformers' modules, against torchaudio's own forward pass."""

import pytest
import torch
from torchaudio.models import wav2vec2_model, wavlm_model

from skembed.audio._torchaudio_speech import as_transformers
from skembed.exceptions import UnsupportedModelError

PARAMS = {
    "extractor_mode": "group_norm",
    "extractor_conv_layer_config": [(32, 10, 5), (32, 3, 2), (24, 2, 2)],
    "extractor_conv_bias": False,
    "encoder_embed_dim": 48,
    "encoder_projection_dropout": 0.1,
    "encoder_pos_conv_kernel": 16,
    "encoder_pos_conv_groups": 4,
    "encoder_num_layers": 3,
    "encoder_num_heads": 3,
    "encoder_attention_dropout": 0.1,
    "encoder_ff_interm_features": 80,
    "encoder_ff_interm_dropout": 0.1,
    "encoder_dropout": 0.1,
    "encoder_layer_norm_first": False,
    "encoder_layer_drop": 0.05,
    "aux_num_out": 7,
}
WAVLM = {"encoder_num_buckets": 20, "encoder_max_distance": 30}
BUILDERS = {"Wav2Vec2": wav2vec2_model, "WavLM": wavlm_model}


def made(model_type, **changes):
    """Return parameters and a random model of torchaudio whose sounds matter, in float64."""
    params = {**PARAMS, **(WAVLM if model_type == "WavLM" else {}), **changes}
    torch.manual_seed(0)
    model = BUILDERS[model_type](**params).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
            else:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return params, model


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("model_type", ["Wav2Vec2", "WavLM"])
@pytest.mark.parametrize("is_pre_norm", [False, True])
@pytest.mark.parametrize("mode", ["group_norm", "layer_norm"])
def test_every_layer_gives_what_torchaudio_extracts(model_type, is_pre_norm, mode):
    params, model = made(
        model_type,
        extractor_mode=mode,
        extractor_conv_bias=mode == "layer_norm",
        encoder_layer_norm_first=is_pre_norm,
    )
    ours = as_transformers(params, model_type, model.state_dict())
    waveforms = noise(2, 1600)
    with torch.inference_mode():
        expected, _ = model.extract_features(waveforms)
        states = ours(waveforms, output_hidden_states=True).hidden_states
    assert len(states) == len(expected) + 1 == 4
    assert (expected[-1][0] - expected[-1][1]).abs().max() > 0.1
    for state, features in zip(states[1:], expected, strict=True):
        torch.testing.assert_close(state, features, rtol=1e-9, atol=1e-9)


def test_the_last_hidden_state_is_what_torchaudio_hands_on():
    params, model = made("Wav2Vec2", encoder_layer_norm_first=True, aux_num_out=None)
    ours = as_transformers(params, "Wav2Vec2", model.state_dict())
    waveforms = noise(1, 900)
    with torch.inference_mode():
        torch.testing.assert_close(
            ours(waveforms).last_hidden_state, model(waveforms)[0], rtol=1e-9, atol=1e-9
        )


def test_weights_with_the_older_names_of_weight_normalisation_are_taken():
    params, model = made("Wav2Vec2")
    new = ".parametrizations.weight.original"
    state = {
        name.replace(f"{new}0", ".weight_g").replace(f"{new}1", ".weight_v"): tensor
        for name, tensor in model.state_dict().items()
    }
    assert any(name.endswith("weight_g") for name in state)
    ours = as_transformers(params, "Wav2Vec2", state)
    waveforms = noise(1, 900)
    with torch.inference_mode():
        expected = model.extract_features(waveforms)[0][-1]
        torch.testing.assert_close(
            ours(waveforms).last_hidden_state, expected, rtol=1e-9, atol=1e-9
        )


def test_tensors_left_over_are_refused():
    params, model = made("Wav2Vec2")
    state = {**model.state_dict(), "encoder.transformer.extra.weight": torch.zeros(2)}
    with pytest.raises(UnsupportedModelError, match=r"unknown tensor encoder\.extra\.weight"):
        as_transformers(params, "Wav2Vec2", state)


def test_tensors_that_are_missing_or_of_another_shape_are_refused():
    params, model = made("Wav2Vec2")
    state = dict(model.state_dict())
    del state["encoder.feature_projection.projection.bias"]
    state["encoder.transformer.layer_norm.weight"] = torch.zeros(2)
    with pytest.raises(
        UnsupportedModelError, match=r"no tensor feature_projection.*\(2,\) instead of \(48,\)"
    ):
        as_transformers(params, "Wav2Vec2", state)


def test_unknown_parameters_are_refused():
    params, model = made("Wav2Vec2")
    with pytest.raises(UnsupportedModelError, match=r"unknown \['encoder_rotary'\]"):
        as_transformers({**params, "encoder_rotary": True}, "Wav2Vec2", model.state_dict())
    with pytest.raises(UnsupportedModelError, match=r"missing \['encoder_max_distance', "):
        as_transformers(params, "WavLM", model.state_dict())


def test_an_unknown_type_is_refused():
    with pytest.raises(UnsupportedModelError, match=r"'Emformer' is not known.*WavLM"):
        as_transformers(PARAMS, "Emformer", {})
