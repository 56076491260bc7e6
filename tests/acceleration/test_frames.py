"""The convolutions of speech models, against transformers' own modules and slow NumPy."""

import pytest
import torch
from torch import nn
from transformers import Data2VecAudioConfig, HubertConfig, Wav2Vec2Config
from transformers.models.data2vec.modeling_data2vec_audio import (
    Data2VecAudioPositionalConvEmbedding,
)
from transformers.models.hubert.modeling_hubert import HubertPositionalConvEmbedding
from transformers.models.wav2vec2.modeling_wav2vec2 import (
    Wav2Vec2FeatureEncoder,
    Wav2Vec2PositionalConvEmbedding,
)

from skembed.acceleration._frames import FrameEncoder
from skembed.acceleration._positions import PositionalConvolution


@pytest.fixture(autouse=True)
def inference():
    """Run in one thread: for layers this small a second one costs more than it gains."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield
    torch.set_num_threads(n_threads)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def varied(module):
    """Give a random module weights and biases that matter."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_().mul_(1.5 / parameter[0].numel() ** 0.5)
        else:
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    return module.eval()


def reference(norm="group", bias=False, **changes):
    config = Wav2Vec2Config(
        **{
            "feat_extract_norm": norm,
            "conv_bias": bias,
            "conv_dim": (24, 32, 16, 16),
            "conv_kernel": (10, 3, 3, 2),
            "conv_stride": (5, 2, 2, 2),
            "num_feat_extract_layers": 4,
            **changes,
        }
    )
    return varied(Wav2Vec2FeatureEncoder(config))


def assert_encodes(module, clips, *, atol=1e-5):
    encoder = FrameEncoder(list(module.conv_layers))
    found = encoder(clips)
    expected = torch.cat([module(clip[None])[0].t() for clip in clips])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=atol)
    return expected


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_frames_are_those_of_the_reference(norm, bias):
    clips = [noise(n, seed=n) for n in (400, 3000, 105, 3000, 1234)]
    frames = assert_encodes(reference(norm, bias), clips)
    assert (frames[0] - frames[-1]).abs().max() > 0.1


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_long_clips_are_the_same_across_the_borders_of_pieces(norm):
    """Pieces of 50 frames, of 40 samples each."""
    clips = [noise(n) for n in (40 * 50 * 3 + 17, 2000 + 104, 2000 - 40, 700, 40 * 101)]
    assert_encodes(reference(norm), clips)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_the_shortest_clip_gives_one_frame(norm):
    module = reference(norm)
    encoder = FrameEncoder(list(module.conv_layers))
    n = next(n for n in range(1, 1000) if encoder.n_frames(n))
    assert [encoder.n_frames(n + more) for more in (-n, -1, 0, 39, 40)] == [0, 0, 1, 1, 2]
    expected = module(noise(1, n))[0].t()
    torch.testing.assert_close(encoder([noise(n)]), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernels, strides", [((10, 4), (5, 3)), ((7, 5, 3), (2, 1, 2))])
def test_other_windows_than_the_usual_are_right(kernels, strides):
    module = reference(
        conv_dim=(16,) * len(kernels),
        conv_kernel=kernels,
        conv_stride=strides,
        num_feat_extract_layers=len(kernels),
    )
    assert_encodes(module, [noise(n) for n in (5000, 333, 90)])


@pytest.mark.parametrize("loudness", [1e-6, 1e-4, 1e-2, 1.0, 100.0])
def test_the_group_norm_of_a_clip_follows_from_its_samples(loudness):
    """Of near silence, epsilon is more than the variance; in NumPy's float64."""
    module = reference()
    layer = module.conv_layers[0]
    clip = loudness * noise(2000)
    found = FrameEncoder([layer])([clip]).numpy()
    rows = clip.double().unfold(0, 10, 5).numpy()
    out = rows @ layer.conv.weight[:, 0].double().numpy().T
    norm = layer.layer_norm
    out = (out - out.mean(0)) / (out.var(0) + norm.eps) ** 0.5
    out = out * norm.weight.double().numpy() + norm.bias.double().numpy()
    expected = nn.functional.gelu(torch.from_numpy(out)).numpy()
    assert abs(found - expected).max() < 1e-5


def test_a_constant_added_to_a_clip_is_taken_away_by_the_group_norm():
    """The reference loses what the constant drowns; silence with a constant is silence."""
    encoder = FrameEncoder(list(reference().conv_layers))
    clip = (noise(2000) * 64).round() / 64  # such that the sum is exact
    torch.testing.assert_close(encoder([clip + 1024]), encoder([clip]), rtol=0, atol=1e-5)
    silence = encoder([torch.full((2000,), 0.7)])
    torch.testing.assert_close(silence, encoder([torch.zeros(2000)]), rtol=0, atol=1e-6)


def test_a_clip_does_not_depend_on_its_neighbours():
    encoder = FrameEncoder(list(reference().conv_layers))
    clips = [noise(n) * scale for n, scale in ((900, 1), (2500, 1e3), (700, 1e-3), (150, 1))]
    alone = torch.cat([encoder([clip]) for clip in clips])
    torch.testing.assert_close(encoder(clips), alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("fault", ["activation", "dilation", "groups", "norm"])
def test_layers_of_another_kind_are_refused(fault):
    module = reference()
    layers = list(module.conv_layers)
    if fault == "activation":
        layers[1].activation = nn.ReLU()
    if fault == "dilation":
        layers[1].conv.dilation = (2,)
    if fault == "groups":
        layers[1].conv = nn.Conv1d(24, 32, 3, 2, groups=2)
    if fault == "norm":
        layers[0].layer_norm = nn.GroupNorm(4, 24)
    with pytest.raises(NotImplementedError, match=r"."):
        FrameEncoder(layers)


POSITIONS = {
    "even kernel": lambda: Wav2Vec2PositionalConvEmbedding(
        Wav2Vec2Config(hidden_size=32, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4)
    ),
    "odd kernel": lambda: Wav2Vec2PositionalConvEmbedding(
        Wav2Vec2Config(hidden_size=32, num_conv_pos_embeddings=15, num_conv_pos_embedding_groups=2)
    ),
    "stacked": lambda: Data2VecAudioPositionalConvEmbedding(
        Data2VecAudioConfig(
            hidden_size=32,
            num_conv_pos_embeddings=3,
            conv_pos_kernel_size=7,
            num_conv_pos_embedding_groups=4,
        )
    ),
}


@pytest.mark.parametrize("kind", POSITIONS)
def test_positional_convolutions_are_those_of_each_clip_alone(kind):
    module = varied(POSITIONS[kind]())
    lengths = [1, 5, 40, 5, 130]
    frames = noise(sum(lengths) + 7, 32)
    found = PositionalConvolution(module)(frames, lengths)
    parts = frames[: sum(lengths)].split(lengths)
    expected = torch.cat([module(each[None])[0] for each in parts])
    assert expected.std() > 0.1
    torch.testing.assert_close(found[: sum(lengths)], expected, rtol=1e-5, atol=1e-5)
    assert (found[sum(lengths) :] == 0).all()


def test_positional_convolutions_of_another_kind_are_refused():
    module = POSITIONS["even kernel"]()
    module.activation = nn.GELU("tanh")
    with pytest.raises(NotImplementedError, match="another activation"):
        PositionalConvolution(module)
    config = HubertConfig(hidden_size=32, conv_pos_batch_norm=True)
    with pytest.raises(NotImplementedError, match="batch normalisation"):
        PositionalConvolution(HubertPositionalConvEmbedding(config))
