"""Modules without values, and random ones that depend on nothing else in the process."""

import threading

import pytest
import torch
from torchvision import models

from skembed.modules import build_empty, build_random, is_empty

# Of every way in which torchvision's and timm's models draw their weights.
NAMES = ("googlenet", "mnasnet0_5", "regnet_x_400mf", "shufflenet_v2_x0_5", "swin_v2_t", "maxvit_t")


def builder(name):
    options = {"init_weights": True} if name == "googlenet" else {}
    return lambda: models.get_model(name, weights=None, **options)


@pytest.mark.parametrize("name", NAMES)
def test_random_weights_neither_read_nor_change_the_random_state_of_the_process(name):
    first = build_random(builder(name)).state_dict()
    torch.rand(7)
    state = torch.get_rng_state()
    second = build_random(builder(name)).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def test_random_weights_are_the_same_while_another_thread_draws():
    expected = build_random(builder("resnet18")).state_dict()
    is_over = threading.Event()

    def draw():
        while not is_over.is_set():
            torch.rand(1000)

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        found = build_random(builder("resnet18")).state_dict()
    finally:
        is_over.set()
        thread.join()
    assert all(torch.equal(value, found[key]) for key, value in expected.items())


def test_random_weights_are_drawn_as_the_architecture_says():
    module = build_random(builder("resnet18"))
    weight = module.layer4[0].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.02)
    assert not module.training
    assert not weight.requires_grad


def test_a_module_without_values_takes_no_memory_and_has_all_shapes():
    module = build_empty(builder("regnet_y_128gf"))
    assert is_empty(module)
    assert sum(each.numel() for each in module.parameters()) == 644_812_894
    assert all(each.is_meta for each in module.parameters())


def test_buffers_that_are_computed_keep_their_values():
    module = build_empty(builder("swin_t"))
    expected = builder("swin_t")().state_dict()["features.1.0.attn.relative_position_index"]
    assert torch.equal(module.features[1][0].attn.relative_position_index, expected)
