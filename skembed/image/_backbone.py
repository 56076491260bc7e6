"""What the image encoder knows of a model: one class for each family of models.

A backbone settles everything that decides a vector when it is made, without loading weights; the
module is loaded when the first picture has to be encoded. Must not know rows, keys nor devices.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Backbone", "BackboneSettings", "refuse_enormous", "scale_and_normalize"]


_MOST_PIXELS = 64_000_000
"""Of a resized picture, before it is cropped: 200 MB in uint8, 800 MB in float32."""


@dataclass(frozen=True)
class BackboneSettings:
    """What the user asked of a model, as the estimator's parameters say it.

    Parameters
    ----------
    weights : str, Path or None
        "auto", the name of an enum's member ("IMAGENET1K_V1"), a state-dict file, or None.
    layer : str, int or None
        An intermediate layer; None is the model's end.
    pooling : str
        A name in `IMAGE_POOLINGS`.
    revision : str or None
        Branch, tag or commit on the hub.
    trust_remote_code : bool
        Whether code that comes with a model may run.
    """

    weights: str | Path | None = "auto"
    layer: str | int | None = None
    pooling: str = "auto"
    revision: str | None = None
    trust_remote_code: bool = False


class Backbone(ABC):
    """A model of one family.

    Attributes
    ----------
    name : str
        What messages call it.
    digest : bytes
        Content digest of the weights and of everything here that decides features: architecture,
        layer, pooling, preprocessing, releases of the libraries whose code computes them.
    width : int
        Number of features.
    is_foreign : bool
        Whether code that skembed has never been tested with runs: of the user, or of a checkpoint.
    """

    is_foreign: bool = False
    name: str
    digest: bytes
    width: int

    @abstractmethod
    def prepare(self, image: Image) -> Tensor:
        """Turn a picture in mode RGB into a tensor (3, height, width), uint8 or float32.

        Called from several threads at once.
        """

    def scale(self, pixels: Tensor) -> Tensor:
        """Turn a batch of what `prepare` gave, on the device, into the module's float32 input."""
        return pixels

    @abstractmethod
    def load(self) -> nn.Module:
        """Load the module, in float32 on the CPU, in evaluation mode.

        It maps float pixels (n, 3, height, width) to features (n, width).
        """

    @abstractmethod
    def n_bytes(self) -> int:
        """Return the size of the weights in bytes, 0 if unknown."""

    @abstractmethod
    def refuse_other_files(self) -> None:
        """Refuse weights that are not those of the digest, under which vectors are stored.

        Called after loading.

        Raises
        ------
        UnsupportedModelError
            If the files have changed since the backbone was made.
        """


def scale_and_normalize(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Turn uint8 pixels (n, 3, h, w) into float32 of the model's mean and standard deviation."""
    return pixels.to(torch.float32).div_(255).sub_(mean).div_(std)


def refuse_enormous(image: Image, shortest_edge: int) -> None:
    """Refuse a picture that would be enormous once its shorter side has this length.

    Raises
    ------
    ValueError
        If it would.
    """
    short, long = sorted(image.size)
    if shortest_edge * shortest_edge * long / short > _MOST_PIXELS:
        raise ValueError(
            f"the picture has {image.width} x {image.height} pixels; resized to {shortest_edge} at "
            f"its shorter side, as the model asks, it would have over {_MOST_PIXELS:,}: cut it "
            "first"
        )
