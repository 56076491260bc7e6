"""Which family of text models a `model` parameter means, told without importing torch."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from skembed._backbone import Source
from skembed.exceptions import InvalidParameterError, did_you_mean
from skembed.text._models import MODELS
from skembed.text._settings import TextSettings
from skembed.text.static._kinds import is_static, is_static_folder
from skembed.weights import find_gguf, gguf_source, resolve_model

__all__ = ["family_of", "find_source"]

_SCHEMES = {"openai": "hosted"}

# Of two characters at least: "C:" is a disk.
_SCHEME = re.compile(r"([A-Za-z][\w.+-]+):(?![/\\])")


def family_of(model: Any) -> str:
    """Return the family of a model that is not a module: by its scheme, its file, its folder."""
    scheme = _scheme_of(model)
    if scheme is not None:
        return _SCHEMES[scheme]
    if find_gguf(model) is not None:
        return "gguf"
    if isinstance(model, (str, os.PathLike)) and _is_elmo(os.fspath(model)):
        return "elmo"
    if isinstance(model, (str, os.PathLike)) and is_static(Path(os.path.expanduser(model))):  # noqa: PTH111
        return "static"
    return "transformer"


def find_source(settings: TextSettings) -> Source | None:
    """Return what a model is read from; None where more than its files may decide it."""
    if settings.trust_remote_code or not isinstance(settings.model, (str, os.PathLike)):
        return None
    family = family_of(settings.model)
    if family == "gguf":
        return gguf_source(settings.model)
    if family != "transformer":
        return None
    source = resolve_model(settings.model, revision=settings.revision, known=MODELS)
    return None if is_static_folder(source.folder) else source


def _scheme_of(model: Any) -> str | None:
    """Return what stands before the colon of a name such as "openai:text-embedding-3-small"."""
    found = _SCHEME.match(model) if isinstance(model, str) else None
    if found is None or os.path.exists(model):  # noqa: PTH110  (never raises)
        return None
    if found[1] not in _SCHEMES:
        known = ", ".join(f"'{scheme}:NAME'" for scheme in _SCHEMES)
        close = did_you_mean(found[1], _SCHEMES)
        raise InvalidParameterError(
            f"model={model!r:.200}: there is no such file or folder, and {found[1]!r} is not a "
            f"source of models that skembed knows.{close} Expected a folder, a model's id on the "
            f"hub, or {known}."
        )
    return found[1]


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
