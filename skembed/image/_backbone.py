"""What the image encoder knows of a model: one class for each family of models.

A backbone settles everything that decides a vector when it is made, without loading weights; the
module is loaded when the first picture has to be encoded. Must not know rows, keys nor devices.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Backbone", "BackboneSettings", "MeanAndStd", "refuse_enormous"]


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
    probe : Tensor of shape (channels, height, width) or None
        Pixels on which it is known to run.
    """

    is_foreign: bool = False
    probe: Tensor | None = None
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


class MeanAndStd:
    """Mean and standard deviation of the pixels that a model was trained on, kept on each device.

    Parameters
    ----------
    mean, std : sequence of float or Tensor
        One number for each channel.
    unit : float
        What they are multiplied by.
    """

    def __init__(self, mean: Any, std: Any, unit: float = 1.0) -> None:
        self._on: dict[torch.device, tuple[Tensor, ...]] = {}
        self._numbers = tuple(
            (torch.as_tensor(each, dtype=torch.float32) * unit).view(1, -1, 1, 1)
            for each in (mean, std)
        )

    def normalize(self, pixels: Tensor) -> Tensor:
        """Subtract the mean of float32 pixels (n, 3, h, w), divide by the deviation; in place."""
        if pixels.device not in self._on:
            self._on[pixels.device] = tuple(each.to(pixels.device) for each in self._numbers)
        mean, std = self._on[pixels.device]
        return pixels.sub_(mean).div_(std)

    def scale(self, pixels: Tensor) -> Tensor:
        """Return uint8 pixels in float32, divided by 255 and normalised."""
        return self.normalize(pixels.to(torch.float32).div_(255))


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
