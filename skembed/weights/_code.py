"""What the code of functions and classes says, apart from where it stands.

Owns which code is a library's, known by its release, and which is the user's own, known by what
it does; and what a piece of bytecode refers to. Must not know digests, tensors nor models.
"""

from __future__ import annotations

import copyreg
import dis
import functools
import importlib
import importlib.metadata
import platform
import re
import site
import struct
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

__all__ = [
    "builtin_parts",
    "class_members",
    "code_parts",
    "foreign_methods",
    "globals_of",
    "has_hidden_state",
    "imports_of",
    "is_empty",
    "is_found_by_name",
    "name_of",
    "names_in",
    "pickles_itself",
    "release_of",
]

# What a module says of itself and of its file: not the same in a worker process or after a move.
_OF_THE_FILE = frozenset(
    [
        "__builtins__",
        "__cached__",
        "__doc__",
        "__file__",
        "__loader__",
        "__name__",
        "__package__",
        "__path__",
        "__spec__",
    ]
)

# What a class says of itself, where it stands, or what Python keeps there for speed.
_NOT_BEHAVIOUR = frozenset(
    [
        "__abstractmethods__",
        "__annotate__",
        "__annotate_func__",
        "__annotations__",
        "__annotations_cache__",
        "__dict__",
        "__doc__",
        "__firstlineno__",
        "__module__",
        "__qualname__",
        "__slotnames__",
        "__static_attributes__",
        "__type_params__",
        "__weakref__",
        "_abc_impl",
    ]
)


@functools.cache
def release_of(module: str | None) -> str | None:
    """Return the library and release that a module belongs to, or None for the user's own code.

    A library is what was installed into Python's folders and says its version. A package that is
    installed in editable form is the user's own code: it changes without a new version.
    """
    root = (module or "").partition(".")[0]
    if not root or root in ("__main__", "__mp_main__"):
        return None
    if root in sys.builtin_module_names:
        return f"python {platform.python_version()}"
    file = _file_of(str(module)) or _file_of(root)
    if file is None:
        # Frozen into the interpreter.
        is_frozen = root in sys.stdlib_module_names and root in sys.modules
        return f"python {platform.python_version()}" if is_frozen else None
    is_installed = any(folder in file.parents for folder in _library_folders())
    if not is_installed and any(folder in file.parents for folder in _python_folders()):
        return f"python {platform.python_version()}"
    return _distribution_of(root, file)


def name_of(cls: type) -> tuple[str, str]:
    """Return the module and the qualified name of a class."""
    # Cython's classes of functions have a descriptor there.
    module: object = cls.__module__
    return module if isinstance(module, str) else "", cls.__qualname__


def is_found_by_name(value: Any, module: str | None, qualname: str) -> bool:
    """Return whether a module's name leads to this very function or class."""
    found: Any = sys.modules.get(module or "")
    for name in qualname.split("."):
        found = vars(found).get(name) if hasattr(found, "__dict__") else None
    return found is value


def code_parts(code: CodeType) -> list[object]:
    """Return what decides the behaviour of bytecode, without line numbers and paths.

    Code objects are among the constants.
    """
    return [
        code.co_name,
        code.co_code,
        code.co_consts,
        code.co_names,
        code.co_varnames,
        code.co_freevars,
        code.co_cellvars,
        code.co_argcount,
        code.co_posonlyargcount,
        code.co_kwonlyargcount,
        code.co_flags,
        getattr(code, "co_exceptiontable", b""),
    ]


def globals_of(code: CodeType) -> list[str]:
    """Return the global names that bytecode reads, also in functions within it."""
    names = {
        instruction.argval
        for each in _nested(code)
        for instruction in dis.get_instructions(each)
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }
    return sorted(names - _OF_THE_FILE)


def names_in(code: CodeType) -> frozenset[str]:
    """Return every name in bytecode, attributes too, also in functions within it."""
    return frozenset(name for each in _nested(code) for name in each.co_names)


def imports_of(code: CodeType, namespace: Mapping[str, Any]) -> list[tuple[str, ModuleType | None]]:
    """Return the modules that bytecode imports when it runs, by name; None if that would fail.

    They are imported, as running the code would.
    """
    found: dict[str, ModuleType | None] = {}
    for each in _nested(code):
        before: list[Any] = [0, 0]
        for instruction in dis.get_instructions(each):
            if instruction.opname == "IMPORT_NAME":
                level = before[0] if isinstance(before[0], int) else 0
                name = "." * level + str(instruction.argval)
                try:
                    found[name] = importlib.import_module(name, namespace.get("__package__"))
                except Exception:
                    # Code that tries an import may live without it.
                    found[name] = None
            if instruction.opname != "EXTENDED_ARG":
                before = [before[1], instruction.argval]
    return sorted(found.items(), key=lambda pair: pair[0])


def class_members(cls: type) -> list[tuple[str, Any]]:
    """Return what the body of a class defines, by name."""
    return sorted(
        (name, value)
        for name, value in vars(cls).items()
        if name not in _NOT_BEHAVIOUR
        # Enum's own tables (`_member_map_`); its members stand beside them.
        and not (hasattr(cls, "_member_map_") and re.fullmatch(r"_[^_].*[^_]_", name))
    )


def foreign_methods(cls: type) -> list[tuple[str, FunctionType]]:
    """Return the functions in a library's class that the user has put there."""
    return sorted(
        (name, value)
        for name, value in vars(cls).items()
        if isinstance(value, FunctionType) and _is_of_the_user(value.__globals__.get("__name__"))
    )


def builtin_parts(value: Any) -> list[Any]:
    """Return the name and release of a function in C, and the object that it is bound to."""
    owner = getattr(value, "__self__", None)
    if isinstance(owner, ModuleType):
        return [value.__qualname__, owner.__name__, release_of(owner.__name__)]
    scope = owner if isinstance(owner, type) else getattr(value, "__objclass__", None)
    if isinstance(scope, type):
        module, name = name_of(scope)
        release = release_of(module)
        # A class method of a library's class is known by name; any other binding counts.
        is_named = scope is owner and release is not None
        return [value.__qualname__, name, release, None if is_named else owner]
    home = getattr(value, "__module__", None)
    return [value.__qualname__, home, release_of(home), owner]


def is_empty(cell: CellType) -> bool:
    """Return whether a closure's variable has no value yet."""
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return True
    return False


def has_hidden_state(kind: type) -> bool:
    """Return whether instances hold more than attributes, by the size that C gives them."""
    n_words = len(copyreg._slotnames(kind))  # type: ignore[attr-defined]
    n_words += (kind.__dictoffset__ > 0) + (kind.__weakrefoffset__ > 0)
    plain = object.__basicsize__ + n_words * struct.calcsize("P")
    return kind.__itemsize__ != 0 or kind.__basicsize__ > plain


def pickles_itself(kind: type) -> bool:
    """Return whether a class decides what its pickles hold."""
    return kind in copyreg.dispatch_table or any(
        getattr(kind, name, None) is not getattr(object, name, None)
        for name in ("__reduce__", "__reduce_ex__", "__getstate__")
    )


def _is_of_the_user(module: str | None) -> bool:
    # Functions that a library makes by `exec` are of no module (namedtuple's).
    return module in sys.modules and release_of(module) is None


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


def _file_of(module: str) -> Path | None:
    found = sys.modules.get(module)
    file = getattr(found, "__file__", None) or next(iter(getattr(found, "__path__", ())), None)
    # Modules that are made at run time may name a file that is nowhere (torch.ops).
    return Path(file).resolve() if isinstance(file, str) and Path(file).is_absolute() else None


@functools.cache
def _library_folders() -> frozenset[Path]:
    named = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    user = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    return frozenset(Path(folder).resolve() for folder in [*named, *user])


@functools.cache
def _python_folders() -> frozenset[Path]:
    return frozenset(Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib"))


def _distribution_of(root: str, file: Path) -> str | None:
    """Return the release of an installed package; None if the file is not of that installation."""
    names = [root] if root in _SAME else sorted(set(_distributions().get(root, ())))
    found = []
    for name in names:
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        # Only an installation has a record of files; a source tree has metadata, too.
        is_beside = (
            distribution.read_text("RECORD") is not None
            and Path(str(distribution.locate_file(""))).resolve() in file.parents
        )
        if is_beside or any(folder in file.parents for folder in _library_folders()):
            found.append(f"{name} {distribution.version}")
    if not found and root in ("torch", "numpy"):
        # Built from a source tree: what the user wrote is elsewhere.
        return f"{root} {sys.modules[root].__version__}"
    return ", ".join(found) or None


# Their distributions bear the same name: no need to read those of all packages (0.3 to 0.7 s).
_SAME = frozenset(
    ["numpy", "scipy", "skembed", "timm", "torch", "torchvision", "torchaudio", "transformers"]
)


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()
