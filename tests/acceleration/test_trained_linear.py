"""Linear layers that oneDNN computes in training."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from skembed import FineTune, TabularEmbedder, TextEmbedder
from skembed.acceleration import _linear, _processor, _tokens, linear, speed_up_linear
from skembed.acceleration._linear import OneDNNLinear, steady_size


@pytest.fixture(autouse=True)
def used(monkeypatch):
    if _processor._probe_onednn() == "missing":
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(_linear, "is_onednn_faster_on_cpu", lambda: True)
    monkeypatch.setattr(_linear, "_LEAST_ROWS", 1)


def gradients(run, *inputs):
    """Return what a function gives, and the gradients of a weighted sum of it."""
    found = [None if each is None else each.detach().clone().requires_grad_() for each in inputs]
    out = run(*found)
    (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
    return out.detach(), *(each.grad for each in found if each is not None)


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("shape", [(40,), (7, 40), (1, 40), (5, 3, 40), (0, 40)])
@pytest.mark.parametrize("n_out", [33, 96])
@pytest.mark.parametrize("has_bias", [True, False])
def test_values_and_gradients_are_torchs(shape, n_out, has_bias):
    inputs = draw(*shape), draw(n_out, 40), draw(n_out) if has_bias else None
    for ours, theirs in zip(gradients(linear, *inputs), gradients(F.linear, *inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_gradients_are_those_of_differences():
    """Taken in float64, which oneDNN has not."""
    x, weight, bias = draw(6, 32), draw(34, 32), draw(34)
    direction = draw(6, 34)
    found = gradients(lambda *given: linear(*given) * direction, x, weight, bias)[1:]
    exact = [each.double() for each in (x, weight, bias)]

    def value(*given):
        out = F.linear(*given) * direction.double()
        return (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum()

    for i, gradient in enumerate(found):
        step = draw(*gradient.shape).double() * 1e-3
        sides = []
        for sign in (1, -1):
            moved = list(exact)
            moved[i] = moved[i] + sign * step
            sides.append(value(*moved))
        difference = float(sides[0] - sides[1]) / 2
        assert float((gradient.double() * step).sum()) == pytest.approx(difference, rel=1e-3)


@pytest.mark.parametrize("of", ["x", "gradient"])
def test_numbers_may_lie_in_any_order_in_memory(of):
    x, weight = draw(4, 6, 40), draw(36, 40)

    def first(run):
        return lambda x, weight: run(x[:, ::2], weight)

    def turned(run):
        return lambda x, weight: run(x, weight).transpose(0, 1)

    wrap = first if of == "x" else turned
    pairs = zip(
        gradients(wrap(linear), x, weight), gradients(wrap(F.linear), x, weight), strict=True
    )
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_what_comes_out_may_be_changed_in_place():
    x, weight = draw(2, 3, 40), draw(36, 40)

    def change(run):
        def changed(x, weight):
            found = run(x, weight).view(2, 3, 4, 9).permute(0, 2, 1, 3)
            found += 1
            return found * found

        return changed

    pairs = zip(
        gradients(change(linear), x, weight), gradients(change(F.linear), x, weight), strict=True
    )
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


def test_only_what_is_asked_for_gets_a_gradient():
    x, weight, bias = draw(5, 40), draw(36, 40).requires_grad_(), draw(36)
    linear(x, weight, bias).sum().backward()
    assert x.grad is None and bias.grad is None and weight.grad is not None


def test_wide_layers_meet_few_numbers_of_rows(monkeypatch):
    seen = []
    product = _linear._product

    def count(rows, *rest):
        seen.append(len(rows))
        return product(rows, *rest)

    monkeypatch.setattr(_linear, "_product", count)
    weight = draw(264, 272).requires_grad_()
    for n in range(130, 161):
        x = draw(n, 272)
        ours, theirs = gradients(linear, x, weight), gradients(F.linear, x, weight)
        for found, expected in zip(ours, theirs, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    assert set(seen) == {144, 160, 264}  # those of a weight's gradient are its own


def test_layers_are_replaced_in_place_and_keep_their_hooks_and_names():
    model = nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 32))
    seen = []
    model[0].register_forward_hook(lambda layer, given, found: seen.append(found.shape))
    x, names = draw(3, 40), list(model.state_dict())
    before = model(x)
    speed_up_linear(model)
    assert [type(layer) for layer in model] == [OneDNNLinear, nn.ReLU, OneDNNLinear]
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)
    assert seen == [(3, 64)] * 2 and list(model.state_dict()) == names


def test_narrow_layers_and_others_kinds_stay_as_they_are():
    class Own(nn.Linear):
        def forward(self, input):
            return super().forward(input) + 1

    model = nn.ModuleList([nn.Linear(64, 2), nn.Linear(2, 64), Own(64, 64)])
    speed_up_linear(model)
    assert [type(layer) for layer in model] == [nn.Linear, nn.Linear, Own]


@pytest.mark.parametrize("how", ["autocast", "bfloat16", "float64"])
def test_other_formats_are_left_to_torch(how, monkeypatch):
    monkeypatch.setattr(_linear, "_product", None)
    dtype = {"autocast": torch.float32}.get(how) or getattr(torch, how)
    x, weight = draw(5, 40).to(dtype), draw(36, 40).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        found = linear(x, weight)
        assert torch.equal(found, F.linear(x, weight))
    assert found.dtype == (torch.bfloat16 if how == "autocast" else dtype)


def test_where_it_is_not_faster_torch_multiplies(monkeypatch):
    monkeypatch.setattr(_linear, "is_onednn_faster_on_cpu", lambda: False)
    monkeypatch.setattr(_linear, "_product", None)
    model = nn.Sequential(nn.Linear(40, 64))
    speed_up_linear(model)
    assert type(model[0]) is nn.Linear
    assert linear(draw(2, 40), draw(64, 40)).shape == (2, 64)


def test_the_probe_leaves_the_number_of_threads_as_it_was():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert _processor._probe_onednn() in ("faster", "slower")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_an_operator_that_errs_or_is_not_there_is_not_used(monkeypatch):
    product = torch.ops.mkldnn._linear_pointwise
    turned = lambda rows, *rest: product(rows.flip(0), *rest)  # noqa: E731
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", turned)
    assert _processor._probe_onednn() == "wrong"

    def refuse(*given):
        raise RuntimeError

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", refuse)
    assert _processor._probe_onednn() == "missing"


def test_the_probe_does_not_mind_the_callers_formats():
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert _processor._probe_onednn() in ("faster", "slower")
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_gradient_has_a_gradient():
    def slopes(run):
        x, weight = draw(5, 40).requires_grad_(), draw(36, 40).requires_grad_()
        (slope,) = torch.autograd.grad(run(x, weight).pow(3).sum(), x, create_graph=True)
        slope.square().sum().backward()
        return x.grad, weight.grad

    for ours, theirs in zip(slopes(linear), slopes(F.linear), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("trained", ["x", "weight", "bias"])
def test_only_what_a_gradient_needs_is_kept(trained):
    given = {"x": draw(5, 40), "weight": draw(36, 40), "bias": draw(36)}
    given[trained].requires_grad_()
    out = linear(**given)
    kept = [each is not None for each in out.grad_fn.saved_tensors]
    assert kept == [trained == "weight", trained == "x"]
    out.sum().backward()
    expected = {name: each.detach().clone() for name, each in given.items()}
    expected[trained].requires_grad_()
    F.linear(expected["x"], expected["weight"], expected["bias"]).sum().backward()
    torch.testing.assert_close(given[trained].grad, expected[trained].grad, rtol=1e-4, atol=1e-4)


def test_wrong_widths_are_torchs_to_refuse():
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        linear(draw(5, 41), draw(36, 40))


def test_trainings_and_tables_use_it(monkeypatch):
    seen = []
    product = _linear._product
    monkeypatch.setattr(_linear, "_product", lambda *given: seen.append(1) or product(*given))
    X = np.random.default_rng(0).normal(size=(64, 6))
    embedder = TabularEmbedder(training=FineTune(n_epochs=1)).fit(X, X[:, 0] > 0)
    assert seen
    seen.clear()
    embedder.transform(X)
    assert seen


def test_packed_texts_come_in_few_numbers_of_tokens(monkeypatch):
    seen = []
    product = _linear._product
    count = lambda rows, *rest: seen.append(len(rows)) or product(rows, *rest)  # noqa: E731
    monkeypatch.setattr(_linear, "_product", count)
    monkeypatch.setattr(_linear, "steady_size", lambda n: n)  # the layers themselves pad nothing
    monkeypatch.setattr(_tokens, "is_onednn_faster_on_cpu", lambda: True)
    texts = [" ".join(["word"] * n) for n in (3, 11, 17, 5, 40, 7, 29, 13)]
    training = FineTune("full", n_epochs=1, batch_size=4, dtype="float32", validation_fraction=None)
    TextEmbedder(training=training).fit(texts, [0, 1] * 4)
    assert seen and all(steady_size(n) == n for n in seen)
    assert any(n not in (384, 1536) for n in seen)


def test_few_rows_are_left_to_torch(monkeypatch):
    monkeypatch.setattr(_linear, "_LEAST_ROWS", 32)
    monkeypatch.setattr(_linear, "_product", None)
    assert linear(draw(31, 40), draw(36, 40)).shape == (31, 36)
