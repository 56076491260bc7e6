"""What tensors, modules and torch's small values are made of, for their fingerprint.

Owns which tensors can be read byte by byte, wherever and however they are stored, and what of a
module a forward pass reads. Must not know how digests are put together. torch is never imported
here: without it nothing is a tensor.
"""

from __future__ import annotations

import sys
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from skembed.exceptions import UnsupportedModelError

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["ModuleParts", "is_module", "module_parts", "names_shared", "torch_parts"]

# Of a torch module, what no forward pass in evaluation mode reads. Hooks are taken in by
# themselves: their numbers count all hooks of the process.
_NOT_IN_FORWARD = frozenset(
    [
        "training",
        "_is_full_backward_hook",
        "_non_persistent_buffers_set",
        "_backward_hooks",
        "_backward_pre_hooks",
        "_state_dict_hooks",
        "_state_dict_pre_hooks",
        "_load_state_dict_pre_hooks",
        "_load_state_dict_post_hooks",
        "_compiled_call_impl",
        "_forward_hooks",
        "_forward_hooks_with_kwargs",
        "_forward_hooks_always_called",
        "_forward_pre_hooks",
        "_forward_pre_hooks_with_kwargs",
    ]
)
# Of a traced module, what is made from its graph, or says how it was traced.
_NOT_OF_THE_GRAPH = frozenset(
    [
        "_code",
        "_lineno_map",
        "_prologue_start",
        "_tracer_cls",
        "_tracer_extras",
        "meta",
        "_graphmodule_cls_name",
        "_replace_hooks",
        "_create_node_hooks",
        "_erase_node_hooks",
        "_deepcopy_hooks",
    ]
)


class ModuleParts(NamedTuple):
    """What a module is made of.

    Attributes
    ----------
    kind : type
        Its class.
    hooks : list
        The forward hooks and how they are called; those before the forward pass first.
    n_before : int
        How many of them run before it.
    tables : list of dict
        Parameters, buffers and submodules by name.
    attributes : list of (str, object)
        Everything else, sorted by name.
    """

    kind: type
    hooks: list[tuple[Any, bool, bool]]
    n_before: int
    tables: list[dict[str, Any]]
    attributes: list[tuple[str, Any]]


def is_module(value: object) -> bool:
    """Return whether something is a torch module."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def module_parts(module: nn.Module) -> ModuleParts:
    """Return what a module is made of, in evaluation mode."""
    attributes = dict(vars(module))
    kind: type = type(module)
    skipped = _NOT_IN_FORWARD
    if isinstance(attributes.get("_graph"), _class_of("torch.fx", "Graph")):
        # Each traced module has a class of its own, compiled from its graph.
        kind = next(each for each in kind.__mro__ if "<locals>" not in each.__qualname__)
        skipped |= _NOT_OF_THE_GRAPH
        # torchvision's have two graphs, of which the mode chooses one.
        skipped |= {"_graph", "train_graph"} if "eval_graph" in attributes else set()
    if kind.__module__ == "torch.nn.utils.parametrize" and "parametrizations" in module._modules:
        # A class made for this module, with properties that lead to the submodules named so.
        kind = kind.__bases__[0]
    hooks = [
        (
            hook,
            number in attributes.get(f"{moment}_with_kwargs", ()),
            number in attributes.get(f"{moment}_always_called", ()),
        )
        for moment in ("_forward_pre_hooks", "_forward_hooks")
        for number, hook in attributes.get(moment, {}).items()
    ]
    n_before = len(attributes.get("_forward_pre_hooks", ()))
    tables = [attributes.pop(name, {}) for name in ("_parameters", "_buffers", "_modules")]
    rest = [(name, attributes[name]) for name in sorted(set(attributes) - skipped)]
    return ModuleParts(kind, hooks, n_before, tables, rest)


def names_shared(module: nn.Module) -> list[tuple[str, int]]:
    """Return which names lead to the same submodule or parameter, as the number of the first."""
    found = [
        *module.named_modules(remove_duplicate=False),
        *module.named_parameters(remove_duplicate=False),
    ]
    first: dict[int, int] = {}
    return [(name, first.setdefault(id(each), len(first))) for name, each in found]


def torch_parts(value: Any, path: str) -> list[Any] | None:
    """Return what a tensor, a dtype, a device or an operator is; None for anything else.

    Parameters
    ----------
    value : object
        Anything.
    path : str
        Where it stands, for messages.

    Raises
    ------
    UnsupportedModelError
        The tensor has no content that can be read.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    if isinstance(value, torch.Tensor):
        return _tensor_parts(torch, value, path)
    if isinstance(value, (torch.dtype, torch.device, torch.layout, torch.memory_format)):
        return [type(value).__name__, str(value)]
    if isinstance(value, torch.Size):
        return ["Size", tuple(value)]
    if isinstance(value, torch.Generator):
        return ["Generator", str(value.device), value.get_state()]
    if isinstance(value, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
        return ["operator", str(value), torch.__version__]
    if isinstance(value, _class_of("torch._dynamo.eval_frame", "OptimizedModule")):
        if value._forward_hooks or value._forward_pre_hooks:
            raise UnsupportedModelError(
                f"{path} is a compiled module with hooks of its own, which a copy of it loses. "
                "Register them on the module before torch.compile."
            )
        return ["compiled", value._orig_mod]
    if isinstance(value, _class_of("torch.fx", "Graph")):
        code = value.python_code("self")
        return ["graph", code.src, sorted(code.globals.items())]
    if isinstance(value, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        raise UnsupportedModelError(
            f"{path} is a TorchScript program, whose content cannot be told. Pass the "
            "torch.nn.Module that it was compiled from."
        )
    return None


def _tensor_parts(torch: Any, tensor: Any, path: str) -> list[Any]:
    reason = None
    if isinstance(tensor, torch.nn.parameter.UninitializedTensorMixin):
        reason = "has no values yet: run the module once on an input"
    elif tensor.is_meta:
        reason = "is on the device 'meta', which keeps no values: load the weights first"
    elif tensor.is_quantized or tensor.is_nested:
        what = "quantised" if tensor.is_quantized else "nested"
        reason = f"is {what}, and skembed reads plain numbers only: pass the float module"
    if reason is not None:
        raise UnsupportedModelError(f"{path} {reason}.")
    kind = type(tensor)
    is_parameter = kind is torch.nn.Parameter
    tensor = tensor.detach()
    named = [kind, str(tensor.dtype), tuple(tensor.shape)]
    if torch.utils._python_dispatch.is_traceable_wrapper_subclass(tensor):
        names, context = tensor.__tensor_flatten__()
        return [*named, context, [(name, getattr(tensor, name)) for name in names]]
    # Copying a module drops what hangs on its parameters; on other tensors it is kept.
    attributes = {} if is_parameter else dict(sorted(vars(tensor).items()))
    if type(tensor) is not torch.Tensor:
        tensor = tensor.as_subclass(torch.Tensor)
    if tensor.layout == torch.sparse_coo:
        tensor = tensor.coalesce()
        inner = [tensor.indices(), tensor.values()]
    elif tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        inner = [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    elif tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        inner = [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    else:
        return [*named, attributes, _digest_values(torch, tensor, path)]
    return [*named, attributes, str(tensor.layout), inner]


def _digest_values(torch: Any, tensor: torch.Tensor, path: str) -> bytes:
    dense = tensor.to_dense() if tensor.layout != torch.strided else tensor
    dense = dense.resolve_conj().resolve_neg().cpu().contiguous()
    try:
        # As bytes, because NumPy has no bfloat16; a view, because copies of large models cost.
        content = dense.reshape(-1).view(torch.uint8).numpy()
    except (RuntimeError, TypeError) as error:
        raise UnsupportedModelError(
            f"{path} holds {tensor.dtype} in a {type(tensor).__name__}, which cannot be read: "
            f"{error}. Convert it to float32."
        ) from error
    return blake2b(content.data, digest_size=16).digest()


def _class_of(module: str, name: str) -> Any:
    """Return a class of a module that may not be imported; without it, a class of nothing."""
    return getattr(sys.modules.get(module), name, ())
