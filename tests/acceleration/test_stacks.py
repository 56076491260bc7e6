"""Modules of stacks in other formats than float32."""

import pytest
import torch
from torch import nn

from skembed.acceleration import accelerate


@pytest.mark.parametrize(("channels", "groups", "kernel"), [(16, 1, 8), (32, 4, 16), (24, 1, 8)])
def test_convolutions_of_few_channels_are_right_in_bfloat16_whatever_the_length(
    channels, groups, kernel
):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        core = nn.Sequential(nn.Conv1d(channels, channels, kernel, kernel // 2, groups=groups))
        stacks = [torch.randn(2, channels, length) for length in (3199, 1288, 160, 99)]
    with torch.no_grad():
        expected = [core(stack) for stack in stacks]
        fast = accelerate(
            core, [stacks[0]], device=torch.device("cpu"), dtype=torch.bfloat16, is_foreign=False
        )
        for stack, right in zip(stacks, expected, strict=True):
            found = fast(stack).float()
            assert torch.allclose(found, right, atol=0.03 * float(right.abs().max()))
