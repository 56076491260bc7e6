"""Speech models on packed clips, against the forward pass of transformers on each clip alone."""

import copy
import functools

import pytest
import torch
import transformers
from torch import nn

from skembed.acceleration import accelerate
from skembed.acceleration._speech import _PackedSpeech
from skembed.modules import SpeechModel

CPU = torch.device("cpu")

SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "conv_dim": (32, 32, 32),
    "conv_kernel": (10, 3, 2),
    "conv_stride": (5, 2, 2),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
POST = {"do_stable_layer_norm": False, "feat_extract_norm": "group"}
PRE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}

FAMILIES = {
    "wav2vec2": ("Wav2Vec2", POST),
    "wav2vec2 large": ("Wav2Vec2", PRE),
    "hubert": ("Hubert", {**POST, "feat_proj_layer_norm": False}),
    "hubert large": ("Hubert", PRE),
    "wavlm": ("WavLM", {**POST, "num_buckets": 20, "max_bucket_distance": 30}),
    "wavlm large": ("WavLM", PRE),
    "unispeech": ("UniSpeech", POST),
    "unispeech large": ("UniSpeech", PRE),
    "unispeech-sat": ("UniSpeechSat", POST),
    "unispeech-sat large": ("UniSpeechSat", PRE),
    "data2vec": ("Data2VecAudio", {"num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 7}),
}


@pytest.fixture(autouse=True)
def inference():
    """Run in one thread: for models this small a second one costs more than it gains."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield
    torch.set_num_threads(n_threads)


@functools.cache
def checkpoint(family):
    """Return a random model, with weights so large that sounds matter."""
    name, changes = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(**{**SMALL, **changes})
    torch.manual_seed(0)
    module = getattr(transformers, f"{name}Model")(config).eval()
    generator = torch.Generator().manual_seed(1)
    for each in module.parameters():
        random = torch.randn(each.shape, generator=generator)
        if each.dim() > 1:
            each.data = random * 1.5 / each[0].numel() ** 0.5
        else:
            each.data = each.data + 0.2 * random
    return module.requires_grad_(False)


def clips(*lengths):
    generator = torch.Generator().manual_seed(7)
    return [0.3 * torch.randn(n, generator=generator) for n in lengths]


def network_of(module, layer=None, dtype=torch.float32):
    return accelerate(SpeechModel(module, layer), device=CPU, dtype=dtype)


def alone(module, waveforms, layer=None):
    """Return what transformers gives for each clip alone, end to end."""
    states = []
    for clip in waveforms:
        out = module(clip[None], output_hidden_states=True)
        states.append((out.last_hidden_state if layer is None else out.hidden_states[layer])[0])
    return torch.cat(states)


def assert_near(found, expected):
    """Within 1e-5 of values of order one."""
    size = max(1.0, expected.std().item())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * size)


@pytest.mark.parametrize("family", FAMILIES)
def test_frames_are_those_of_each_clip_alone(family):
    module = checkpoint(family)
    network = network_of(module)
    assert isinstance(network, _PackedSpeech)
    waveforms = clips(1500, network.min_samples, 4000, 1500, 733)
    states, lengths = network(waveforms)
    expected = alone(module, waveforms)
    assert lengths == [len(alone(module, [each])) for each in waveforms]
    assert lengths == [network.n_frames(len(each)) for each in waveforms]
    assert states.dtype is torch.float32
    assert states.shape == (sum(lengths), network.width)
    assert_near(states, expected)
    first, *_, fourth, _ = states.split(lengths)
    assert (first - fourth).abs().max() > 0.1


@pytest.mark.parametrize("layer", [0, 1, 2, -1, -2, -3])
@pytest.mark.parametrize("family", ["wav2vec2", "wav2vec2 large", "wavlm large", "data2vec"])
def test_layers_are_counted_as_transformers_counts_hidden_states(family, layer):
    module = checkpoint(family)
    network = network_of(module, layer)
    assert isinstance(network, _PackedSpeech)
    waveforms = clips(1500, 900)
    assert_near(network(waveforms)[0], alone(module, waveforms, layer))
    assert len(network.layers) == layer % 3


def test_the_last_layer_is_before_the_last_normalisation_and_the_last_hidden_state_after_it():
    module = checkpoint("wav2vec2 large")
    waveforms = clips(1500)
    last, normed = (network_of(module, layer)(waveforms)[0] for layer in (-1, None))
    assert (last - normed).abs().max() > 0.1
    assert_near(module.encoder.layer_norm(last), normed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["wav2vec2", "wavlm large", "data2vec"])
def test_a_clip_does_not_depend_on_its_neighbours_nor_on_its_place(family, dtype):
    network = network_of(checkpoint(family), dtype=dtype)
    waveforms = clips(1500, 200, 4000, 1500)
    states, lengths = network(waveforms)
    backwards, _ = network(waveforms[::-1])
    # Products of other sizes may round otherwise, by a unit in the last place each.
    atol = 5e-6 if dtype is torch.float32 else 0.05
    for at, part in enumerate(states.split(lengths)):
        torch.testing.assert_close(part, network([waveforms[at]])[0], rtol=0, atol=atol)
        other = backwards.split(lengths[::-1])[-1 - at]
        torch.testing.assert_close(part, other, rtol=0, atol=atol)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_is_near(family):
    module = checkpoint(family)
    network = network_of(module, dtype=torch.bfloat16)
    assert isinstance(network, _PackedSpeech)
    waveforms = clips(1500, 300, 4000)
    found, expected = network(waveforms)[0], alone(module, waveforms)
    assert torch.cosine_similarity(found, expected, dim=-1).min() > 0.999
    assert (found - expected).abs().max() > 1e-4  # it did run in bfloat16


@pytest.mark.parametrize("family", ["wav2vec2", "data2vec"])
def test_many_clips_are_right(family):
    """More blocks of frames than are multiplied at once."""
    module = checkpoint(family)
    waveforms = clips(*range(300, 1900, 37))
    assert_near(network_of(module)(waveforms)[0], alone(module, waveforms))


def test_near_silence_and_silence_are_right():
    module = checkpoint("wav2vec2")
    waveforms = [1e-4 * clips(1500)[0], torch.zeros(900), 1e-7 * clips(1200)[0]]
    assert_near(network_of(module)(waveforms)[0], alone(module, waveforms))


@pytest.mark.parametrize("family", ["wav2vec2", "wav2vec2 large", "wavlm"])
def test_long_clips_are_right(family):
    module = checkpoint(family)
    waveforms = clips(9000, 20 * 50 * 4 + 13, 2500)
    assert_near(network_of(module)(waveforms)[0], alone(module, waveforms))


def test_the_module_handed_in_is_not_changed():
    module = copy.deepcopy(checkpoint("wavlm"))
    before = {name: each.clone() for name, each in module.state_dict().items()}
    kinds = [type(each) for each in module.modules()]
    implementation = module.config._attn_implementation
    names = set(vars(module))
    network_of(module, layer=1, dtype=torch.bfloat16)(clips(900))
    assert [type(each) for each in module.modules()] == kinds
    assert module.config._attn_implementation == implementation
    assert set(vars(module)) == names
    for name, each in module.state_dict().items():
        assert torch.equal(each, before[name]), name


def test_a_clip_that_gives_no_frame_is_refused():
    network = network_of(checkpoint("wav2vec2"))
    assert network.n_frames(network.min_samples - 1) == 0
    with pytest.raises(ValueError, match=f"shorter than {network.min_samples} samples"):
        network(clips(900, network.min_samples - 1))


class _Doubled(nn.Module):
    """A projection that does otherwise, though it is named alike."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        states, features = self.module(x)
        return states + states.mean(1, keepdim=True), features


@pytest.mark.parametrize("change", ["activation", "mixes frames"])
@pytest.mark.parametrize("layer", [None, 1])
def test_a_model_that_differs_runs_as_it_is(change, layer):
    module = copy.deepcopy(checkpoint("wav2vec2"))
    if change == "activation":
        module.encoder.pos_conv_embed.activation = nn.Tanh()
    else:
        module.feature_projection = _Doubled(module.feature_projection)
    network = network_of(module, layer)
    assert type(network) is SpeechModel
    waveforms = clips(1500, 300, 1500, *[700] * 10)
    states, lengths = network(waveforms)
    assert lengths == [network.n_frames(len(each)) for each in waveforms]
    assert_near(states, alone(module, waveforms, layer))
    halved = network_of(module, layer, torch.bfloat16)(waveforms)[0]
    assert torch.cosine_similarity(halved, states, dim=-1).min() > 0.99


def test_sew_which_squeezes_its_frames_runs_as_it_is():
    config = transformers.SEWConfig(**{**SMALL, "squeeze_factor": 2, "feat_extract_norm": "group"})
    torch.manual_seed(0)
    module = transformers.SEWModel(config).eval()
    network = network_of(module)
    waveforms = clips(1500, 1500, 800)
    states, lengths = network(waveforms)
    assert lengths == [len(alone(module, [each])) for each in waveforms]
    assert_near(states, alone(module, waveforms))
