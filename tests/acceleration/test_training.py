"""Modules prepared for training: the same vectors and gradients as the plain ones."""

import copy

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
    Qwen2Config,
    Qwen2Model,
    RobertaConfig,
    RobertaModel,
)

from skembed.acceleration import prepare_for_training
from skembed.modules import TokenBatch, TokenTransformer

SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "pad_token_id": 1,
}
GPT = {**SMALL, "num_key_value_heads": 2, "use_cache": False}
WINDOWED = {**SMALL, "local_attention": 8, "global_attn_every_n_layers": 2}
FAMILIES = {
    "bert": (BertModel, BertConfig(**SMALL)),
    "roberta": (RobertaModel, RobertaConfig(**SMALL)),
    "qwen2": (Qwen2Model, Qwen2Config(**GPT)),
    "modernbert": (ModernBertModel, ModernBertConfig(**WINDOWED)),
}
CPU = torch.device("cpu")


def plain_of(kind, config):
    torch.manual_seed(0)
    return TokenTransformer(kind(copy.deepcopy(config)), 1).eval()


def batch_of(lengths):
    rng = np.random.default_rng(0)
    return TokenBatch.of([rng.integers(5, 50, n) for n in lengths])


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_rows_give_the_gradients_of_padded_ones(family):
    kind, config = FAMILIES[family]
    plain = plain_of(kind, config)
    batch = batch_of([21, 17, 9, 9, 4, 1])
    expected = plain(batch)
    weights = torch.randn(expected.shape)
    (expected * weights).sum().backward()
    gradients = {name: p.grad.clone() for name, p in plain.named_parameters() if p.grad is not None}
    plain.zero_grad()
    packed = prepare_for_training(plain, device=CPU)
    assert packed.layout == "packed"
    found = packed(batch)
    (found * weights).sum().backward()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    named = {name: p.grad for name, p in packed.named_parameters() if p.grad is not None}
    assert named.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(named[name], gradient, rtol=1e-3, atol=1e-4)


def test_a_model_that_cannot_be_packed_stays_padded():
    plain = plain_of(MPNetModel, MPNetConfig(**SMALL))
    prepared = prepare_for_training(plain, device=CPU)
    assert prepared.layout == "padded"
    batch = batch_of([7, 7, 3])
    torch.testing.assert_close(prepared(batch), plain(batch))


def test_the_mode_stays():
    for is_training in (False, True):
        plain = plain_of(*FAMILIES["bert"]).train(is_training)
        assert prepare_for_training(plain, device=CPU).training is is_training


def test_dropout_is_that_of_training():
    packed = prepare_for_training(plain_of(*FAMILIES["bert"]), device=CPU)
    batch = batch_of([9, 5])
    torch.testing.assert_close(packed(batch), packed(batch))
    packed.train()
    assert not torch.allclose(packed(batch), packed(batch))


def test_other_modules_stay_as_they_are():
    module = torch.nn.Linear(2, 2)
    assert prepare_for_training(module, device=CPU) is module
