"""Faster convolutions, for any model made of `nn.Conv2d`.

In evaluation mode, batch normalisation is a scale and a shift: they go into the weights of the
convolution before it. On CPUs the convolutions then run on weights in oneDNN's own layout, on
pixels with their channels side by side, and apply the activation and the sum with a shortcut while
the result is still in the cache. ResNet-50 in float32 on 2 cores without matrix units, pictures per
second: 11 as torch runs it, 19 folded and with channels last, 27 with all of this.

The operators are private to torch: where they are missing or refuse, and where a model cannot be
traced, layers stay as they are. Knows modules and tensors, not what they are for.
"""

from __future__ import annotations

import copy
import itertools
import operator
from collections.abc import Callable
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._pytree import tree_leaves

from skembed._forks import one_at_a_time
from skembed.acceleration._passes import find_consumers, gelu_kind, has_hooks, replace_modules
from skembed.modules import of_this_thread

__all__ = ["fold_batch_norms", "is_traceable", "pack_convolutions"]

_DTYPES = (torch.bfloat16, torch.float32)

_After = tuple[str, list[float | None], str]
"""An activation, its numbers and its algorithm, as oneDNN's operators take them."""

_NOTHING: _After = ("none", [], "")

_ACTIVATIONS: dict[Any, _After] = {
    **dict.fromkeys((nn.ReLU, torch.relu, torch.relu_, F.relu), ("relu", [], "")),
    **dict.fromkeys((nn.ReLU6, F.relu6), ("hardtanh", [0.0, 6.0], "")),
    **dict.fromkeys((nn.Hardswish, F.hardswish), ("hardswish", [], "")),
    **dict.fromkeys((nn.SiLU, F.silu), ("swish", [], "")),
    **dict.fromkeys((nn.Sigmoid, torch.sigmoid), ("sigmoid", [], "")),
    **dict.fromkeys((nn.Tanh, torch.tanh), ("tanh", [], "")),
}
_SUMS = (operator.add, operator.iadd, torch.add)
_IDLE_IN_EVALUATION = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)


def fold_batch_norms(module: nn.Module, run: Callable[[], Any], agrees: Callable[[], bool]) -> bool:
    """Fold batch normalisations into the convolutions before them, if that changes nothing.

    `run` and `agrees` as in `replace_modules`; the model is in evaluation mode.
    """

    def make() -> dict[nn.Module, nn.Module]:
        norm_after = find_consumers(
            module, run, is_producer=_is_convolution, is_consumer=_is_foldable
        )
        new: dict[nn.Module, nn.Module] = {norm: nn.Identity() for norm in norm_after.values()}
        for layer, norm in norm_after.items():
            both: Any = (layer, norm)
            new[layer] = fuse_conv_bn_eval(*both).requires_grad_(False)
        return new

    return replace_modules(module, make, agrees)


def is_traceable(module: nn.Module) -> bool:
    """Return whether a model does the same to all rows: no branch of its code asks what they hold.

    Its code is run on a stand-in for a tensor, which refuses to tell its values and its shape.
    """
    try:
        _trace(module)
    except MemoryError:
        raise
    except Exception:  # whatever the model's own code raises on a stand-in
        return False
    return True


def _trace(module: nn.Module) -> fx.GraphModule:
    """Return a model as a graph; traced on a copy, as code may keep what it is given: stand-ins."""
    shared = {id(each): each for each in [*module.parameters(), *module.buffers()]}
    # Copies of the graphs that torchvision extracts are back in training mode.
    copied = copy.deepcopy(module, shared).eval()
    with one_at_a_time():
        tracer = of_this_thread(fx.Tracer)()
        return fx.GraphModule(copied, tracer.trace(copied), type(copied).__name__)


def pack_convolutions(
    module: nn.Module, example: Tensor, agrees: Callable[[nn.Module], bool]
) -> nn.Module:
    """Return a model that gives the same with faster convolutions, or the model itself.

    The model, in evaluation mode on the CPU, is not changed. `example` (n, channels, height, width)
    is what it usually takes; `agrees` returns whether a model gives what it does.
    """
    if example.dtype not in _DTYPES or not any(map(_is_packable, module.modules())):
        return module
    try:
        with torch.inference_mode():
            graph = _trace(module)
            _drop_idle(graph)
            # Tensors made for inference do not count their changes.
            with torch.inference_mode(False), torch.no_grad():
                _Notes(graph).run(example.clone())
            for node in list(graph.graph.nodes):
                layer = _module_of(graph, node)
                if layer is not None and _is_packable(layer):
                    _pack(graph, node, layer)
            graph.graph.lint()
            graph.recompile()
            return graph if agrees(graph) else module
    except MemoryError:
        raise
    except Exception:
        # Tracing refuses with whatever the model's own code raises on a stand-in for a tensor.
        return module


class PackedConvolution(nn.Module):
    """A convolution, perhaps a sum, perhaps an activation, on weights in oneDNN's layout.

    The layout is chosen for `size`, the shape of what it usually takes, and suits pictures of that
    size and more than one of them. Others run on plain weights, which are kept: on a layout that
    does not suit, oneDNN takes an algorithm that is up to twenty times slower (1 x 1 layers of
    ResNet-50 on one picture). `after` is the activation; `is_in_place` says that a sum may be
    written over what is added, which then stays in the cache: 10% of a ResNet-50 in float32.
    """

    def __init__(
        self, layer: nn.Conv2d, size: list[int], after: _After, *, is_in_place: bool = False
    ) -> None:
        super().__init__()
        self._how: tuple[Any, ...] = (layer.padding, layer.stride, layer.dilation, layer.groups)
        self._size = tuple(size[1:])
        # Not parameters: an opaque layout has no gradient and cannot be saved.
        self.plain = layer.weight.detach().contiguous(memory_format=torch.channels_last)
        self.packed = torch.ops.mkldnn._reorder_convolution_weight(self.plain, *self._how, size)
        self.bias = None if layer.bias is None else layer.bias.detach()
        self.after, self.is_in_place = after, is_in_place

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Map x of shape (n, channels, h, w); `other` is added before the activation."""
        x = x.contiguous(memory_format=torch.channels_last)
        is_usual = len(x) > 1 and tuple(x.shape[1:]) == self._size
        weight = self.packed if is_usual else self.plain
        out: Tensor
        if other is None:
            out = torch.ops.mkldnn._convolution_pointwise(
                x, weight, self.bias, *self._how, *self.after
            )
        elif not self._gives(x, other.shape):  # a sum that spreads one of its terms
            out = torch.ops.mkldnn._convolution_pointwise(
                x, weight, self.bias, *self._how, *_NOTHING
            )
            out = (out + other).relu_() if self.after[0] == "relu" else out + other
        else:
            other = other.contiguous(memory_format=torch.channels_last)
            kind, numbers, algorithm = self.after
            how = (*self._how, "add", None, None if kind == "none" else kind, numbers, algorithm)
            given = (weight, self.bias, *how)
            if self.is_in_place:
                out = torch.ops.mkldnn._convolution_pointwise_.binary(other, x, *given)
            else:
                out = torch.ops.mkldnn._convolution_pointwise.binary(x, other, *given)
        return out

    def _gives(self, x: Tensor, shape: torch.Size) -> bool:
        """Return whether the convolution maps x to this shape."""
        n_out, _, *kernel = self.plain.shape
        sizes = zip(x.shape[2:], *self._how[:3], kernel, strict=True)
        placed = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, s, d, k in sizes]
        return shape == (len(x), n_out, *placed)


def _is_convolution(module: nn.Module) -> bool:
    return type(module) is nn.Conv2d and not has_hooks(module)


def _is_foldable(module: nn.Module) -> bool:
    return (
        type(module) is nn.BatchNorm2d
        and not module.training
        and module.running_mean is not None
        and not has_hooks(module)
    )


def _is_packable(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    # Subclasses may compute something else.
    return (
        _is_convolution(module)
        and isinstance(module, nn.Conv2d)
        and module.padding_mode == "zeros"
        and isinstance(module.padding, tuple)
        and module.weight.dtype in _DTYPES
    )


def _module_of(graph: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return graph.get_submodule(str(node.target)) if node.op == "call_module" else None


def _drop_idle(graph: fx.GraphModule) -> None:
    """Drop what does nothing in evaluation and stands between a convolution and what it fuses."""
    for node in list(graph.graph.nodes):
        module = _module_of(graph, node)
        is_idle = isinstance(module, _IDLE_IN_EVALUATION) and not has_hooks(module)
        if node.op == "call_function" and node.target is F.dropout:
            is_idle = node.kwargs.get("training") is False
        name = getattr(node.target, "__name__", "")
        if node.op == "call_function" and name == "stochastic_depth":
            is_idle = False in (node.kwargs.get("training"), *node.args[3:4])
        if is_idle:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)


def _pack(graph: fx.GraphModule, node: fx.Node, layer: nn.Conv2d) -> None:
    """Put one convolution, and what can be fused with it, in the place of its nodes."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    last, replaced, other = node, [node], None
    follower = _only_user(last)
    if follower is not None and (other := _summand(follower, node)) is not None:
        last, follower = follower, _only_user(follower)
        replaced.append(last)
    after = _NOTHING
    found = None if follower is None else _activation(graph, follower)
    # oneDNN's sum takes no other activation than this one.
    if found is not None and follower is not None and (other is None or found[0] == "relu"):
        after, last = found, follower
        replaced.append(last)
    if _is_passed_by_a_change(graph, node, last, replaced):
        after, last, replaced, other = _NOTHING, node, [node], None
    name = f"packed_{node.name}"
    is_in_place = other is not None and other is not source and _is_spare(graph, other, replaced)
    packed = PackedConvolution(layer, _shape(source), after, is_in_place=is_in_place)
    graph.add_submodule(name, packed)
    with graph.graph.inserting_before(last):
        inputs = (source,) if other is None else (source, other)
        new = graph.graph.call_module(name, inputs)
    new.meta = {**last.meta, "changes": is_in_place}
    last.replace_all_uses_with(new)
    for each in reversed(replaced):
        graph.graph.erase_node(each)


def _only_user(node: fx.Node) -> fx.Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def _summand(node: fx.Node, term: fx.Node) -> fx.Node | None:
    """Return what a sum adds to `term`, if it is a tensor of the same shape."""
    if node.op != "call_function" or node.target not in _SUMS or node.kwargs or len(node.args) != 2:
        return None
    first, second = node.args
    # A sum in place of its first term changes it for all who take it.
    if node.target is operator.iadd and first is not term:
        return None
    other = second if first is term else first
    if not isinstance(other, fx.Node) or other is term:
        return None
    return other if _shape(other) == _shape(term) != [] else None


def _is_spare(graph: fx.GraphModule, node: fx.Node, sum_nodes: list[fx.Node]) -> bool:
    """Return whether what a node gives is needed no more once it has been added.

    That is so of a convolution's result of which, before, nothing but other convolutions have been
    made: other operators may have given views of it.
    """
    others = [user for user in node.users if user not in sum_nodes]
    made = [_module_of(graph, each) for each in (node, *others)]
    if not all(isinstance(m, PackedConvolution) or (m and _is_convolution(m)) for m in made):
        return False
    earlier = itertools.takewhile(lambda each: each is not sum_nodes[-1], graph.graph.nodes)
    return set(others) <= set(earlier)


def _is_passed_by_a_change(
    graph: fx.GraphModule, first: fx.Node, last: fx.Node, ours: list[fx.Node]
) -> bool:
    """Return whether a tensor is changed in place between two nodes, by others than `ours`.

    What the first of them takes may then be another thing when the last one runs.
    """
    nodes = list(graph.graph.nodes)
    between = nodes[nodes.index(first) + 1 : nodes.index(last)]
    return any(each.meta.get("changes", True) for each in between if each not in ours)


def _activation(graph: fx.GraphModule, node: fx.Node) -> _After | None:
    module = _module_of(graph, node)
    if module is not None and not has_hooks(module):
        kind = gelu_kind(module)
        return ("gelu", [], kind) if kind is not None else _ACTIVATIONS.get(type(module))
    return _ACTIVATIONS.get(node.target) if node.op == "call_function" else None


class _Notes(fx.Interpreter):
    """Runs a graph and notes of every node the shape of its result and whether it changed others.

    Views count with what they are views of: torch counts the changes of both together.
    """

    def run_node(self, n: fx.Node) -> Any:
        """Run one node."""
        before = self._versions()
        result = super().run_node(n)
        after = self._versions()
        n.meta["changes"] = any(after.get(each, count) != count for each, count in before.items())
        n.meta["shape"] = list(result.shape) if isinstance(result, Tensor) else []
        return result

    def _versions(self) -> dict[fx.Node, list[int]]:
        return {
            node: [each._version for each in tree_leaves(value) if isinstance(each, Tensor)]
            for node, value in self.env.items()
        }


def _shape(node: fx.Node) -> list[int]:
    """Return the shape of what a node gave on the example; [] if that was no tensor."""
    return list(node.meta.get("shape", []))
