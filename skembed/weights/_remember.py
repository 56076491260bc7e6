"""Small facts that are slow to find out, remembered in the user's cache folder.

Owns the place and format of the remembered facts: one small file each, written once, so that
processes need no lock to share them. Remembering is only a matter of speed: a missing, damaged or
forbidden folder means that facts live in this process alone. Must not know what the facts mean.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

from skembed.exceptions import InvalidParameterError
from skembed.weights._locks import KeyLocks

__all__ = ["read_fact", "remembered", "user_cache_folder", "write_fact"]

_locks = KeyLocks()
_facts: dict[Path, str] = {}


def user_cache_folder() -> Path:
    """Return the folder in which skembed keeps what it can recompute; it may not exist yet.

    It is `SKEMBED_HOME` if set; else `skembed` in `XDG_CACHE_HOME`, in `LOCALAPPDATA` (Windows) or
    in `~/.cache`; for a user without a home, a private folder among the temporary files.
    """
    chosen = os.environ.get("SKEMBED_HOME")
    if chosen:
        return Path(os.path.expanduser(chosen)).absolute()  # noqa: PTH111  (never raises)
    bases = [os.environ.get("XDG_CACHE_HOME")]
    if sys.platform == "win32":
        bases.append(os.environ.get("LOCALAPPDATA"))
    for base in bases:
        # The XDG specification asks that relative paths be ignored.
        if base and Path(base).is_absolute():
            return Path(base) / "skembed"
    try:
        return Path.home() / ".cache" / "skembed"
    except RuntimeError:
        owner = os.getuid() if hasattr(os, "getuid") else "user"
        return Path(tempfile.gettempdir()) / f"skembed-{owner}"


def remembered(namespace: str, key: str, compute: Callable[[], str]) -> str:
    """Return a fact that was computed before, by any process of this user, or compute it now.

    The first process to write wins: later ones return its value, so all agree.

    Parameters
    ----------
    namespace : str
        What kind of fact; letters, digits, `-` and `_`.
    key : str
        Everything the fact depends on (versions, hardware, identity of a file, ...).
    compute : callable
        Called if nothing is remembered. If it raises, nothing is remembered.
    """
    path = _fact_path(namespace, key)
    with _locks.hold(path):
        value = read_fact(namespace, key)
        return write_fact(namespace, key, compute()) if value is None else value


def read_fact(namespace: str, key: str) -> str | None:
    """Return the remembered fact, or None if there is none or it is damaged."""
    path = _fact_path(namespace, key)
    if path not in _facts:
        value = _read(path, key)
        if value is None:
            return None
        _facts[path] = value
    return _facts[path]


def write_fact(namespace: str, key: str, value: str) -> str:
    """Remember a fact unless another process was faster; return the one that stands."""
    path = _fact_path(namespace, key)
    if path not in _facts:
        _facts[path] = _write(path, key, value)
    return _facts[path]


def _fact_path(namespace: str, key: str) -> Path:
    if not re.fullmatch(r"[\w-]+", namespace):
        raise InvalidParameterError(
            f"namespace must be of letters, digits, '-' and '_', got {namespace!r}."
        )
    name = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return user_cache_folder() / "remembered" / namespace / f"{name}.json"


def _checksum(key: str, value: str) -> str:
    return hashlib.blake2b(json.dumps([key, value]).encode(), digest_size=16).hexdigest()


def _read(path: Path, key: str) -> str | None:
    try:
        if not _is_ours(path.parents[2]):
            return None
        entry = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(entry, dict) or entry.get("key") != key:
        return None
    value = entry.get("value")
    is_whole = isinstance(value, str) and entry.get("check") == _checksum(key, value)
    return value if is_whole else None


def _write(path: Path, key: str, value: str) -> str:
    """Write the entry if there is no whole one; return the value that stands."""
    entry = json.dumps({"key": key, "value": value, "check": _checksum(key, value)})
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(path.parents[2]):
            return value
        draft = path.with_name(f".new-{uuid.uuid4().hex}")
        try:
            draft.write_text(entry, encoding="utf-8")
            path.hardlink_to(draft)  # the first to write wins
        except OSError:
            standing = _read(path, key)
            if standing is not None:
                return standing
            draft.replace(path)  # what stood there was damaged, or links are not possible
        finally:
            draft.unlink(missing_ok=True)
    except OSError:
        pass  # remembered in this process alone
    return value


def _is_ours(folder: Path) -> bool:
    """Return whether this user (or root) owns the folder: what others wrote is not trusted."""
    return not hasattr(os, "getuid") or folder.stat().st_uid in (os.getuid(), 0)
