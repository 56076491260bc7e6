"""Vectors for the Embedding Projector, in the files that it and TensorBoard's plugin read.

Owns the folder. Numbers are text, nine digits each, from which any float32 is read back as it is:
TensorBoard's plugin reads every file of vectors as text first, and takes it for binary only if its
bytes are no UTF-8, which those of vectors may be; and the projector's own page takes nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skembed._folders import refuse_full, written_whole
from skembed._inputs import labels_of
from skembed.exceptions import (
    InvalidInputError,
    InvalidParameterError,
    InvalidRowsError,
    describe_rows,
)
from skembed.inspection._checks import items_of, numbers_of
from skembed.inspection._metadata import columns_of, faults_of, table_of
from skembed.inspection._sprite import MOST_PIXELS, side_of, sprite_of

__all__ = ["export_projector"]

_VECTORS, _METADATA, _SPRITE = "tensors.tsv", "metadata.tsv", "sprite.png"
_CONFIG = "projector_config.pbtxt"
_OURS = (_CONFIG, _VECTORS, _METADATA, _SPRITE)  # the first is always there


def export_projector(
    folder: str | os.PathLike[str],
    X: Any,
    metadata: Any = None,
    images: Sequence[Any] | None = None,
    *,
    image_size: int = 64,
) -> Path:
    """Write vectors for TensorFlow's Embedding Projector, in TensorBoard or on its page.

    `tensorboard --logdir FOLDER` shows them under "Projector". The page of the projector takes
    `tensors.tsv` and `metadata.tsv` by its button "Load"; pictures are shown in TensorBoard only.
    Both show the first 100,000 rows.

    Parameters
    ----------
    folder : str or path
        A new or empty folder, or one that holds an earlier export and nothing else, which is
        replaced.
    X : array-like of shape (n_rows, n_features)
        Vectors, of at least two features; they are written as float32.
    metadata : list, Series, frame, or dict of str to list, default=None
        What is known of the rows: one value for each, or columns of them. Missing values and blank
        texts are empty cells; line breaks, tabs and other control characters become spaces.
    images : sequence of n_rows pictures, default=None
        Paths, PIL images or arrays, as `EmbeddingMapDisplay.plot` takes them; None for a row
        without one.
    image_size : int, default=64
        Pixels a side of the pictures. They are smaller where so many don't fit in 8,192 x 8,192
        pixels, the most that the projector shows: beyond 16,384 pictures of 64 pixels.

    Returns
    -------
    folder : Path

    Raises
    ------
    InvalidInputError
        If X, metadata and images do not fit each other; the message has all faults.
    InvalidRowsError
        If vectors are not finite, or pictures cannot be drawn; it names the rows.
    InvalidParameterError
        If the folder holds other files.

    See Also
    --------
    EmbeddingMapDisplay

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from skembed.inspection import export_projector
    >>> X = [[0.1, 0.2], [0.3, 0.4]]
    >>> with TemporaryDirectory() as folder:
    ...     made = export_projector(folder, X, {"text": ["one", "two"], "number": [1, 2]})
    ...     sorted(path.name for path in made.iterdir())
    ['metadata.tsv', 'projector_config.pbtxt', 'tensors.tsv']
    """
    place = Path(folder).expanduser()
    refuse_full(place, _OURS)
    if not isinstance(image_size, int) or not 1 <= image_size <= MOST_PIXELS:
        raise InvalidParameterError(
            f"image_size={image_size!r}: expected pixels, from 1 to {MOST_PIXELS:,}."
        )
    vectors = numbers_of(X, "X")
    images = None if images is None else items_of(images, "pictures")
    columns = None if metadata is None else columns_of(metadata)
    _check(vectors, labels_of(X), columns, images)
    side = 0 if images is None else side_of(len(images), image_size)
    with written_whole(place, _OURS) as draft:
        if images is not None:
            sprite_of(images, side).save(draft / _SPRITE)
        if columns is not None:
            (draft / _METADATA).write_bytes(table_of(columns).encode("utf-8"))
        _write_vectors(draft / _VECTORS, vectors)
        config = _config(vectors.shape, columns is not None, side)
        (draft / _CONFIG).write_bytes(config.encode("ascii"))
    return place


def _check(
    vectors: NDArray[np.float32],
    labels: Sequence[Any] | None,
    columns: Sequence[tuple[str, Sequence[Any]]] | None,
    images: Sequence[Any] | None,
) -> None:
    """Raise one error that says all that is wrong."""
    if vectors.ndim != 2 or vectors.shape[0] < 1 or vectors.shape[1] < 2:
        raise InvalidInputError(
            "X: expected shape (n_rows, n_features), at least one row and two features, got "
            f"{vectors.shape}."
        )
    n_rows = len(vectors)
    faults = [] if columns is None else faults_of(columns, n_rows)
    if images is not None and len(images) != n_rows:
        faults.append(f"images: expected one for each of the {n_rows:,} rows, got {len(images):,}")
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist()
    if bad:
        of_rows = dict.fromkeys(bad, "NaN, or beyond float32")
        faults.append(
            f"X: expected finite numbers, got {len(bad):,} of {n_rows:,} rows that are not (leave "
            f"them out, of metadata and images too):{describe_rows(of_rows, labels)}"
        )
        if len(faults) == 1:
            raise InvalidRowsError(faults[0], of_rows)
    if faults:
        raise InvalidInputError("\n".join(faults))


def _write_vectors(path: Path, vectors: NDArray[np.float32]) -> None:
    line = "\t".join(["%.9g"] * vectors.shape[1]) + "\n"
    with path.open("w", encoding="ascii", newline="\n") as file:
        for row in vectors:
            file.write(line % tuple(row.tolist()))


def _config(shape: tuple[int, ...], has_metadata: bool, side: int) -> str:
    """Return the configuration, a protocol buffer as text; its strings need no escapes."""
    lines = [
        'tensor_name: "embeddings"',
        f'tensor_path: "{_VECTORS}"',
        *(f"tensor_shape: {length}" for length in shape),
    ]
    if has_metadata:
        lines.append(f'metadata_path: "{_METADATA}"')
    if side:
        dims = [f"  single_image_dim: {side}"] * 2
        lines += ["sprite {", f'  image_path: "{_SPRITE}"', *dims, "}"]
    return "".join(f"{line}\n" for line in ("embeddings {", *(f"  {x}" for x in lines), "}"))
