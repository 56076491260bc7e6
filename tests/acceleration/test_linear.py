"""Packed linear layers give what the plain ones gave, or are not used."""

from pathlib import Path

import pytest
import torch
from torch import nn

from skembed.acceleration import _linear
from skembed.acceleration._linear import PackedLinear, pack_linear_layers, steady_size


class Net(nn.Module):
    """Two layers with a GELU between them."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(32, 64)
        self.gelu = nn.GELU()
        self.second = nn.Linear(64, 16, bias=False)

    def forward(self, x):
        return self.second(self.gelu(self.first(x)))


@pytest.fixture(params=[torch.bfloat16, torch.float32])
def rows(request):
    return torch.randn(1, 20, 32, generator=torch.Generator().manual_seed(0)).to(request.param)


def pack(net, rows):
    """Pack a net in the format of rows; return whether it was, and the change of its output."""
    net = net.to(rows.dtype).requires_grad_(False)
    with torch.inference_mode():
        before = net(rows).float()
        is_packed = pack_linear_layers(
            net, lambda: bool((net(rows).float() - before).abs().max() < 0.05)
        )
        return is_packed, float((net(rows).float() - before).abs().max())


needs_operators = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available()
    or not pack(Net(), torch.zeros(1, 3, 32, dtype=torch.bfloat16))[0],
    reason="this torch or processor has no packed products",
)


@needs_operators
def test_packed_layers_give_what_the_plain_ones_gave(rows):
    net = Net()
    is_packed, change = pack(net, rows)
    assert is_packed
    assert change < (0.02 if rows.dtype is torch.bfloat16 else 1e-5)
    assert isinstance(net.first, PackedLinear)
    assert isinstance(net.second, PackedLinear)


def test_a_change_that_is_seen_undoes_everything(rows):
    net = Net().to(rows.dtype).requires_grad_(False)
    assert not pack_linear_layers(net, lambda: False)
    assert type(net.first) is nn.Linear
    assert type(net.second) is nn.Linear


def test_missing_operators_leave_the_model_as_it_was(rows, monkeypatch):
    def missing(*args):
        raise AttributeError("no such operator")

    monkeypatch.setattr(_linear, "PackedLinear", missing)
    net = Net()
    is_packed, change = pack(net, rows)
    assert not is_packed
    assert change == 0
    assert type(net.second) is nn.Linear


def test_layers_in_other_formats_are_left_alone():
    net = Net().double()
    assert not pack_linear_layers(net, lambda: True)
    assert type(net.first) is nn.Linear


@needs_operators
@pytest.mark.parametrize("shape", [(1, 1, 32), (2, 9, 32), (33, 32), (3, 0, 32)])
def test_packed_layers_run_with_any_number_of_rows(shape):
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    layer = nn.Linear(32, 16, dtype=torch.bfloat16).requires_grad_(False)
    out = PackedLinear(layer)(rows)
    assert out.shape == (*shape[:-1], 16)
    torch.testing.assert_close(out, layer(rows), atol=0.02, rtol=0)


@needs_operators
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_memory_does_not_grow_with_the_number_of_batch_sizes():
    layer = PackedLinear(nn.Linear(64, 512, dtype=torch.bfloat16).requires_grad_(False))

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4 / 1024

    layer(torch.zeros(8192, 64, dtype=torch.bfloat16))
    before = resident()
    for n_rows in range(7200, 8190, 10):  # each would keep 7 to 8 MiB
        layer(torch.zeros(n_rows, 64, dtype=torch.bfloat16))
    assert resident() - before < 200


def test_steady_sizes_are_few_and_near():
    sizes = [steady_size(n) for n in range(1, 4097)]
    assert all(n <= size <= 1.125 * n for n, size in enumerate(sizes, 1))
    assert len(set(sizes)) == 80
    assert all(steady_size(size) == size for size in sizes)
    assert steady_size(0) == 0


@needs_operators
def test_layers_called_by_keyword_are_packed_too(rows):
    class Keyword(Net):
        def forward(self, x):
            return self.second(self.gelu(self.first(input=x)))

    net = Keyword()
    is_packed, change = pack(net, rows)
    assert is_packed
    assert change < (0.02 if rows.dtype is torch.bfloat16 else 1e-5)
    assert isinstance(net.first, PackedLinear)
    assert isinstance(net.second, PackedLinear)


def test_memory_that_runs_out_is_not_taken_for_a_missing_operator(rows, monkeypatch):
    def exhausted(*args):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(_linear, "PackedLinear", exhausted)
    net = Net()
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        pack(net, rows)
    assert type(net.first) is nn.Linear
