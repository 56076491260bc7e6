"""What an embedding store may be given.

Owns the checks of its parameters and what a path means. Must not know what is done with them.
"""

from __future__ import annotations

import os
from pathlib import Path

from skembed.exceptions import InvalidParameterError

__all__ = ["check_bound", "check_path"]


def check_path(path: object) -> Path | None:
    """Return the folder that `path` names, absolute; None for None."""
    if path is None:
        return None
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise InvalidParameterError(
            f"path must be None or the name of a folder; got {path!r} of type "
            f"{type(path).__name__}."
        )
    # Absolute, so that a worker that starts elsewhere finds the same folder.
    return Path(os.fsdecode(path)).expanduser().absolute()


def check_bound(max_bytes: object) -> int | None:
    """Return `max_bytes` if it can be a bound."""
    if max_bytes is None:
        return None
    if isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes <= 0:
        raise InvalidParameterError(
            f"max_bytes must be None or a positive number of bytes; got {max_bytes!r}."
        )
    return max_bytes
