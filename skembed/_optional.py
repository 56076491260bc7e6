"""Dependencies that not everybody needs: imported when used, and missed with one clear error.

Must not know what they are used for.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from skembed.exceptions import MissingDependencyError

__all__ = ["import_optional"]


def import_optional(name: str, extra: str) -> ModuleType:
    """Return a module that an extra of skembed installs.

    Parameters
    ----------
    name : str
        The module.
    extra : str
        The extra that brings it.

    Raises
    ------
    MissingDependencyError
        If it is not installed, or cannot be imported; says which, and what to install.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        is_missing = isinstance(error, ModuleNotFoundError) and error.name in (name, package)
        found = "which is not installed" if is_missing else f"which cannot be imported ({error})"
        raise MissingDependencyError(
            f"This needs {package}, {found}. Install it with `pip install skembed[{extra}]`."
        ) from error
