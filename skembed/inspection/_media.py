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

from skembed._inputs import CheckedRows, column_of
from skembed._later import later
from skembed.exceptions import InvalidRowsError, describe_rows

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

    def pictures(self, images: Any, *, side: int) -> list[str]:
        """Return each picture, at most `side` pixels high and wide."""
        checked = _check_images(self._some(images, "images"))
        return self._encode_all(checked, partial(_thumbnail, side=side), "images")

    def sounds(self, sounds: Any, *, seconds: float, rate: float | None) -> list[str]:
        """Return the beginning of each sound; `rate` is that of arrays that come without one."""
        checked = _check_sounds(self._some(sounds, "sounds"), sampling_rate=rate)
        return self._encode_all(checked, partial(_clip, n_samples=round(seconds * _RATE)), "sounds")

    def _some(self, values: Any, what: str) -> Any:
        if getattr(values, "ndim", 1) > 1 and not hasattr(values, "columns"):
            return values[self._rows]  # a stack
        column = column_of(values, what=what, example="a list of paths")
        return [column[i] for i in self._rows.tolist()]

    def _encode_all(
        self, checked: CheckedRows, encode: Callable[[Any], bytes], what: str
    ) -> list[str]:
        found: list[str] = []
        faults = {int(self._rows[i]): why for i, why in checked.faults.items()}
        n_bytes, n = 0, len(checked.items)

        def attempt(i: int) -> str | Exception:
            try:
                return base64.b64encode(encode(checked.items[i])).decode()
            except Exception as error:  # decoders raise whatever damage leads them to
                return error

        with ThreadPoolExecutor(thread_name_prefix="skembed-page") as pool:
            for start in range(0, n, _N_AT_ONCE):
                here = range(start, min(start + _N_AT_ONCE, n))
                for i, data in zip(here, pool.map(attempt, here), strict=True):
                    if isinstance(data, str):
                        found.append(data)
                        n_bytes += len(data)
                    else:
                        row = int(self._rows[checked.positions[i]])
                        faults[row] = str(data) or type(data).__name__
                self._refuse_larger(what, n_bytes, len(found))
        if faults:
            raise InvalidRowsError(
                f"{what}: {len(faults):,} of the map's {len(self._rows):,} rows cannot be shown:"
                f"{describe_rows(dict(sorted(faults.items())))}\n"
                "Fix them, or leave these rows out of the map.",
                faults,
            )
        return found


def names_of_files(values: Any, rows: NDArray[np.int64]) -> list[str]:
    """Return the file names of some rows, "" of those that are no paths."""
    if getattr(values, "ndim", 1) > 1 and not hasattr(values, "columns"):
        return [""] * len(rows)
    column = column_of(values, what="rows", example="a list of paths")
    return [_name_of_file(column[i]) for i in rows.tolist()]


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
