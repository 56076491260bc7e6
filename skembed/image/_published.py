"""The weights that torchvision publishes, and files in their place.

Knows torchvision's lists of weights; must not know modules.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from skembed.exceptions import InvalidParameterError
from skembed.weights import file_sha256, find_checkpoint

__all__ = ["find_weights"]


def find_weights(name: str, weights: str | Path | None) -> tuple[Path | None, Any]:
    """Return the file with a model's weights, and whose preset prepares its pictures.

    Parameters
    ----------
    name : str
        The model.
    weights : str, Path or None
        "auto", the name of published weights, a file, or None.

    Returns
    -------
    path : Path or None
        None for random weights.
    member : WeightsEnum
        The published weights: also of a file that is one of them by its content. Of other files
        and of random weights, the best ones.

    Raises
    ------
    InvalidParameterError
        If there are no weights of this name, and no such file.
    ModelNotFoundError
        If published weights are neither there nor can be downloaded.
    """
    from torchvision import models

    known = models.get_model_weights(name)
    if weights is None:
        return None, known["DEFAULT"]
    if isinstance(weights, str):
        short = weights.removeprefix(f"{known.__name__}.")
        if short in ("auto", *known.__members__):
            member = known["DEFAULT" if short == "auto" else short]
            return find_checkpoint(member.url), member
    path = Path(os.path.expanduser(weights))  # noqa: PTH111  (never raises)
    if path.is_file():
        return path, _published_as(path, known)
    listed = ", ".join(repr(each) for each in ("auto", *known.__members__))
    raise InvalidParameterError(
        f"weights={str(weights)!r} is neither a file nor weights of {name}. torchvision has "
        f"{listed}; None is random weights."
    )


def _published_as(path: Path, known: Any) -> Any:
    """Return the published weights that a file holds: pictures are prepared for these."""
    sha256 = file_sha256(path)
    for member in known:
        found = re.search(r"-([0-9a-f]{8,64})\.\w+$", member.url)
        if found and sha256.startswith(found[1]):
            return member
    return known["DEFAULT"]
