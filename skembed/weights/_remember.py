"""Small facts that are slow to find out, remembered in the user's cache folder.

One small file each, written whole, so that processes need no lock to share them. If the folder
cannot be used, facts are kept only in this process. Must not know what the facts mean.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from skembed._forks import KeyLocks

__all__ = ["recalled", "remember", "remembered", "user_cache_folder"]

_locks = KeyLocks()
_facts: dict[Path, str] = {}


def user_cache_folder() -> Path:
    """Return the folder for what can be recomputed: `SKEMBED_HOME`, or one in the user's cache."""
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

    The key says all that it depends on. The first process to write wins, so that all agree.
    """
    path = _path_of(namespace, key)
    with _locks.hold(path):
        if path not in _facts:
            found = _read(path, key)
            _facts[path] = _write(path, key, compute()) if found is None else found
        return _facts[path]


def remember(namespace: str, key: str, value: str) -> None:
    """Keep a fact that may change, in the place of what it was before."""
    path = _path_of(namespace, key)
    with _locks.hold(path):
        if _read(path, key) != value:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            _write(path, key, value)
        _facts[path] = value


def recalled(namespace: str, key: str) -> str | None:
    """Return a fact that was computed before, or None."""
    path = _path_of(namespace, key)
    return _facts.get(path) or _read(path, key)


def _path_of(namespace: str, key: str) -> Path:
    name = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return user_cache_folder() / "remembered" / namespace / f"{name}.json"


def _read(path: Path, key: str) -> str | None:
    try:
        known, value = json.loads(path.read_text(encoding="utf-8"))
        return str(value) if known == key and _is_ours(path.parents[2]) else None
    except (OSError, ValueError, TypeError):  # not there, or damaged
        return None


def _write(path: Path, key: str, value: str) -> str:
    """Write the entry if there is no whole one; return the value that stands."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(path.parents[2]):
            return value
        draft = path.with_name(f".new-{uuid.uuid4().hex}")
        try:
            draft.write_text(json.dumps([key, value]), encoding="utf-8")
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
