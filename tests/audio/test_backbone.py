"""What every family of models loads: a plain module that trains, and gives the frozen vectors."""

import numpy as np
import pytest
import torch
from torch import nn

from skembed.audio._backbone import AudioSettings
from skembed.audio._backbones import find_backbone
from skembed.audio._encoder import AudioEncoder
from tests.audio.checkpoints import clips
from tests.audio.networks import TinyNetwork

CPU = torch.device("cpu")

FAMILIES = {
    "wav2vec2": "wav2vec2",
    "hubert": "hubert",
    "wavlm": "wavlm",
    "sew": "sew",
    "whisper": "whisper",
    "clap": "clap",
    "ast": "ast",
    "torchaudio": {"model": "WAV2VEC2_BASE", "weights": None},
    "deepspeech": {"model": "deepspeech", "weights": None, "layer": 3},
    "logmel": {"model": "logmel"},
    "own": {"model": TinyNetwork()},
}


@pytest.fixture
def settings_of(folders, small_bundle):
    """Return what gives the settings of a small model of a family."""

    def of(family, **changes):
        found = FAMILIES[family]
        params = {"model": folders(found)} if isinstance(found, str) else found
        return AudioSettings(**{"dtype": "float32", **params, **changes})

    return of


def parts_of(backbone):
    return [backbone.prepare(clip) for clip in clips(0.71, 1.1, 0.71, 0.403, rate=backbone.rate)]


def frozen_vectors(backbone, settings, parts):
    encoder = AudioEncoder(backbone, settings, CPU)
    with torch.inference_mode():
        return encoder.encode(encoder.collate(parts))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loaded_module_is_plain_and_gives_the_vectors_of_the_encoder(settings_of, family):
    settings = settings_of(family)
    backbone = find_backbone(settings)
    parts = parts_of(backbone)
    module = backbone.load()
    assert not module.training
    assert "acceleration" not in " ".join(type(each).__module__ for each in module.modules())
    found = module(backbone.collate(parts))
    assert found.shape == (4, backbone.width)
    expected = frozen_vectors(backbone, settings, parts)
    torch.testing.assert_close(found.detach(), expected, rtol=1e-5, atol=1e-5)
    assert (found[0] - found[1]).abs().max() > 1e-3


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "logmel"])
def test_gradients_reach_the_parameters_of_a_module_that_is_the_caller_s_own(settings_of, family):
    backbone = find_backbone(settings_of(family))
    module, other = backbone.load(), backbone.load()
    assert all(p.requires_grad and p.dtype is torch.float32 for p in module.parameters())
    module(backbone.collate(parts_of(backbone))).square().sum().backward()
    with_gradient = [p for p in module.parameters() if p.grad is not None]
    assert len(with_gradient) > 0.8 * len(list(module.parameters()))
    assert all(p.grad is None for p in other.parameters())
    ours = {p.data_ptr() for p in module.parameters()}
    assert not ours & {p.data_ptr() for p in other.parameters()}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_backbone_is_found_again_while_nothing_has_changed(settings_of, family):
    settings = settings_of(family)
    backbone = find_backbone(settings)
    assert find_backbone(settings_of(family)) is backbone
    pooled = {"pooling": "max"}
    assert find_backbone(settings_of(family, **pooled)) is not backbone


def test_a_module_that_has_changed_has_another_backbone():
    module = TinyNetwork()
    first = find_backbone(AudioSettings(module))
    with torch.no_grad():
        module.second.bias += 1
    second = find_backbone(AudioSettings(module))
    assert first.digest != second.digest
    assert find_backbone(AudioSettings(TinyNetwork())) is first  # which loads what has not changed
    first.load()
    first.source.check_unchanged()


@pytest.mark.parametrize("family", ["wav2vec2", "sew", "deepspeech", "logmel"])
def test_poolings_share_one_core(settings_of, family):
    encoders = [
        AudioEncoder(find_backbone(settings), settings, CPU)
        for settings in (settings_of(family, pooling=name) for name in ("mean", "max"))
    ]
    assert encoders[0].core() is encoders[1].core()
    assert encoders[0].model_key == encoders[1].model_key
    assert encoders[0].digest != encoders[1].digest


def test_dropout_is_the_model_s_own(folders):
    module = find_backbone(AudioSettings(folders("wav2vec2"))).load()
    rates = {each.p for each in module.modules() if isinstance(each, nn.Dropout)}
    assert max(rates) == pytest.approx(0.1)


def test_in_training_a_long_clip_is_cut_at_a_random_place(folders):
    backbone = find_backbone(AudioSettings(folders("whisper")))
    samples = np.random.default_rng(0).standard_normal(40 * 16_000).astype(np.float32)
    rng = np.random.default_rng(0)
    one, other = (backbone.prepare(samples, rng).values for _ in range(2))
    assert one.shape == other.shape
    assert not torch.equal(one, other)
