"""Optional dependencies: a clear error if one is missing, with the command that installs it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from skembed._forks import one_at_a_time
from skembed.exceptions import MissingDependencyError

__all__ = ["import_optional"]


def import_optional(name: str, *, extra: str, purpose: str) -> Any:
    """Import a module that an extra of skembed brings, for a purpose, the subject of a sentence."""
    try:
        with one_at_a_time():
            return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] != name.split(".")[0]:
            raise  # it is installed and lacks something itself
        raise MissingDependencyError(
            f"{purpose} needs {name}, which is not installed: pip install skembed[{extra}]"
        ) from error
