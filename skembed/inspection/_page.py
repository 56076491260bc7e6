"""A map as one HTML file that needs no network: the library, our script and the data, joined.

What is in the data reaches the page as base64 or as JSON without `<`, so that no text of the
user's is ever read as HTML; the page's policy allows no other script than ours and no address.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skembed._inputs import column_of, is_missing
from skembed.exceptions import InvalidParameterError
from skembed.inspection._checks import check_lengths
from skembed.inspection._colours import Colours, Legend
from skembed.inspection._map import nearest_rows
from skembed.inspection._media import PICTURE_TYPE, SOUND_TYPE, Media, names_of_files

if TYPE_CHECKING:
    from skembed.inspection._display import EmbeddingMapDisplay

__all__ = ["page_of"]

_WEB = Path(__file__).parent / "_web"
_SCRIPTS = ("data.js", "map.js", "page.js")
_MEGABYTE = 1_000_000


def page_of(
    display: EmbeddingMapDisplay,
    *,
    caption: str,
    texts: Any,
    images: Any,
    sounds: Any,
    title: str,
    cmap: Any,
    image_size: int,
    sound_seconds: float,
    sampling_rate: float | None,
    max_megabytes: float,
) -> bytes:
    """Return the page of a map; parameters are those of its `to_html`."""
    check_lengths(display.n_rows, texts=texts, images=images, sounds=sounds)
    n, rows = len(display.places), display.rows

    def refuse_larger(what: str, n_bytes: int, n_done: int) -> None:
        if n_bytes > max_megabytes * _MEGABYTE:
            raise InvalidParameterError(
                f"The map's file would be larger than max_megabytes={max_megabytes:g}: {n_done:,} "
                f"of {n:,} {what} are {n_bytes / _MEGABYTE:,.1f} MB. Make a map of fewer rows "
                "(max_rows=), show less of each (image_size=, sound_seconds=, or shorter texts: "
                "[text[:500] for text in texts]), or raise max_megabytes=."
            )

    media = Media(rows, refuse_larger)
    legend = Colours(display.y).legend(cmap)
    said = _texts(texts, images, sounds, rows)
    data = {
        "about": _json(_about(display, legend)),
        "places": _packed(_centred(display.places)),
        "texts": _deflated(_json(said).encode()),
        "codes": None if legend.codes is None else _packed(legend.codes.astype("<u4")),
        "values": None if legend.values is None else _packed(legend.values.astype("<f8")),
        "positions": None if n == display.n_rows else _packed(rows.astype("<u4")),
        "neighbours": None,
        "pictures": None,
        "sounds": None,
    }
    refuse_larger("texts", len(data["texts"] or ""), n)
    if images is not None:
        data["pictures"] = _json(media.pictures(images, side=image_size))
    if sounds is not None:
        data["sounds"] = _json(media.sounds(sounds, seconds=sound_seconds, rate=sampling_rate))
    if display.vectors is not None and n > 1:
        data["neighbours"] = _packed(nearest_rows(display.vectors, metric=display.metric))
    page = _joined(title, caption, data)
    refuse_larger("rows", len(page), n)
    return page


def _about(display: EmbeddingMapDisplay, legend: Legend) -> dict[str, Any]:
    kind = "classes" if legend.names else "numbers" if legend.values is not None else "none"
    about = {
        "n": len(display.places),
        "metric": display.metric,
        "kind": kind,
        "colours": legend.colours,
        "names": legend.names,
        "pictureType": PICTURE_TYPE,
        "soundType": SOUND_TYPE,
    }
    if legend.values is not None:
        known = legend.values[np.isfinite(legend.values)]
        about |= {"low": known.min().item(), "high": known.max().item()}
        about["nMissing"] = len(legend.values) - len(known)
    return about


def _texts(texts: Any, images: Any, sounds: Any, rows: NDArray[np.int64]) -> list[str] | None:
    """Return the text of each row of the map; files have their names."""
    if texts is not None:
        column: Sequence[Any] = column_of(texts, what="texts", example='["a text", "another"]')
        return ["" if is_missing(column[i]) else str(column[i]) for i in rows.tolist()]
    files = [names_of_files(each, rows) for each in (images, sounds) if each is not None]
    return ["\n".join(filter(None, names)) for names in zip(*files, strict=True)] or None


def _centred(places: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return places from -1 to 1 along the longer side of the map."""
    if not len(places):
        return places
    low, high = places.min(axis=0), places.max(axis=0)
    centred: NDArray[np.float32] = (places - (low + high) / 2) / (max(high - low) / 2 or 1)
    return centred.astype("<f4")


def _json(value: Any) -> str:
    """Return JSON that stands in a script element as it is; of other than ASCII the numbers."""
    found = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return found.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _packed(array: NDArray[Any]) -> str:
    return _deflated(np.ascontiguousarray(array).tobytes())


def _deflated(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 9)).decode()


def _joined(title: str, caption: str, data: dict[str, str | None]) -> bytes:
    """Return the page: a template, filled in."""
    style = _read("page.css")
    library = _read("regl-scatterplot.min.js")
    script = "\n".join(map(_read, _SCRIPTS))
    policy = (
        f"default-src 'none'; script-src {_hash(library)} {_hash(script)} 'unsafe-eval'; "
        f"style-src {_hash(style)}; img-src data:; media-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    blocks = [
        f'<script type="application/json" id="{name}">{value}</script>'
        for name, value in data.items()
        if value is not None
    ]
    parts = {
        "policy": policy,
        "title": _escaped(title),
        "caption": _escaped(caption),
        "style": style,
        "data": "\n".join(blocks),
        "library": library,
        "script": script,
    }
    page = re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _read("page.html"))
    return page.encode()


def _read(name: str) -> str:
    return (_WEB / name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    """Return what a policy calls a script or style by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _escaped(text: str) -> str:
    """Return text for HTML, which has neither null nor halves of surrogate pairs."""
    whole = text.encode("utf-8", "replace").decode()
    return html.escape(whole.replace("\0", "\N{REPLACEMENT CHARACTER}"))
