"""Pictures and sounds of rows as small files in base64, for a page that has all of them in it.

They are read as `ImageEmbedder` and `AudioEmbedder` read them.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import features

from skembed._inputs import CheckedRows, is_missing
from skembed._later import later
from skembed.exceptions import InvalidRowsError, describe_rows
from skembed.inspection._checks import hint_of_range, items_of

__all__ = ["PICTURE_TYPE", "SOUND_TYPE", "Media", "names_of_files"]

# All browsers play MP3; Safari has read Opus in Ogg for a short time only.
_SOUND_FORMAT = "MP3" if "MP3" in soundfile.available_formats() else "FLAC"
SOUND_TYPE = "audio/mpeg" if _SOUND_FORMAT == "MP3" else "audio/flac"
_PICTURE_FORMAT = "WEBP" if features.check("webp") else "PNG"
PICTURE_TYPE = f"image/{_PICTURE_FORMAT.lower()}"

_RATE = 22_050
_N_AT_ONCE = 64
# Pictures as small as digits: blur would take much from them, and saves nothing.
_LOSSLESS_SIDE = 32

_check_images = later("skembed.image._inputs", "check_images")
_check_sounds = later("skembed.audio._inputs", "check_sounds")


class Media:
    """Reads pictures and sounds of some rows.

    Parameters
    ----------
    rows : ndarray of int
        Positions of the rows in the collections, which have others too.
    refuse_larger : callable
        Is told what is read, how many bytes its files have and how many rows they are of; raises
        if that is too much.
    """

    def __init__(
        self, rows: NDArray[np.int64], refuse_larger: Callable[[str, int, int], None]
    ) -> None:
        self._rows, self._refuse_larger = rows, refuse_larger

    def pictures(self, images: Any, *, side: int) -> list[str | None]:
        """Return each picture, at most `side` pixels high and wide; None is none."""
        some, where = self._some(images, "images")
        encode = partial(_thumbnail, side=side)
        return self._encode_all(_check_images(some), where, encode, "images")

    def sounds(self, sounds: Any, *, seconds: float, rate: float | None) -> list[str | None]:
        """Return the beginning of each sound; `rate` is that of arrays that come without one."""
        some, where = self._some(sounds, "sounds")
        encode = partial(_clip, n_samples=round(seconds * _RATE))
        return self._encode_all(_check_sounds(some, sampling_rate=rate), where, encode, "sounds")

    def _some(self, values: Any, what: str) -> tuple[Any, list[int]]:
        """Return what rows of the map have, and which rows: others have none."""
        items = items_of(values, what)
        if getattr(items, "ndim", 1) > 1:
            return items[self._rows], list(range(len(self._rows)))
        some = [items[i] for i in self._rows.tolist()]
        where = [i for i, item in enumerate(some) if not is_missing(item)]
        return [some[i] for i in where], where

    def _encode_all(
        self, checked: CheckedRows, where: list[int], encode: Callable[[Any], bytes], what: str
    ) -> list[str | None]:
        found: list[str | None] = [None] * len(self._rows)
        faults = {int(self._rows[where[i]]): why for i, why in checked.faults.items()}
        n_bytes, n_done, n = 0, 0, len(checked.items)

        def attempt(i: int) -> str | Exception:
            try:
                return base64.b64encode(encode(checked.items[i])).decode()
            except Exception as error:  # decoders raise whatever damage leads them to
                return error

        with ThreadPoolExecutor(thread_name_prefix="skembed-page") as pool:
            for start in range(0, n, _N_AT_ONCE):
                here = range(start, min(start + _N_AT_ONCE, n))
                for i, data in zip(here, pool.map(attempt, here), strict=True):
                    place = where[checked.positions[i]]
                    if isinstance(data, str):
                        found[place] = data
                        n_bytes, n_done = n_bytes + len(data), n_done + 1
                    else:
                        faults[int(self._rows[place])] = str(data) or type(data).__name__
                self._refuse_larger(what, n_bytes, n_done)
        if faults:
            raise InvalidRowsError(
                f"{what}: {len(faults):,} of the map's {len(self._rows):,} rows cannot be shown:"
                f"{describe_rows(dict(sorted(faults.items())))}\n"
                "Fix them, give None for a row without one, or leave these rows out of the map."
                f"{hint_of_range(' '.join(faults.values()))}",
                faults,
            )
        return found


def names_of_files(values: Any, rows: NDArray[np.int64]) -> list[str]:
    """Return the file names of some rows, "" of those that are no paths."""
    items = items_of(values, "rows")
    if getattr(items, "ndim", 1) > 1:
        return [""] * len(rows)
    return [_name_of_file(items[i]) for i in rows.tolist()]


def _name_of_file(value: Any) -> str:
    is_path = isinstance(value, (str, os.PathLike)) and not str(value).startswith("data:")
    return Path(value).name if is_path else ""


def _thumbnail(picture: Any, side: int) -> bytes:
    """Return a picture of the image room as a small file."""
    image = picture.open()
    image.thumbnail((side, side))
    file = io.BytesIO()
    is_lossless = max(image.size) <= _LOSSLESS_SIDE
    image.save(file, _PICTURE_FORMAT, quality=75, lossless=is_lossless)
    return file.getvalue()


def _clip(sound: Any, n_samples: int) -> bytes:
    """Return the beginning of a sound of the audio room as a file."""
    samples = sound.read(_RATE).samples[:n_samples]
    file = io.BytesIO()
    # Inter-sample peaks of a resampled sound may lie a little above 1.
    soundfile.write(file, np.clip(samples, -1, 1), _RATE, format=_SOUND_FORMAT)
    return file.getvalue()
