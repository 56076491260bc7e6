"""Which family of text models a `model` parameter means, told without importing torch."""

from __future__ import annotations

import os
import re
from typing import Any

from skembed.exceptions import InvalidParameterError, did_you_mean

__all__ = ["family_of"]

_SCHEMES = {"openai": "hosted"}

# Of two characters at least: "C:" is a disk.
_SCHEME = re.compile(r"([A-Za-z][\w.+-]+):(?![/\\])")


def family_of(model: Any) -> str:
    """Return the family of a model that is not a module: by its scheme, its file, its folder."""
    scheme = _scheme_of(model)
    return "transformer" if scheme is None else _SCHEMES[scheme]


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
