"""Parameters of estimators as plain values that can be compared, stored and used as keys.

Knows values, not what they are for.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from enum import Enum
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions, make_constraint

from skembed._inputs import shown, with_article
from skembed.exceptions import did_you_mean
from skembed.store import EmbeddingStore

__all__ = [
    "OfModules",
    "fault_of",
    "is_module",
    "is_relative",
    "plain",
    "plain_fields",
    "snapshot",
]

_COMPARABLE = (str, bool, int, float, os.PathLike, EmbeddingStore)


def plain(value: Any) -> Any:
    """Return a parameter as Python's own str, number or Path, as grids of NumPy arrays set others.

    Of an enum's member its name (torchvision's weights are such), of a list a tuple; modules and
    functions stay as they are.
    """
    if isinstance(value, Enum) and not isinstance(value, (str, int)):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, str):
        return str.__str__(value)  # str() of an enum's member gives its name
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, (list, tuple)):
        return tuple(map(plain, value))
    return Path(value) if isinstance(value, os.PathLike) else value


def plain_fields(settings: Any) -> tuple[Any, ...]:
    """Return the settings that are plain values; the others decide the backbone."""
    values = (getattr(settings, field.name) for field in dataclasses.fields(settings))
    plain_types = (str, bool, int, float, tuple, Path, type(None))
    return tuple((type(v), v) for v in values if isinstance(v, plain_types))


def snapshot(params: dict[str, Any]) -> dict[str, Any]:
    """Return parameters that can be compared, and stay as they are when a list is changed."""
    return {name: _comparable(value) for name, value in params.items()}


def _comparable(value: Any) -> Any:
    if isinstance(value, _COMPARABLE) or value is None:
        return value
    if hasattr(value, "get_params") and not isinstance(value, type):
        return type(value), snapshot(value.get_params(deep=False))
    if isinstance(value, (list, tuple)):
        return type(value), tuple(map(_comparable, value))
    # A model's repr is that of any other of the same architecture.
    return type(value), id(value)


def is_module(value: Any) -> bool:
    """Return whether a value is a torch module, of which there are none where torch is not."""
    module = getattr(sys.modules.get("torch.nn"), "Module", None)
    return module is not None and isinstance(value, module)


class OfModules(HasMethods):
    """The constraint that a parameter is a torch module; torch is not imported for it."""

    def __init__(self) -> None:
        super().__init__("forward")

    def is_satisfied_by(self, value: Any) -> bool:
        """Return whether a value is a torch module."""
        return is_module(value)

    def __str__(self) -> str:
        return "a torch.nn.Module"


def is_relative(value: Any) -> TypeGuard[str | os.PathLike[str]]:
    """Return whether a parameter may be a relative path."""
    if not isinstance(value, (str, os.PathLike)):
        return False
    path = os.fsdecode(value)
    # "~" is another folder for another user, as it should be.
    return bool(path) and path[0] != "~" and not os.path.isabs(path)  # noqa: PTH117


_SPELLED = {
    "boolean": "True or False",
    "verbose": "True or False",
    callable: "a callable",
    str: "a str",
    os.PathLike: "a path",
    EmbeddingStore: "an EmbeddingStore",
    Integral: "an int",
    Real: "a number",
    Enum: "a member of torchvision's enums",
    None: "None",
}


def fault_of(owner: str, name: str, value: Any, constraints: list[Any]) -> str | None:
    """Say what is wrong with a parameter's value, and what was meant; None if nothing is."""
    if any(make_constraint(each).is_satisfied_by(value) for each in constraints):
        return None
    options = sorted(
        option for each in constraints if isinstance(each, StrOptions) for option in each.options
    )
    expected = [repr(option) for option in options]
    for each in constraints:
        if isinstance(each, Interval) and (each.right, each.closed) == (None, "left"):
            expected.append(f"{_spell(each.type)} of at least {each.left}")
        elif not isinstance(each, StrOptions):
            expected.append(_spell(each))
    listed = " or ".join(filter(None, [", ".join(expected[:-1]), expected[-1]]))
    close = did_you_mean(value, options) if isinstance(value, str) else ""
    hint = ""
    if name == "model":
        hint = _hint_of_model(value, owner)
    elif name == "training":
        hint = _hint_of_training(value)
    return f"{owner}({name}={_brief(value)}): expected {listed}.{close}{hint}"


def _spell(constraint: Any) -> str:
    if isinstance(constraint, type) and constraint not in _SPELLED:
        return with_article(constraint.__name__)
    return _SPELLED.get(constraint) or str(make_constraint(constraint))


def _brief(value: Any) -> str:
    """Return the repr of a plain value, and no more than the name of any other's class."""
    if isinstance(value, type):
        return f"<class {value.__name__}>"
    if isinstance(value, (str, bytes, int, float, list, tuple, type(None))):
        return shown(value)
    return f"<{type(value).__name__}>"


def _hint_of_training(value: Any) -> str:
    """Say what to give in place of a strategy's class or method."""
    if isinstance(value, type):
        return " This is a class: give an object of it, as FineTune()."
    if isinstance(value, str):
        return f" A method is a parameter of these: FineTune({shown(value)})."
    return ""


def _hint_of_model(value: Any, owner: str) -> str:
    """Say what to give in place of an object that is not taken for a model."""
    kind, library = type(value).__name__, type(value).__module__.partition(".")[0]
    if isinstance(value, type):
        return " This is a class: give an object of it, or a model's name."
    if hasattr(value, "tokenizer") and is_module(getattr(value, "model", None)):
        return " Give what it runs: model=pipeline.model, tokenizer=pipeline.tokenizer."
    if isinstance(value, Enum):
        return " Give the model's name, and these weights as `weights`."
    if hasattr(value, "get_params"):
        return f" This is an estimator: use it in place of {owner}."
    if library in ("transformers", "tokenizers") and not is_module(value):
        return f" Give the model's name or folder: its {kind} is loaded with it."
    if hasattr(value, "save_pretrained"):
        return " Save it with save_pretrained(folder), its tokenizer too, and give the folder."
    if isinstance(value, Mapping):
        return " If these are weights, save the whole model and give its folder."
    if value is None or isinstance(value, (int, float, bytes, list, tuple)):
        return ""
    return " To embed with a function or another library's model, use FunctionEmbedder."
