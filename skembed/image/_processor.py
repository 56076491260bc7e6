"""A checkpoint's own image processor, one picture at a time, and the steps a batch can do later.

Knows transformers' processors, not models. Faster replacements are proven on pictures to give the
same result as the processor.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from skembed.exceptions import UnsupportedModelError
from skembed.image._backbone import Scale, refuse_enormous
from skembed.image._preprocess import probe_picture

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Processor"]

_MOST_CHANGE = 1e-6

# (width, height) of the pictures on which ways are compared: upright, across, large, tiny.
_PROBES = ((37, 53), (400, 301), (161, 640), (3, 2))


class Processor:
    """Makes a model's pixels of pictures with a processor of transformers.

    Where that is proven to give the same, `scale` normalises the batch, and pictures stay in uint8
    until then. `extras` are what the processor gives beside pixels.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self.scale = Scale()
        with suppress(AttributeError, TypeError):  # of processors that work in other ways
            unit = 1.0 / processor.rescale_factor if processor.do_rescale else 1.0
            numbers = (0.0, 1.0)
            if processor.do_normalize:
                numbers = processor.image_mean, processor.image_std
            self.scale = Scale(*numbers, unit)
        probes = [probe_picture(*size) for size in _PROBES]
        found = processor(images=probes[0], return_tensors="pt")
        pixels = found.get("pixel_values")
        if pixels is None or pixels.ndim != 4 or len(pixels) != 1 or pixels.shape[1] != 3:
            shapes = {name: tuple(getattr(value, "shape", ())) for name, value in found.items()}
            raise UnsupportedModelError(
                f"it turns a picture into {shapes}; expected pixel_values of shape (1, 3, height, "
                "width). Choose a model that takes single pictures."
            )
        self.extras = {name: value for name, value in found.items() if name != "pixel_values"}
        self._run = self._unscaled if self._is_proven(probes) else self._whole
        self.shape = tuple(pixels.shape[1:])
        self.is_of_one_size = self._whole(probes[1]).shape == pixels[0].shape

    def prepare(self, image: Image) -> Tensor:
        """Return pixels of shape (3, height, width), uint8 or float32."""
        size = getattr(self._processor, "size", None)
        shortest = getattr(size, "shortest_edge", None)
        if shortest and not getattr(size, "longest_edge", None):
            refuse_enormous(image, shortest)
        return self._run(image)

    def _whole(self, image: Image, **options: Any) -> Tensor:
        found = self._processor(images=image, return_tensors="pt", **options)
        pixels: Tensor = found["pixel_values"][0]
        return pixels

    def _unscaled(self, image: Image) -> Tensor:
        processor = self._processor
        if not _is_plain(type(processor), processor):
            return self._whole(image, do_rescale=False, do_normalize=False)
        # A copy that torch may own; its channels stay last, which resizes twice as fast.
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        if processor.do_resize:
            size, resample = processor.size, processor.resample
            pixels = processor.resize(image=pixels, size=size, resample=resample)
        if processor.do_center_crop:
            pixels = processor.center_crop(pixels, processor.crop_size)
        return pixels[0].contiguous()

    def _is_proven(self, probes: list[Image]) -> bool:
        """Return whether `_unscaled`, then `scale`, give what the processor gives."""
        if not type(self._processor).__module__.startswith("transformers."):
            return False  # unknown code: nothing is left out of it
        try:
            for image in probes:
                expected, pixels = self._whole(image), self._unscaled(image)
                if pixels.dtype != torch.uint8 or pixels.shape != expected.shape:
                    return False
                change = self.scale(pixels[None])[0] - expected
                if float(change.abs().max()) > _MOST_CHANGE:
                    return False
        except (AttributeError, RuntimeError, TypeError, ValueError):
            return False  # it works in other ways
        return True


def _is_plain(kind: type, processor: Any) -> bool:
    """Return whether a processor does nothing but resize, crop, rescale and normalise."""
    try:
        from transformers.image_processing_backends import TorchvisionBackend
    except ImportError:  # transformers before 5.3 has other classes
        return False
    inherited = ("preprocess", "_preprocess", "_preprocess_image_like_inputs", "process_image")
    return issubclass(kind, TorchvisionBackend) and not (
        processor.do_pad
        or any(getattr(kind, name) is not getattr(TorchvisionBackend, name) for name in inherited)
    )
