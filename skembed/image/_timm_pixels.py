"""Pixels as timm's configurations ask for them. timm is optional."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from skembed._optional import import_optional
from skembed.exceptions import UnsupportedModelError
from skembed.image._backbone import Scale, refuse_enormous

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["TimmPixels"]


class TimmPixels:
    """Makes a model's pixels of pictures, as the model's configuration says.

    Where the transform ends by turning the picture into a tensor and normalising it, as timm's do,
    pictures stay in uint8 and are normalised as batches.
    """

    def __init__(self, config: Mapping[str, Any], name: str) -> None:
        from torchvision import transforms

        data: Any = import_optional("timm.data", extra="timm", purpose="A timm model")
        if not config:
            raise UnsupportedModelError(
                f"timm does not say which pixels {name} takes. Register it with a configuration "
                "(timm.models.generate_default_cfgs) that has input_size, mean and std."
            )
        found = data.resolve_data_config(pretrained_cfg=dict(config))
        self.size = (1, *(int(each) for each in found["input_size"]))
        if self.size[1] != 3:
            raise UnsupportedModelError(
                f"{name} takes pictures with {self.size[1]} channels; expected 3. Choose a model "
                "for colour pictures."
            )
        self._transform: Any = data.create_transform(**found, is_training=False)
        self._shortest = _shortest_edge(self._transform)
        self.description = f"{self._transform!r}"
        self.scale = Scale()
        steps = list(getattr(self._transform, "transforms", ()))
        ends = [type(each).__name__ for each in steps[-2:]]
        if ends in (["MaybeToTensor", "Normalize"], ["ToTensor", "Normalize"]):
            numbers = steps[-1].mean, steps[-1].std
            self.scale = Scale(*numbers)
            # Its representation rounds them.
            self.description += f" {[torch.as_tensor(each).tolist() for each in numbers]}"
            self._transform = transforms.Compose([*steps[:-2], transforms.PILToTensor()])

    def prepare(self, image: Image) -> Tensor:
        """Return pixels (3, height, width) of a picture, uint8 or float32."""
        if self._shortest is not None:
            refuse_enormous(image, self._shortest)
        pixels: Tensor = self._transform(image)
        return pixels


def _shortest_edge(transform: Any) -> int | None:
    """Return to what a picture's shorter side is resized, None if both sides are bounded."""
    for step in getattr(transform, "transforms", ()):
        size: Any = getattr(step, "size", None)
        if type(step).__name__ == "Resize":
            sides = [size] if isinstance(size, int) else list(size)
            return int(sides[0]) if len(sides) == 1 else None
        if type(step).__name__ == "ResizeKeepRatio" and getattr(step, "longest", 0) < 1:
            return int(size if isinstance(size, int) else max(size))
    return None
