"""Folders that are written whole or not at all, and never over what is the user's.

Knows folders, not what is in them.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from skembed.exceptions import InvalidParameterError

__all__ = ["refuse_full", "written_whole"]


def refuse_full(place: Path, ours: Sequence[str] = ()) -> None:
    """Raise unless there is no folder there, an empty one, or one of nothing but `ours`.

    The first of `ours` is in every folder that is.
    """
    if place.is_dir():
        names = sorted(each.name for each in place.iterdir())
        is_ours = ours and ours[0] in names
        foreign = [name for name in names if not (is_ours and name in ours)]
        if not foreign:
            return
        more = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
        found = f"it holds {', '.join(foreign[:5])}{more}"
    elif place.exists() or place.is_symlink():
        found = "there is a file of this name"
    else:
        return
    raise InvalidParameterError(
        f"folder={str(place)!r}: expected a new or empty folder, but {found}. Nothing is "
        "overwritten: choose another folder, or remove this one."
    )


@contextmanager
def written_whole(place: Path, ours: Sequence[str] = ()) -> Iterator[Path]:
    """Yield a draft beside a folder, which takes its place, and that of `ours`, once it is done."""
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = place.with_name(f".{place.name}.{uuid.uuid4().hex}.partial")
    draft.mkdir()
    try:
        yield draft
        if place.is_dir():
            for name in ours:
                (place / name).unlink(missing_ok=True)
            place.rmdir()  # which fails if something has come into it since
        draft.rename(place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
