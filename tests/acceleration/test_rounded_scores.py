"""Packed attention in bfloat16 is the fast one only where its rounding does not matter."""

import pytest
import torch
from transformers import BertConfig, BertModel

from skembed.acceleration import _products, accelerate
from skembed.modules import TokenTransformer

CPU = torch.device("cpu")


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="needs MKL's batched products")
@pytest.mark.parametrize(("factor", "is_exact"), [(1, False), (1000, True)])
def test_attention_with_rounded_scores_is_chosen_by_what_it_changes(monkeypatch, factor, is_exact):
    monkeypatch.setattr(_products, "_has_bfloat16", lambda: True)
    config = BertConfig(
        vocab_size=100,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertModel(config, add_pooling_layer=False).eval().requires_grad_(False)
    for layer in model.encoder.layer:
        layer.attention.self.query.weight.mul_(factor)
        layer.attention.self.value.weight.mul_(30)
    fast = accelerate(TokenTransformer(model, 0), device=CPU, dtype=torch.bfloat16)
    assert fast.layout == "packed"
    assert fast.is_exact is is_exact
