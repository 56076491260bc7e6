"""Small facts that are slow to find out, remembered in the user's cache folder.

Owns the place and format of the remembered facts: one small file each, written once, so that
processes need no lock to share them. Remembering is only a matter of speed: a missing, damaged or
forbidden folder means that facts live in this process alone. Must not know what the facts mean.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from skembed.weights._locks import KeyLocks

__all__ = ["remembered", "user_cache_folder"]

_locks = KeyLocks()
_facts: dict[Path, str] = {}


def user_cache_folder() -> Path:
    """Return the folder in which skembed keeps what it can recompute; it may not exist yet.

    It is `SKEMBED_HOME` if set; else `skembed` in `XDG_CACHE_HOME` or in `~/.cache`; for a user
    without a home, a private folder among the temporary files.
    """
    chosen = os.environ.get("SKEMBED_HOME")
    if chosen:
        return Path(os.path.expanduser(chosen)).absolute()  # noqa: PTH111  (never raises)
    base = os.environ.get("XDG_CACHE_HOME", "")
    if Path(base).is_absolute():  # the XDG specification asks that relative paths be ignored
        return Path(base) / "skembed"
    try:
        return Path.home() / ".cache" / "skembed"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"skembed-{os.getuid()}"


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
    name = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    path = user_cache_folder() / "remembered" / namespace / f"{name}.json"
    with _locks.hold(path):
        if path not in _facts:
            found = _read(path, key)
            _facts[path] = _write(path, key, compute()) if found is None else found
        return _facts[path]


def _checksum(key: str, value: Any) -> str:
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
    return value if entry.get("check") == _checksum(key, value) else None


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
