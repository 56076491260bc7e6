"""The content digest of what a user hands over in Python: a module, a transform, a setting.

Owns what counts as content: weights, attributes, structure and code. Must not know what the things
are for. torch is imported only where something is a tensor or a module.

A thing is walked once, depth first; each object becomes a digest of its kind and of its parts, so
that shared objects and equal copies are the same. An object within itself is named by the order in
which such objects are met.
"""

from __future__ import annotations

import collections
import copyreg
import enum
import functools
import logging
import struct
import types
import weakref
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from skembed.exceptions import UnsupportedModelError
from skembed.weights._code import (
    builtin_parts,
    class_members,
    code_parts,
    foreign_methods,
    globals_of,
    has_hidden_state,
    imports_of,
    is_empty,
    is_found_by_name,
    name_of,
    names_in,
    pickles_itself,
    release_of,
)
from skembed.weights._torch import is_module, module_parts, names_shared, torch_parts

if TYPE_CHECKING:
    from torch import nn

__all__ = ["fingerprint"]

_LENGTH = struct.Struct("<Q")

# Of a class's flags: that it was made at run time, by Python or by an extension.
_HEAP_TYPE = 1 << 9

_BUILTIN_CALLABLES = (
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
    types.ClassMethodDescriptorType,
    types.MemberDescriptorType,
    types.GetSetDescriptorType,
)


def fingerprint(thing: object) -> bytes:
    """Return a digest of the content of a torch module, a callable or a setting.

    It is the same for a copy, for what is unpickled in another process, and in every process. It
    is another one as soon as something changes that may change what the thing computes:

    - parameters and buffers (name, type, shape, values), wherever they are and however laid out;
    - every other attribute, at any depth, also what a forward pass has left there;
    - the names, the order and the sharing of submodules;
    - forward hooks;
    - code: of libraries, the name and the release; of the user's own functions and classes, the
      bytecode with its constants, defaults and closures, and all that it refers to. Line numbers,
      comments and paths do not count; the release of Python does.

    It does not take in `training`, `requires_grad`, gradients, and hooks that run when gradients
    or state dicts do. It cannot see a change of a library's functions at run time
    (`torch.relu = mine`) nor files that the thing reads when it runs.

    Parameters
    ----------
    thing : object
        A `torch.nn.Module`, a function, a callable object, or plain values.

    Returns
    -------
    bytes
        16 bytes of BLAKE2b.

    Raises
    ------
    UnsupportedModelError
        Something within it has a content that cannot be told (an open file, a lock, quantised
        weights); the message says where.

    Examples
    --------
    >>> from skembed.weights import fingerprint
    >>> fingerprint(lambda x: x + 1) == fingerprint(lambda x: x + 1)
    True
    >>> fingerprint(lambda x: x + 1) == fingerprint(lambda x: x + 2)
    False
    """
    root = getattr(thing, "__qualname__", type(thing).__qualname__)
    try:
        found = _Walk().of(thing, root)
    except RecursionError as error:
        raise UnsupportedModelError(
            f"{root} is nested too deeply for its content to be told. Flatten it, or raise "
            "sys.setrecursionlimit."
        ) from error
    return _hash([b"thing", found])


class _Walk:
    """One walk over a thing and all that it is made of."""

    def __init__(self) -> None:
        self._digests: dict[int, bytes] = {}
        self._open: set[int] = set()
        self._within_itself: dict[int, bytes] = {}
        # An object that dies during the walk would leave its id to another.
        self._alive: list[object] = []

    def of(self, value: Any, path: str) -> bytes:
        """Return the digest of a value; of the simplest ones, what they are."""
        plain = _plain(value)
        if plain is not None:
            return plain
        key = id(value)
        if key in self._digests:
            return self._digests[key]
        if key in self._open:
            number = _LENGTH.pack(len(self._within_itself))
            return self._within_itself.setdefault(key, b"@" + number)
        self._open.add(key)
        self._alive.append(value)
        try:
            parts = self._parts(value, path)
        finally:
            self._open.discard(key)
        digest = b"#" + _hash([*parts, self._within_itself.get(key, b"")])
        self._digests[key] = digest
        return digest

    def _parts(self, value: Any, path: str) -> list[bytes]:
        of_torch = torch_parts(value, path)
        if of_torch is not None:
            return [b"torch", *self._all(of_torch, path)]
        if is_module(value):
            return self._module(value, path)
        if isinstance(value, np.ma.MaskedArray):
            return [b"masked", *self._all([value.data, value.mask, value.fill_value], path)]
        if isinstance(value, (np.ndarray, np.generic)):
            return self._array(value, path)
        if isinstance(value, types.GenericAlias):
            return [b"generic", *self._all([value.__origin__, value.__args__], path)]
        if isinstance(value, type):
            return self._class(value, path)
        return (
            self._callable(value, path) or self._container(value, path) or self._other(value, path)
        )

    def _callable(self, value: Any, path: str) -> list[bytes] | None:
        if isinstance(value, types.FunctionType):
            return self._function(value, path)
        if isinstance(value, types.CodeType):
            return [b"code", *self._all(code_parts(value), path)]
        if isinstance(value, types.MethodType):
            return [b"method", *self._all([value.__func__, value.__self__], path)]
        if isinstance(value, _BUILTIN_CALLABLES):
            return [b"builtin", *self._all(builtin_parts(value), path)]
        if isinstance(value, property):
            return [b"property", *self._all([value.fget, value.fset, value.fdel], path)]
        if isinstance(value, (staticmethod, classmethod)):
            return [type(value).__name__.encode(), self.of(value.__func__, path)]
        if isinstance(value, functools.cached_property):
            return [b"cached_property", self.of(value.func, path)]
        if isinstance(value, types.ModuleType):
            return self._python_module(value, frozenset(), path)
        if isinstance(value, functools._lru_cache_wrapper):
            return [b"lru_cache", self.of(value.__wrapped__, path)]
        return None

    def _container(self, value: Any, path: str) -> list[bytes] | None:
        kind = type(value)
        if kind in (list, tuple):
            items = [self.of(item, f"{path}[{i}]") for i, item in enumerate(value)]
            return [kind.__name__.encode(), *items]
        if kind in (dict, collections.OrderedDict, types.MappingProxyType):
            return [kind.__name__.encode(), *self._mapping(value, path)]
        if isinstance(value, (set, frozenset)):
            items = sorted(self.of(item, f"an element of {path}") for item in value)
            extra = [] if kind in (set, frozenset) else [self.of(kind, path)]
            return [b"set", *items, *extra, *self._attributes(value, path)]
        if isinstance(value, enum.Enum):
            return [b"enum", *self._all([type(value), value._name_, value._value_], path)]
        if isinstance(value, PurePath):
            return [b"path", *self._all([kind, str(value)], path)]
        if isinstance(value, weakref.ReferenceType):
            return [b"reference", self.of(value(), path)]
        if isinstance(value, logging.Logger):
            return [b"logger"]  # it tells, and decides nothing
        return None

    def _other(self, value: Any, path: str) -> list[bytes]:
        """Describe an object by its class, attributes and what its class says when it pickles."""
        kind = type(value)
        parts = [b"object", self.of(kind, path)]
        try:
            parts += self._attributes(value, path)
            if not has_hidden_state(kind):
                return parts
        except UnsupportedModelError:
            # A lock or a handle, which the class may know how to leave out of its pickles.
            if not pickles_itself(kind):
                raise
            parts += self._attributes(value, path, is_lenient=True)
        try:
            registered = copyreg.dispatch_table.get(kind)
            reduced = registered(value) if registered else value.__reduce_ex__(4)
        except Exception as error:
            raise _refusal(value, path) from error
        if isinstance(reduced, str):
            return [*parts, *self._all([getattr(value, "__module__", None), reduced], path)]
        function, arguments, state, items, pairs = [*reduced, None, None, None][:5]
        items, pairs = list(items or ()), list(pairs or ())
        return [*parts, *self._all([function, arguments, state, items, pairs], path)]

    def _attributes(self, value: Any, path: str, is_lenient: bool = False) -> list[bytes]:
        # Slots first: an instance may have both.
        found = {
            name: getattr(value, name)
            for name in copyreg._slotnames(type(value))  # type: ignore[attr-defined]
            if hasattr(value, name)
        }
        found.update(getattr(value, "__dict__", {}))
        parts = []
        for name, each in sorted(found.items(), key=lambda pair: str(pair[0])):
            try:
                parts += [self.of(name, path), self.of(each, f"{path}.{name}")]
            except UnsupportedModelError:
                if not is_lenient:
                    raise
        return [_LENGTH.pack(len(parts)), *parts]

    def _module(self, module: nn.Module, path: str) -> list[bytes]:
        content = module_parts(module)
        parts = [b"module", *self._all([content.kind, content.n_before], path)]
        parts += self._all(content.hooks, f"{path} (a forward hook)")
        for table in content.tables:
            parts += self._mapping(table, path, is_dotted=True)
        for name, value in content.attributes:
            parts += [self.of(name, path), self.of(value, f"{path}.{name}")]
        if len(self._open) == 1:
            parts.append(self.of(names_shared(module), path))
        return parts

    def _array(self, value: Any, path: str) -> list[bytes]:
        # A file in memory is an array like any other.
        kind = np.ndarray if type(value) is np.memmap else type(value)
        array = np.asarray(value)
        if array.dtype.hasobject:
            content = self.of(array.tolist(), path)
        else:
            content = _hash([np.ascontiguousarray(array).reshape(-1).view(np.uint8).data])
        named = [kind, str(array.dtype.descr), str(array.dtype), array.shape]
        extra = self._attributes(value, path) if kind is not np.ndarray else []
        return [b"array", *self._all(named, path), content, *extra]

    def _class(self, cls: type, path: str) -> list[bytes]:
        module, name = name_of(cls)
        release = release_of(module)
        is_static = not cls.__flags__ & _HEAP_TYPE  # it never changes in one release of its maker
        if is_static or (release is not None and is_found_by_name(cls, module, name)):
            patched = foreign_methods(cls)
            return [b"library", *self._all([module, name, release, *patched], path)]
        path = f"class {cls.__qualname__}"
        members = class_members(cls)
        metaclass = type(cls) if type(cls) is not type else None
        named = [b"class", *self._all([cls.__qualname__, metaclass, cls.__bases__], path)]
        return named + [
            self.of(each, f"{path}.{key}" if i else path)
            for key, value in members
            for i, each in enumerate((key, value))
        ]

    def _function(self, function: types.FunctionType, path: str) -> list[bytes]:
        namespace, code = function.__globals__, function.__code__
        module = namespace.get("__name__")
        release = release_of(module)
        if release is not None and is_found_by_name(function, module, function.__qualname__):
            return [b"library", *self._all([module, function.__qualname__, release], path)]
        keywords = sorted((function.__kwdefaults__ or {}).items())
        parts = [b"function", *self._all([code, function.__defaults__, keywords], path)]
        parts += self._attributes(function, path)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            where = f"{path} ({name} of its closure)"
            parts.append(b"empty" if is_empty(cell) else self.of(cell.cell_contents, where))
        if release is not None:
            return [*parts, *self._all([module, function.__qualname__, release], path)]
        for name in globals_of(code):
            where = f"{path} (global {name})"
            parts += [self.of(name, path), self._global(name, function, where)]
        for name, imported in imports_of(code, namespace):
            where = f"{path} (import {name})"
            parts += [self.of(name, path), *self._python_module(imported, names_in(code), where)]
        return parts

    def _global(self, name: str, function: types.FunctionType, path: str) -> bytes:
        if name not in function.__globals__:
            return b"builtin"
        value = function.__globals__[name]
        if isinstance(value, types.ModuleType):
            return _hash(self._python_module(value, names_in(function.__code__), path))
        return self.of(value, path)

    def _python_module(
        self, module: types.ModuleType | None, names: frozenset[str], path: str
    ) -> list[bytes]:
        """Describe a Python module: a library by its release, the user's by what is used of it."""
        if module is None:
            return [b"missing"]
        release = release_of(module.__name__)
        if release is not None:
            return [b"library", *self._all([module.__name__, release], path)]
        if not names:
            raise _refusal(module, path)
        used = sorted((key, value) for key, value in vars(module).items() if key in names)
        parts = [b"python module"]
        for key, value in used:
            where = f"{path}.{key}"
            if isinstance(value, types.ModuleType):
                inner = frozenset(names - {key})
                parts.append(_hash(self._python_module(value, inner, where)) if inner else b"")
            else:
                parts += [self.of(key, path), self.of(value, where)]
        return parts

    def _mapping(
        self, mapping: Mapping[Any, Any], path: str, is_dotted: bool = False
    ) -> list[bytes]:
        parts = [_LENGTH.pack(len(mapping))]
        for key, value in mapping.items():
            where = f"{path}.{key}" if is_dotted else f"{path}[{key!r}]"
            parts += [self.of(key, f"a key of {path}"), self.of(value, where)]
        return parts

    def _all(self, values: Iterable[Any], path: str) -> list[bytes]:
        found = [self.of(value, path) for value in values]
        return [_LENGTH.pack(len(found)), *found]


def _plain(value: Any) -> bytes | None:
    """Return what a simple value is, tagged by its type; None for anything else."""
    kind = type(value)
    if value is None or value is Ellipsis or value is NotImplemented:
        return b"n" + str(value).encode()
    if isinstance(value, str) and kind is str:
        return b"s" + value.encode("utf-8", "surrogatepass")
    if isinstance(value, bytes) and kind is bytes:
        return b"b" + value
    if kind is bool or kind is int:
        return (b"t" if kind is bool else b"i") + b"%x" % value
    if kind is float:
        return b"d" + struct.pack("<d", value)
    if kind is complex:
        return b"c" + struct.pack("<dd", value.real, value.imag)
    return None


def _hash(parts: Iterable[bytes | memoryview]) -> bytes:
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(_LENGTH.pack(len(part)))
        digest.update(part)
    return digest.digest()


def _refusal(value: object, path: str) -> UnsupportedModelError:
    kind = type(value)
    return UnsupportedModelError(
        f"{path} is a {kind.__module__}.{kind.__qualname__}, whose content cannot be told; vectors "
        "are stored under a digest of all that makes them. Keep plain values there (numbers, "
        "strings, tensors, arrays) and make the object where it is used, or define __getstate__ "
        "without it."
    )
