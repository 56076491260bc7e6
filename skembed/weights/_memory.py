"""How much more memory this process may take, and which errors mean that there is none left.

Owns the reading of the system's and the container's accounts (Linux). Must not know what the memory
is for.
"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["available_memory", "is_out_of_memory"]

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Return the bytes that can be taken without swapping or being killed; None if unknown."""
    kib = _search(r"^MemAvailable: *(\d+) kB$", _PROC / "meminfo")
    # Control groups of version 2. In a container the path may be that of the host: then only the
    # root is there.
    group = _CGROUPS / (_search("^0::/(.*)$", _PROC / "self" / "cgroup") or "")
    rooms = [_of_group(g) for g in (group, *group.parents) if g.is_relative_to(_CGROUPS)]
    rooms.append(int(kib) * 1024 if kib else None)
    return min((room for room in rooms if room is not None), default=None)


def _search(pattern: str, path: Path) -> str | None:
    try:
        found = re.search(pattern, path.read_text(), re.MULTILINE)
    except OSError:
        return None
    return found[1] if found else None


def _of_group(group: Path) -> int | None:
    try:
        limit = int((group / "memory.max").read_text())  # "max" where there is none
        taken = int((group / "memory.current").read_text())
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        # Cached file pages count as taken but are given back on demand.
        return max(0, limit - taken + int(counts.get("inactive_file", 0)))
    except (OSError, ValueError):
        return None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the device's or the machine's memory ran out."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text
    )
