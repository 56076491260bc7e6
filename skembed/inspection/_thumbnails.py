"""Pictures beside their points on a map, so far from each other that they don't overlap."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skembed._inputs import is_missing
from skembed._later import later
from skembed._optional import import_optional
from skembed.exceptions import SkembedError
from skembed.inspection._checks import hint_of_range, items_of

__all__ = ["draw_thumbnails", "far_apart", "open_picture"]

_SIDE = 40  # pixels

_check_images = later("skembed.image._inputs", "check_images")


def draw_thumbnails(
    ax: Any, places: NDArray[np.float32], images: Any, rows: NDArray[np.int64], n_images: int
) -> list[Any]:
    """Draw up to `n_images` of the pictures of some rows on their points; return what was drawn."""
    purpose = "A map with pictures"
    offsetbox = import_optional("matplotlib.offsetbox", extra="plot", purpose=purpose)
    drawn = []
    items = items_of(images, "pictures")
    some = [items[i] for i in rows.tolist()]
    where = [i for i, image in enumerate(some) if not is_missing(image)]
    for i in (where[j] for j in far_apart(places[where], n_images)):
        picture = open_picture(some[i], _SIDE)
        box = offsetbox.AnnotationBbox(
            offsetbox.OffsetImage(np.asarray(picture), zoom=0.8),
            places[i],
            frameon=True,
            pad=0.1,
            bboxprops={"edgecolor": "0.6", "linewidth": 0.5},
        )
        drawn.append(ax.add_artist(box))
    return drawn


def far_apart(places: NDArray[np.float32], n: int) -> list[int]:
    """Return up to n points, each the one that is farthest from those before it."""
    if not len(places):
        return []
    span = np.ptp(places, axis=0)
    scaled = places / np.maximum(span, 1e-12)
    distances = np.full(len(places), np.inf)
    chosen: list[int] = []
    i = int(np.abs(scaled - np.median(scaled, axis=0)).sum(axis=1).argmin())
    while len(chosen) < n and distances[i] > 0:
        chosen.append(i)
        distances = np.minimum(distances, np.linalg.norm(scaled - scaled[i], axis=1))
        i = int(distances.argmax())
    return chosen


def open_picture(image: Any, side: int) -> Any:
    """Return a picture, as `ImageEmbedder` sees it, as a PIL image of at most `side` pixels."""
    checked = _check_images([image])
    try:
        if checked.faults:
            raise SkembedError(checked.faults[0])
        found = checked.items[0].open()
    except Exception as error:  # decoders raise whatever damage leads them to
        why = f"{error}{hint_of_range(str(error))}"
        raise SkembedError(f"images: {image!r:.100} cannot be drawn: {why}") from error
    found.thumbnail((side, side))
    return found
