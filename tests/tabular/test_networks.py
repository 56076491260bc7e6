"""The networks, beside the packages of the papers' authors with the same weights."""

import numpy as np
import pytest
import rtdl_num_embeddings
import rtdl_revisiting_models
import tabm
import torch

from skembed.tabular._cells import Cells, PiecewiseLinear
from skembed.tabular._networks import (
    ARCHITECTURES,
    FTTransformer,
    TableNetwork,
    TabM,
    _Members,
)

BINS = [np.float32([-2, -1, 0.5, 2]), np.float32([-1, 1]), np.float32([-3, -0.1, 0, 0.2, 4])]
CARDINALITIES, DENSE = [4, 7], [3]
N_CELLS, D = 6, 16


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def arrays_of(n=20):
    numbers = torch.randn(n, len(BINS)) * 2
    numbers[3, 1] = numbers[5, 0] = torch.nan
    codes = torch.stack([torch.randint(c, (n,)) for c in CARDINALITIES], 1).int()
    return {"numbers": numbers, "codes": codes, "dense": torch.randn(n, 3)}


def network(architecture):
    return TableNetwork(architecture, BINS, CARDINALITIES, DENSE, 10)


def randomise(module):
    with torch.no_grad():
        for each in module.parameters():
            each.copy_(torch.randn_like(each) / each.shape[-1] ** 0.5)


@pytest.mark.filterwarnings("ignore:The 1-th feature")
def test_numbers_are_embedded_as_by_the_authors_of_the_paper():
    ours = PiecewiseLinear(BINS, D)
    randomise(ours)
    bins = [torch.from_numpy(edges) for edges in BINS]
    theirs = rtdl_num_embeddings.PiecewiseLinearEmbeddings(bins, D, activation=False, version="B")
    with torch.no_grad():
        theirs.linear0.weight.copy_(ours.line)
        theirs.linear0.bias.copy_(ours.bias)
        theirs.linear.weight.zero_()
        for i, edges in enumerate(BINS):  # theirs has a column's last bin at the end
            n = len(edges) - 1
            theirs.linear.weight[i, : n - 1] = ours.weight[i, : n - 1]
            theirs.linear.weight[i, -1] = ours.weight[i, n - 1]
    x = torch.randn(50, 3) * 3
    torch.testing.assert_close(ours(x), theirs(x))


def test_a_network_begins_with_a_line_of_each_number():
    ours = PiecewiseLinear(BINS, D)
    x = torch.randn(5, 3)
    torch.testing.assert_close(ours(x), x.unsqueeze(-1) * ours.line + ours.bias)


def test_missing_and_hidden_cells_have_vectors_of_their_own():
    cells, arrays = Cells(BINS, CARDINALITIES, DENSE, D), arrays_of()
    found = cells(arrays)
    assert found.shape == (20, N_CELLS, D)
    torch.testing.assert_close(found[3, 1], cells.numbers.missing[1])
    is_hidden = torch.rand(20, N_CELLS) < 0.5
    hiding = cells({**arrays, "hidden": is_hidden})
    torch.testing.assert_close(hiding[~is_hidden], found[~is_hidden])
    torch.testing.assert_close(hiding[is_hidden], cells.hidden.expand(20, -1, -1)[is_hidden])


def test_no_rows_and_other_formats_have_cells_too():
    cells = Cells(BINS, CARDINALITIES, DENSE, D)
    arrays = arrays_of()
    none = {name: array[:0] for name, array in arrays.items()}
    assert cells(none).shape == (0, N_CELLS, D)
    doubled = {name: array.double() if name == "dense" else array for name, array in arrays.items()}
    found = cells(arrays)
    torch.testing.assert_close(cells.double()(doubled), found.double())


def test_codes_are_looked_up_in_the_part_of_their_column():
    cells, arrays = Cells(BINS, CARDINALITIES, DENSE, D), arrays_of()
    found = cells(arrays)
    for row, (a, b) in enumerate(arrays["codes"].tolist()):
        torch.testing.assert_close(found[row, 3], cells.codes.weight[a])
        torch.testing.assert_close(found[row, 4], cells.codes.weight[4 + b])


def test_the_transformer_is_that_of_the_authors():
    ours = FTTransformer(N_CELLS, D, 10).eval()
    theirs = rtdl_revisiting_models.FTTransformerBackbone(
        d_out=10,
        n_blocks=3,
        d_block=D,
        attention_n_heads=8,
        attention_dropout=0.2,
        ffn_d_hidden_multiplier=4 / 3,
        ffn_dropout=0.1,
        residual_dropout=0.0,
    ).eval()
    with torch.no_grad():
        for block, of in zip(theirs.blocks, ours.blocks, strict=True):
            randomise(of.look)
            attention = block["attention"]
            for i, theirs_too in enumerate((attention.W_q, attention.W_k, attention.W_v)):
                theirs_too.weight.copy_(of.look.weight[i * D : (i + 1) * D])
                theirs_too.bias.copy_(of.look.bias[i * D : (i + 1) * D])
            copy(of.out, attention.W_out)
            if "attention_normalization" in block:
                copy(of.norm, block["attention_normalization"])
            copy(of.forward_norm, block["ffn_normalization"])
            copy(of.up, block["ffn"].linear1)
            copy(of.down, block["ffn"].linear2)
        copy(ours.last[0], theirs.output.normalization)
        copy(ours.last[2], theirs.output.linear)
    cells = torch.randn(9, N_CELLS, D)
    summary = ours.summary.expand(9, 1, -1)
    torch.testing.assert_close(ours(cells), theirs(torch.cat([summary, cells], 1)))


@torch.no_grad()
def copy(source, target):
    randomise(source)
    for a, b in zip(source.parameters(), target.parameters(), strict=True):
        b.copy_(a)


def test_members_that_share_weights_are_those_of_the_authors():
    ours = _Members(5, 7, 4)
    randomise(ours)
    theirs = tabm.LinearBatchEnsemble(5, 7, k=4, scaling_init="ones")
    with torch.no_grad():
        for name in ("weight", "r", "s", "bias"):
            getattr(theirs, name).copy_(getattr(ours, name))
    x = torch.randn(3, 4, 5)
    torch.testing.assert_close(ours(x), theirs(x))


def test_members_learn_apart_and_their_mean_is_the_vector():
    net = TabM(N_CELLS, D, 10)
    cells = torch.randn(8, N_CELLS, D)
    with torch.no_grad():
        members = net.train()(cells)
        assert net.eval()(cells).shape == (8, 10)
        # Without dropout, and before the mean is taken.
        x = (cells.unsqueeze(1) * net.scale).flatten(2)
        for layer in net.layers:
            x = layer(x).relu()
        torch.testing.assert_close(net(cells), net.last(x).mean(1))
    assert members.shape == (8, net.n_members, 10)
    assert members.std(1).min() > 0.01


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_row_has_the_same_vector_in_any_batch(architecture):
    net, arrays = network(architecture).eval(), arrays_of(64)
    with torch.no_grad():
        whole = net(arrays)
        alone = torch.cat([net({k: a[i : i + 1] for k, a in arrays.items()}) for i in range(64)])
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_weight_is_learned(architecture):
    net, arrays = network(architecture).train(), arrays_of(64)
    arrays["hidden"] = torch.rand(64, N_CELLS) < 0.3
    net(arrays).square().sum().backward()
    unused = [name for name, each in net.named_parameters() if each.grad is None]
    assert not unused
