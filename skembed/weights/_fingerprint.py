"""The content digest of a user's Python objects: a module, a transform, a setting.

Owns what counts as content. An object is pickled into a hash, as cloudpickle does: tensors count by
their values, library objects by name and release, the user's own functions and classes by their
code. Must not know what the objects are for; torch is never imported here.
"""

from __future__ import annotations

import enum
import functools
import importlib.metadata
import inspect
import io
import logging
import platform
import re
import sys
import types
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
from cloudpickle.cloudpickle import _extract_code_globals

from skembed.exceptions import UnsupportedModelError

__all__ = ["fingerprint"]

# What a module says of itself and of its file.
_OF_THE_FILE = {"__name__", "__file__", "__doc__", "__package__", "__builtins__"}

# Of a class's flags: that it was made at run time, by Python or by an extension.
_HEAP_TYPE = 1 << 9

_ATOMS = (type(None), bool, int, float)

# Read anew whenever asked for; larger tensors only if they seem to have changed.
_SMALL = 1 << 14
_N_TENSORS = 20_000
_LEAST_SAMPLED, _MOST_SAMPLED = 64, 1 << 20

# Of a torch module, what no forward pass in evaluation mode reads.
_NOT_IN_FORWARD = re.compile(
    r"training|_(is_full_)?backward_\w+|_\w*state_dict\w*_hooks|_non_persistent_buffers_set|"
    r"_compiled_call_impl|_flat_weight_refs"
)
# Of a traced module, what is made from its graph or says how it was traced.
_NOT_OF_THE_GRAPH = re.compile(
    r"_graph|(train|eval)_graph|_code|_lineno_map|_prologue_start|_tracer_\w+|meta|"
    r"_graphmodule_cls_name|_(replace|create_node|erase_node|deepcopy)_hooks"
)
# What a class says of itself or keeps for speed.
_NOT_BEHAVIOUR = re.compile(
    r"__(abstractmethods|annotat\w+|dict|doc|firstlineno|module|orig_bases|parameters|qualname|"
    r"slotnames|static_attributes|type_params|weakref)__|_abc_impl"
)


def fingerprint(thing: object) -> bytes:
    """Return a digest of the content of a torch module, a callable or a setting.

    It is 16 bytes, the same for a deep copy, for what is unpickled, and in every process. It is
    another one when something changes that decides what the thing computes: parameters and
    buffers, every other attribute, the names and order of submodules, forward hooks, the release
    of a library whose code it uses, and the code of the user's own functions and classes with its
    constants, defaults, closures and the global variables that it reads.

    It does not take in `training`, `requires_grad`, gradients, and hooks that run when gradients
    or state dicts do. It cannot see functions of libraries that are replaced at run time
    (`torch.relu = mine`), modules that code imports when it runs, nor files that it reads.

    The digest of a large tensor is remembered until torch counts a change of it, or a value of its
    first row or column differs. Other changes that torch cannot count (`weight.data[3, 2] = 1`)
    go unseen in this process: change weights under `torch.no_grad()` instead.

    An UnsupportedModelError says where something within it cannot be pickled or has no values.
    """
    try:
        return _digest(thing)
    except Exception as error:
        root = getattr(thing, "__qualname__", type(thing).__qualname__)
        where, reason = _find_fault(thing, root, error)
        raise UnsupportedModelError(f"{where} {reason}.") from error


class _Fault(ValueError):
    """What is wrong with a value, as the end of a sentence about it.

    `value` is the one that it is about, if its parts are not to be looked at.
    """

    def __init__(self, reason: str, value: Any = None) -> None:
        super().__init__(reason)
        self.value = value


def _digest(value: object) -> bytes:
    file = io.BytesIO()  # small: tensors and arrays are not written
    _Pickler(file, protocol=5).dump(value)
    return blake2b(file.getbuffer(), digest_size=16).digest()


def _hex(data: Any) -> str:
    return blake2b(data, digest_size=16).hexdigest()


class _Pickler(cloudpickle.Pickler):
    """Pickles content alone, the same whatever is shared or interned in this process."""

    def persistent_id(self, obj: Any) -> str | None:
        """Return what stands for a value, None to pickle it. A new string is never memoised."""
        kind = type(obj)
        if kind is str:
            return f"str {obj}"
        if kind in _ATOMS:
            return None
        if kind is bytes:
            return f"bytes {_hex(obj)}"
        if kind is tuple:
            is_flat = all(type(each) in _ATOMS or type(each) is str for each in obj)
            return f"tuple {obj!r}" if is_flat else None
        if kind in (dict, list):
            return None
        if kind in (set, frozenset):
            return f"{kind.__name__} {sorted(map(_digest, obj))}"
        if kind in (np.ndarray, np.memmap) and not obj.dtype.hasobject:
            values = np.ascontiguousarray(obj).reshape(-1).view(np.uint8).data
            return f"array {obj.dtype.descr} {obj.shape} {_hex(values)}"
        if isinstance(obj, np.dtype):
            return f"dtype {obj!r}"
        if kind is types.CodeType:
            return f"code {_digest_of_code(obj).hex()}"
        if isinstance(obj, (type, types.FunctionType, types.BuiltinFunctionType)):
            return _name_in_library(obj)
        if isinstance(obj, types.ModuleType):
            if _release_of(obj.__name__) is None:
                raise _Fault("is a module of your own code: import what you need from it instead")
            return f"module {obj.__name__} {_release_of(obj.__name__)}"
        if isinstance(obj, logging.Logger):  # it tells, and decides nothing
            return "logger"
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(obj, torch.Tensor):
            return _describe_tensor(torch, obj)
        if torch is not None and isinstance(obj, torch.jit.ScriptFunction):
            raise _Fault("uses a function of torch.jit; use the Python function it was made from")
        return None

    def reducer_override(self, obj: Any) -> Any:
        """Return the content of what pickle would take by name, or with too much about it."""
        if isinstance(obj, type):
            return _content_of_class(obj)
        if isinstance(obj, types.FunctionType):
            compiled = getattr(obj, "_torchdynamo_orig_callable", None)
            return _content_of_function(obj) if compiled is None else _content("compiled", compiled)
        if isinstance(obj, types.MethodType):
            return _content("method", [obj.__func__, obj.__self__])
        if isinstance(obj, (functools._lru_cache_wrapper, functools.cached_property)):
            wrapped = getattr(obj, "func", getattr(obj, "__wrapped__", None))
            return _content(type(obj).__name__, wrapped)
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(obj, torch.nn.Module):
            return _content_of_module(torch, obj)
        return NotImplemented


def _content(kind: str, content: Any) -> tuple[Any, ...]:
    """Return what pickle takes for a thing made of these parts, which may hold the thing itself."""
    return tuple, ((kind,),), content


def _name_in_library(obj: Any) -> str | None:
    """Return the name and release of what a library defines; None for anything else."""
    module, name = obj.__module__, obj.__qualname__
    if isinstance(obj, type) and not obj.__flags__ & _HEAP_TYPE:
        return f"type {module}.{name}"  # of Python itself, under whatever name it is to be found
    if isinstance(obj, types.BuiltinFunctionType):
        is_elsewhere = not isinstance(obj.__self__, (types.ModuleType, type(None)))
    else:
        found: Any = sys.modules.get(module) if isinstance(module, str) else None
        for part in name.split("."):
            found = getattr(found, part, None)
        is_elsewhere = found is not obj
    release = None if is_elsewhere else _release_of(module)
    return None if release is None else f"library {module}.{name} {release}"


@functools.cache
def _release_of(module: str | None) -> str | None:
    """Return the installed release that a module belongs to, None for the user's own code.

    A package that is installed in editable form is the user's own: it changes without a release.
    """
    root = (module or "").partition(".")[0]
    if root in sys.stdlib_module_names and root != "__main__":
        return f"python {platform.python_version()}"
    files = [getattr(sys.modules.get(name), "__file__", None) for name in (root, module or "")]
    if not {"site-packages", "dist-packages"} & set(Path(files[0] or files[1] or "").parts):
        return None
    try:
        release = importlib.metadata.version(root)
    except importlib.metadata.PackageNotFoundError:  # of another name than its module: slow to find
        names = importlib.metadata.packages_distributions().get(root)
        if not names:
            return None
        release = importlib.metadata.version(names[0])
    return f"{root} {'.'.join(release.split('.')[:2])}"


def _content_of_class(cls: type) -> tuple[Any, ...]:
    # An enum's tables of members stand beside the members.
    hidden = r"_(?!_).*" if issubclass(cls, enum.Enum) else "$"
    members = {
        name: value
        for name, value in sorted(vars(cls).items())
        if not _NOT_BEHAVIOUR.fullmatch(name) and not re.fullmatch(hidden, name)
    }
    return _content("class", [cls.__qualname__, type(cls), cls.__bases__, members])


def _content_of_function(function: types.FunctionType) -> tuple[Any, ...]:
    code, namespace = function.__code__, function.__globals__
    module = namespace.get("__name__")
    release = _release_of(module) if module in sys.modules else None
    content = [code, function.__defaults__, function.__kwdefaults__, vars(function), release]
    content.append(dict(zip(code.co_freevars, function.__closure__ or (), strict=True)))
    if release is None:
        names = sorted(_extract_code_globals(code).keys() & namespace.keys() - _OF_THE_FILE)
        used = frozenset(name for each in _nested(code) for name in each.co_names)
        content.append({name: _used_of(namespace[name], used) for name in names})
    return _content("function", content)


def _used_of(value: Any, names: frozenset[str], depth: int = 4) -> Any:
    """Return a global variable, or what code that uses these names may take of a module."""
    if not isinstance(value, types.ModuleType) or _release_of(value.__name__) is not None:
        return value
    used = sorted(names & set(vars(value))) if depth else ()
    return {name: _used_of(vars(value)[name], names, depth - 1) for name in used}


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)


@functools.lru_cache(4096)
def _digest_of_code(code: types.CodeType) -> bytes:
    """Return the digest of bytecode and its constants, without line numbers and paths."""
    counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
    names = [code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars]
    handlers = getattr(code, "co_exceptiontable", b"")
    constants = [_digest(each) for each in code.co_consts]
    return _digest([sys.version_info[:2], code.co_code, handlers, counts, names, constants])


def _content_of_module(torch: Any, module: Any) -> tuple[Any, ...]:
    kind: type = type(module)
    is_exported = "_guards_fn" in module._modules or kind.__module__ == "torch.export.unflatten"
    if isinstance(module, torch.jit.ScriptModule) or is_exported:
        what = "is a program of torch.jit or torch.export; pass the module it was made from"
        raise _Fault(what, module)
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    if dynamo is not None and isinstance(module, dynamo.OptimizedModule):
        if module._forward_hooks or module._forward_pre_hooks:
            what = "is a compiled module with hooks of its own; register them before torch.compile"
            raise _Fault(what)
        return _content("compiled", module._orig_mod)
    state: Any = vars(module)
    if kind.__module__ == "torch.nn.utils.parametrize" and "parametrizations" in module._modules:
        kind = kind.__bases__[0]  # its own is made for this module alone
    elif getattr(kind, "__getstate__", None) is not getattr(object, "__getstate__", None):
        state = module.__getstate__()
    if not isinstance(state, Mapping):
        return _content("module", [kind, state])
    content, graph = {k: v for k, v in state.items() if not _NOT_IN_FORWARD.fullmatch(k)}, None
    fx = sys.modules.get("torch.fx")
    if fx is not None and isinstance(module, fx.GraphModule):
        kind = next(each for each in kind.__mro__ if "<locals>" not in each.__qualname__)
        content = {k: v for k, v in content.items() if not _NOT_OF_THE_GRAPH.fullmatch(k)}
        # torchvision's have two graphs, of which the mode chooses one.
        code = state.get("eval_graph", module.graph).python_code("self")
        graph = [code.src, sorted((k, str(v)) for k, v in code.globals.items())]
    for hook in state.get("_forward_pre_hooks", {}).values():
        if type(hook).__module__.startswith("torch.nn.utils."):  # norms and pruning of old
            made = getattr(hook, "name", getattr(hook, "_tensor_name", ""))
            content.pop(made, None)  # made of others before each forward pass
    for moment in ("_forward_pre_hooks", "_forward_hooks"):
        # Their numbers count all hooks of the process.
        numbered = content.pop(moment, {}).items()
        flags = [content.pop(f"{moment}_{flag}", ()) for flag in ("with_kwargs", "always_called")]
        content[moment] = [(hook, *(n in flag for flag in flags)) for n, hook in numbered]
    return _content("module", [kind, graph, dict(sorted(content.items()))])


_known: OrderedDict[int, tuple[Any, Any, str]] = OrderedDict()


def _describe_tensor(torch: Any, tensor: Any) -> str:
    if isinstance(tensor, torch.nn.parameter.UninitializedTensorMixin):
        raise _Fault("has no values yet: run the module once on an input")
    if tensor.is_meta:
        raise _Fault("is on the device 'meta', which keeps no values: load the weights")
    if tensor.is_quantized:
        raise _Fault("is quantised: pass the float module")
    kind = "Parameter" if isinstance(tensor, torch.nn.Parameter) else type(tensor).__qualname__
    named = f"tensor {kind} {tensor.dtype} {tuple(tensor.shape)} {tensor.layout}"
    plain = tensor.detach()
    if type(plain) is not torch.Tensor:
        plain = plain.as_subclass(torch.Tensor)
    # Others (sparse, with gaps or overlaps) are read each time.
    is_dense = plain.layout is torch.strided and (
        plain.is_contiguous()
        or (plain.ndim == 4 and plain.is_contiguous(memory_format=torch.channels_last))
    )
    is_small = plain.numel() * plain.element_size() <= _SMALL
    if is_small or not is_dense or plain.is_conj() or plain.is_neg() or plain.is_inference():
        return f"{named} {_hex(_read_bytes(torch, plain))}"
    flat = plain.as_strided((plain.numel(),), (1,))
    # The first of every row, and the first row: a change of whole rows or columns is seen.
    step = len(flat) // min(max(len(plain), _LEAST_SAMPLED), _MOST_SAMPLED)
    row = flat[: min(len(flat) // len(plain), _MOST_SAMPLED)]
    seen = _hex(_read_bytes(torch, torch.cat([flat[::step], row, flat[-1:]])))
    state = tensor._version, tensor.data_ptr(), plain.stride(), seen
    reference, known, digest = _known.get(id(tensor), (lambda: None, None, ""))
    if reference() is not tensor or known != state:
        digest = _hex(_read_bytes(torch, plain))
        _known[id(tensor)] = weakref.ref(tensor), state, digest
        if len(_known) > _N_TENSORS:
            _known.popitem(last=False)
    return f"{named} {digest}"


def _read_bytes(torch: Any, tensor: Any) -> Any:
    """Return the values as an array of bytes: NumPy has no bfloat16."""
    try:
        dense = tensor.to_dense() if tensor.layout != torch.strided else tensor
        dense = dense.resolve_conj().resolve_neg().cpu().contiguous()
        return dense.reshape(-1).view(torch.uint8).numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise _Fault(f"holds values that cannot be read ({error}); make it float32") from error


def _find_fault(value: Any, path: str, error: BaseException, depth: int = 20) -> tuple[str, str]:
    """Return where within a value lies what cannot be pickled, and what is wrong with it."""
    is_found = isinstance(error, _Fault) and error.value is value
    for name, part in _parts_of(value) if depth and not is_found else ():
        try:
            _digest(part)
        except Exception as inner:
            if isinstance(error, _Fault) and not isinstance(inner, _Fault):
                continue  # it is the whole that is at fault
            return _find_fault(part, path + name, inner, depth - 1)
    path = re.sub(r"\._(parameters|buffers|modules)\['(\w+)'\]", r".\2", path)
    if isinstance(error, _Fault):
        return path, str(error)
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    return path, (
        f"is a {kind}, which cannot be pickled: {type(error).__name__}: {error}. Keep plain values "
        "there (numbers, strings, tensors, arrays), which vectors are stored under, or define "
        "__getstate__ without it"
    )


def _parts_of(value: Any) -> Iterator[tuple[str, Any]]:
    form, parts = "[{!r}]", value
    if isinstance(value, types.FunctionType):
        used = inspect.getclosurevars(value)
        form, parts = " (uses {})", {**used.nonlocals, **used.globals}
    elif isinstance(value, (list, tuple, set, frozenset)):
        parts = dict(enumerate(value))
    elif not isinstance(value, Mapping):
        form, parts = ".{}", {} if isinstance(value, type) else getattr(value, "__dict__", {})
    return ((form.format(name), each) for name, each in parts.items())
