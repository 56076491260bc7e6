"""Which family of text models a `model` parameter means, told without importing torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from skembed.text._static_kinds import is_static

__all__ = ["family_of"]


def family_of(model: Any) -> str:
    """Return the family of a model that is not a module: by its scheme, its file, its folder."""
    if isinstance(model, (str, os.PathLike)) and _is_elmo(os.fspath(model)):
        return "elmo"
    if isinstance(model, (str, os.PathLike)) and is_static(Path(os.path.expanduser(model))):  # noqa: PTH111
        return "static"
    return "transformer"


_OF_ELMO = ("options.json", "weights.hdf5")


def _is_elmo(name: Any) -> bool:
    """Return whether a name is that of ELMo's files, or of a folder that has them alone."""
    if not isinstance(name, str) or "\0" in name:
        return False
    if name.endswith(_OF_ELMO):
        return True
    try:
        names = {each.name for each in Path(os.path.expanduser(name)).iterdir()}  # noqa: PTH111
    except OSError:
        return False
    is_other = "config.json" in names or "modules.json" in names
    return not is_other and any(each.endswith(_OF_ELMO) for each in names)
