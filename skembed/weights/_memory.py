"""How much memory this process may still take, and which errors say that there is none.

Owns the reading of the system's and the container's accounts (Linux). Must not know what the memory
is for.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["available_memory", "is_out_of_memory"]

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Return the bytes that can be taken without swapping or being killed; None if unknown."""
    known = [n for n in (_of_system(), _of_container()) if n is not None]
    return min(known, default=None)


def _of_system() -> int | None:
    try:
        for line in (_PROC / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return None
    return None


def _of_container() -> int | None:
    """Return the least room in the control groups (version 2) that hold this process."""
    try:
        lines = (_PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return None
    rooms = []
    for path in (line[3:] for line in lines if line.startswith("0::")):
        # Within a container the path may be that of the host: then only the root is there.
        group = _CGROUPS / path.strip("/")
        rooms += [_of_group(g) for g in (group, *group.parents) if g.is_relative_to(_CGROUPS)]
    return min((room for room in rooms if room is not None), default=None)


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
