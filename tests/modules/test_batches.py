"""Batches of tokens and of stacks, a plain transformer over tokens, and pooling."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from skembed.modules import (
    Rows,
    Stacks,
    TokenBatch,
    TokenTransformer,
    pool,
    pool_rows,
    pooled_width,
)

TOKENS = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))


def test_a_batch_of_tokens_knows_where_its_rows_lie():
    batch = TokenBatch.of([np.array([5, 6, 7]), np.array([8])])
    assert batch.ids.tolist() == [5, 6, 7, 8]
    assert batch.positions.tolist() == [0, 1, 2, 0]
    assert batch.rows.groups == [(0, 1, 3), (3, 1, 1)]


def test_parts_of_each_shape_are_stacked_and_come_back_in_order():
    parts = [torch.full((2,), 1.0), torch.full((3,), 2.0), torch.full((2,), 3.0)]
    batch = Stacks.of(parts)
    assert sorted(tuple(each.shape) for each in batch.tensors) == [(1, 3), (2, 2)]
    assert batch.join([each[:, :1] for each in batch.tensors]).flatten().tolist() == [1.0, 2.0, 3.0]


def test_a_plain_transformer_gives_each_row_the_states_that_it_has_alone():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16,
    )  # fmt: skip
    core = TokenTransformer(BertModel(config, add_pooling_layer=False).eval(), pad_token_id=0)
    rows = [np.array([3, 4, 5, 6]), np.array([7, 8]), np.array([9])]
    states = core(TokenBatch.of(rows)).split([4, 2, 1])
    for row, found in zip(rows, states, strict=True):
        alone = core.model(torch.from_numpy(row)[None]).last_hidden_state[0]
        torch.testing.assert_close(found, alone, atol=1e-6, rtol=0)
    states[2][:, 0].sum().backward()  # the sum of all is what the last norm makes it
    assert core.model.embeddings.word_embeddings.weight.grad.abs().sum() > 0


def test_poolings_are_what_numpy_says():
    tokens = TOKENS.numpy().astype(np.float64)
    weights = np.arange(1, 6) / 15
    expected = {
        "mean": tokens.mean(1),
        "max": tokens.max(1),
        "std": tokens.std(1),
        "cls": tokens[:, 0],
        "last_token": tokens[:, -1],
        "mean_sqrt_len": tokens.sum(1) / 5**0.5,
        "weighted_mean": np.einsum("ntd,t->nd", tokens, weights),
        "cls+mean": np.concatenate([tokens[:, 0], tokens.mean(1)], 1),
        "mean+std": np.concatenate([tokens.mean(1), tokens.std(1)], 1),
    }
    for name, vectors in expected.items():
        np.testing.assert_allclose(pool(TOKENS, name), vectors, atol=1e-6)
        assert pooled_width(4, name) == vectors.shape[1]


def test_tokens_before_the_patches_take_part_in_cls_only():
    assert torch.equal(pool(TOKENS, "cls", n_prefix=2), TOKENS[:, 0])
    assert torch.equal(pool(TOKENS, "max", n_prefix=2), TOKENS[:, 2:].amax(1))
    found = pool(TOKENS, "cls+mean", n_prefix=1)
    torch.testing.assert_close(found, torch.cat([TOKENS[:, 0], TOKENS[:, 1:].mean(1)], 1))


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_maps_are_pooled_over_their_places(pooling):
    maps = TOKENS.transpose(1, 2)[..., None]  # (n, d, height, width)
    torch.testing.assert_close(pool(maps, pooling), pool(TOKENS, pooling))


def test_rows_without_their_prompt_are_pooled_as_if_they_stood_there_alone():
    hidden = TOKENS.flatten(0, 1)
    found = pool_rows(hidden, Rows([7, 3]), "mean", n_skipped=2)
    torch.testing.assert_close(found, torch.stack([hidden[2:7].mean(0), hidden[9:].mean(0)]))
