"""LoRA: the layers that get matrices, the same steps as peft's own, states without peft."""

import gc
import pickle
import subprocess
import sys
import weakref
from dataclasses import replace

import numpy as np
import peft
import pytest
import torch
from torch import nn

from skembed import FineTune, ImageEmbedder, TextEmbedder
from skembed.exceptions import InvalidParameterError, MissingDependencyError
from skembed.training import TrainedState
from skembed.training._examples import collate_vectors, vector_examples
from skembed.training._loop import Loop, Settings
from skembed.training._lora import add_lora, find_targets, lora_arrays, lora_scale
from skembed.training._objective import Batch, Objective
from skembed.training._trained import apply_state
from tests.audio.checkpoints import write_checkpoint as write_sound_model
from tests.image.checkpoints import write_checkpoint as write_vision_model
from tests.image.networks import pictures
from tests.text.checkpoints import write_checkpoint as write_text_model

RANK, ALPHA = 4, 8.0


def targets_of(backbone, batch, targets="auto"):
    return set(find_targets(backbone.load(), batch, targets))


def ends(names):
    """Return the ends of names, without numbers."""
    return {name.rsplit(".", 2)[-1] for name in names}


def vision_targets(model, **options):
    embedder = ImageEmbedder(model, cache=None, **options).fit([np.zeros((32, 32, 3), np.uint8)])
    backbone = embedder.encoder_.backbone
    items = embedder._check_rows(pictures(2, sizes=((32, 32),))).items
    return targets_of(backbone, backbone.collate([backbone.prepare(each.open()) for each in items]))


def text_targets(folder, targets="auto"):
    encoder = TextEmbedder(folder, cache=None).fit(["a"]).encoder_
    parts = [each.parts[0] for each in encoder.prepare(["a", "the quick brown fox"])]
    return targets_of(encoder.backbone, encoder.backbone.collate(parts), targets)


# Layers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("bert", {"query", "key", "value", "dense"}),
        ("albert", {"query", "key", "value", "dense", "ffn", "ffn_output"}),
        ("distilbert", {"q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"}),
        ("modernbert", {"Wqkv", "Wo", "Wi"}),
        ("mpnet", {"q", "k", "v", "o", "dense"}),
        ("t5", {"q", "k", "v", "o", "wi", "wo"}),
        (
            "llama",
            {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
        ),
    ],
)
def test_text_models_are_adapted_in_attention_and_feed_forward(tmp_path, family, expected):
    found = text_targets(write_text_model(tmp_path, family))
    assert ends(found) == expected
    assert not any("pooler" in name for name in found)


# Names differ between releases of transformers. A block has six linear layers, of ConvNeXt two.
@pytest.mark.parametrize(
    ("family", "n_layers"), [("vit", 18), ("dinov2", 18), ("clip", 18), ("convnext", 10)]
)
def test_vision_models_are_adapted_in_their_blocks(tmp_path, family, n_layers):
    found = vision_targets(write_vision_model(tmp_path, family))
    assert len(found) == n_layers
    assert all(".layer" in name for name in found)


def test_heads_and_poolers_are_left(tmp_path):
    found = vision_targets(write_vision_model(tmp_path, "clip"))
    assert found
    assert not any("visual_projection" in name for name in found)


def test_convolutions_are_adapted_where_blocks_have_no_linear_layers():
    found = vision_targets("resnet18", weights=None)
    assert ends(found) == {"conv1", "conv2", "0"}  # of blocks, and of their shortcuts
    assert not any(name.endswith("module.conv1") for name in found)


def test_sound_models_are_adapted_in_attention_and_feed_forward(tmp_path):
    from skembed import AudioEmbedder

    folder = write_sound_model(tmp_path, "wav2vec2")
    clip = np.random.default_rng(0).normal(0, 0.1, 8000).astype("f4")
    encoder = AudioEmbedder(folder, sampling_rate=16_000, cache=None).fit([clip]).encoder_
    found = targets_of(encoder.backbone, [encoder.backbone.prepare(clip)])
    attention = {"q_proj", "k_proj", "v_proj", "out_proj"}
    assert ends(found) == attention | {"intermediate_dense", "output_dense"}


def test_layers_are_chosen_by_the_ends_of_their_names(tmp_path):
    folder = write_text_model(tmp_path, "bert")
    found = text_targets(folder, ["query", "attention.output.dense"])
    assert len(found) == 6
    assert ends(found) == {"query", "dense"}
    assert all("attention" in name for name in found)


def test_names_that_no_layer_has_are_an_error_that_lists_those_there_are(tmp_path):
    folder = write_text_model(tmp_path, "bert")
    with pytest.raises(InvalidParameterError, match=r"ends in 'q_proj'\. .*'query', 'key'"):
        text_targets(folder, ["query", "q_proj"])


class Attending(nn.Module):
    """A transformer of torch's own layers, some of which read the weights of others."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.core = nn.TransformerEncoder(layer, 2)

    def forward(self, vectors):
        return self.core(vectors[:, None]).squeeze(1)


class Turned(nn.Module):
    """Two of GPT-2's linear layers, whose weights stand the other way."""

    def __init__(self):
        super().__init__()
        from transformers.pytorch_utils import Conv1D

        self.core = nn.Sequential(Conv1D(24, 16), nn.Tanh(), Conv1D(16, 24))

    def forward(self, vectors):
        return self.core(vectors)


class Maps(nn.Module):
    """Convolutions, one with a stride, one in groups."""

    def __init__(self):
        super().__init__()
        self.core = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, groups=2, padding=1),
            nn.Conv2d(8, 16, 1),
        )

    def forward(self, vectors):
        return self.core(vectors.view(-1, 1, 4, 4)).mean((2, 3))


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.core = nn.Sequential(nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 16))

    def forward(self, vectors):
        return self.core(vectors)


def vectors(n=12):
    return torch.randn(n, 16, generator=torch.Generator().manual_seed(1))


def made(kind):
    torch.manual_seed(0)
    return kind().eval().requires_grad_(False)


def adapted(kind, **options):
    module = made(kind)
    torch.manual_seed(7)
    options = {"rank": RANK, "alpha": ALPHA, "dropout": 0.0, "targets": "auto", **options}
    add_lora(module, vectors(), **options)
    return module


def test_layers_whose_weights_alone_are_read_are_left():
    found = set(find_targets(made(Attending), vectors(), "auto"))
    assert found == {f"core.layers.{i}.linear{j}" for i in (0, 1) for j in (1, 2)}


def test_convolutions_in_groups_are_left():
    assert set(find_targets(made(Maps), vectors(), "auto")) == {"core.0", "core.3"}


def test_layers_that_are_not_called_are_left():
    module = made(Layers)
    module.core.append(nn.ModuleDict({"unused": nn.Linear(3, 3)})["unused"])
    module.forward = lambda values: module.core[:3](values)
    assert set(find_targets(module, vectors(), "auto")) == {"core.0", "core.2"}


def test_a_rank_larger_than_all_matrices_is_an_error():
    with pytest.raises(InvalidParameterError, match=r"lora_rank=17: expected at most 16"):
        adapted(Layers, rank=17)


def test_models_without_layers_to_adapt_are_an_error():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.core = nn.GRU(16, 8)

        def forward(self, values):
            return self.core(values)[0]

    with pytest.raises(InvalidParameterError, match=r"neither linear layers nor convolutions"):
        adapted(Recurrent)


# The same as peft ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Layers, Turned, Maps, Attending])
def test_merged_weights_give_what_peft_gives(kind):
    module = adapted(kind)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2)
        expected = module(vectors())
        state = TrainedState("lora", lora_arrays(module), "", lora_scale=lora_scale(RANK, ALPHA))
        served = made(kind)
        assert (served(vectors()) - expected).abs().max() > 1e-2
        apply_state(served, state)
        torch.testing.assert_close(served(vectors()), expected, rtol=1e-5, atol=1e-5)


def settings_of(**changes):
    """Return the settings of one epoch at a rate that does not rise."""
    settings = Settings(
        n_epochs=1,
        learning_rate=1e-2,
        head_learning_rate=1e-2,
        weight_decay=0.01,
        warmup=0.0,
        max_grad_norm=1.0,
        patience=None,
        seed=0,
        dtype=torch.float32,
        budget=1 << 62,
        layout="packed",
    )
    return replace(settings, **changes)


class Regression(Objective):
    """Vectors are to be given numbers; all rows are one batch."""

    is_per_row = False
    n_rows = 12

    def __init__(self):
        self.head = nn.Module()
        self.goal = torch.randn(12, 16, generator=torch.Generator().manual_seed(2))

    def batches(self, rng):
        yield Batch(np.arange(12))

    def n_batches(self):
        return 1

    def loss(self, vectors, batch, positions=None):
        return (vectors - self.goal).square().mean()

    def score(self, embed):
        return None


@pytest.mark.parametrize("kind", [Layers, Turned, Maps])
def test_a_step_is_that_of_peft(kind):
    ours = adapted(kind)
    settings = settings_of(max_grad_norm=None)
    examples = vector_examples(vectors().numpy())
    Loop(ours, collate_vectors, examples, Regression(), settings, torch.device("cpu")).run()

    torch.manual_seed(7)
    base = made(kind)
    names = [
        name
        for name, each in base.named_modules()
        if name in ("core.0", "core.2", "core.3") and getattr(each, "groups", 1) == 1
    ]
    config = peft.LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=names,
        fan_in_fan_out=kind is Turned,
    )
    torch.manual_seed(7)
    theirs = peft.get_peft_model(base, config)
    trained = [p for p in theirs.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.01)
    (theirs(vectors()) - Regression().goal).square().mean().backward()
    optimizer.step()

    expected = lora_arrays(theirs.base_model.model)
    found = lora_arrays(ours)
    assert found.keys() == expected.keys()
    assert len(found) == 4
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-6), ("bfloat16", 0.02)])
@pytest.mark.parametrize("kind", [Layers, Turned])
def test_vectors_and_gradients_are_those_of_peft(kind, dtype, most):
    def run(module):
        module.zero_grad()
        given = vectors().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            found = module(given)
        found.float().pow(2).sum().backward()
        gradients = [p.grad for p in module.parameters() if p.requires_grad]
        return [each.float() for each in (found, given.grad, *gradients)]

    module = adapted(kind)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2)
    ours = run(module)
    for each in module.modules():
        if isinstance(each, peft.tuners.lora.Linear):
            each.__class__ = peft.tuners.lora.Linear
    theirs = run(module)
    assert len(ours) == 6
    for found, expected in zip(ours, theirs, strict=True):
        assert (found - expected).norm() < most * expected.norm()


def test_linear_layers_without_dropout_take_one_product():
    for dropout, n_products in ((0.0, 2), (0.1, 6)):  # peft: with each matrix too
        module = adapted(Layers, dropout=dropout).train()
        with torch.profiler.profile() as profile, torch.no_grad():
            module(vectors())
        names = [event.name for event in profile.events()]
        n_found = sum(names.count(name) for name in ("aten::linear", "mkldnn::_linear_pointwise"))
        assert n_found == n_products


@pytest.mark.parametrize("shape", [(40, 16), (33, 16), (2, 20, 16)])
def test_what_comes_out_may_be_changed_in_place(shape):
    model = nn.Sequential(
        nn.Linear(16, 300), nn.ReLU(inplace=True), nn.Linear(300, 300), nn.ReLU(True)
    )
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    add_lora(model, x, rank=RANK, alpha=ALPHA, dropout=0.0, targets=["0", "2"])
    model(x).sum().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "lora" in n)


def test_what_is_called_with_a_layer_stays_so():
    module, seen = made(Layers), []
    linear = next(each for each in module.modules() if isinstance(each, nn.Linear))
    linear.register_forward_hook(lambda layer, inputs, found: seen.append(found))
    add_lora(module, vectors(), rank=RANK, alpha=ALPHA, dropout=0.0, targets="auto")
    seen.clear()
    module(vectors())
    assert len(seen) == 1


def test_weights_go_with_the_module():
    module = adapted(Layers)
    weights = [weakref.ref(each) for each in module.parameters()]
    gc.collect()
    gc.disable()
    try:
        del module
        assert [ref() for ref in weights] == [None] * len(weights)
    finally:
        gc.enable()


def test_pieces_of_a_batch_give_the_step_of_the_whole():
    # Gradients of all vectors at once, then piece by piece: twice the forward pass.
    whole, pieces = adapted(Layers), adapted(Layers)
    for module, budget in ((whole, 1 << 62), (pieces, 5)):
        settings = settings_of(n_epochs=2, budget=budget)
        examples = vector_examples(vectors().numpy())
        Loop(module, collate_vectors, examples, Regression(), settings, torch.device("cpu")).run()
    for name, array in lora_arrays(whole).items():
        np.testing.assert_allclose(lora_arrays(pieces)[name], array, atol=1e-5, err_msg=name)


# States ----------------------------------------------------------------------------------

X, Y = ["a cat", "a dog", "a bill", "a fee"] * 3, ["pet", "pet", "money", "money"] * 3


def test_a_state_holds_the_matrices_alone_and_is_served_without_peft(tmp_path):
    folder = write_text_model(tmp_path, "bert")
    strategy = FineTune("lora", lora_rank=2, n_epochs=1, validation_fraction=None)
    embedder = TextEmbedder(folder, training=strategy, cache=None, device="cpu").fit(X, Y)
    arrays = embedder.trained_.arrays
    assert {name.rsplit(".", 1)[1] for name in arrays} == {"lora_A", "lora_B"}
    assert all(2 in array.shape for array in arrays.values())
    (tmp_path / "embedder.pickle").write_bytes(pickle.dumps(embedder))
    np.save(tmp_path / "vectors.npy", embedder.transform(X))
    code = f"""
import pickle, sys
import numpy as np
sys.modules["peft"] = None  # importing it fails
embedder = pickle.load(open(r"{tmp_path / "embedder.pickle"}", "rb"))
np.testing.assert_array_equal(embedder.transform({X!r}), np.load(r"{tmp_path / "vectors.npy"}"))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_peft_is_an_error_with_the_line_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingDependencyError, match=r"pip install skembed\[training\]"):
        TextEmbedder(write_text_model(tmp_path, "bert"), training=FineTune("lora")).fit(X, Y)


def test_dropout_before_the_matrices_is_only_of_training():
    module = adapted(Layers, dropout=0.5)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2)
        torch.testing.assert_close(module(vectors()), module(vectors()))
        module.train()
        assert not torch.equal(module(vectors()), module(vectors()))
