"""The image encoder: decoding, preprocessing and a backbone, behind the engine's contract.

Everything that decides a vector is settled when the encoder is made; the weights are loaded when
the first picture has to be encoded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import PIL
import torch
from PIL import ImageFile
from PIL.Image import Image
from torch import Tensor, nn

from skembed._encoder import Encoder, Fault, Prepared, join_replicas
from skembed.engine import (
    finish,
    is_out_of_memory,
    map_in_threads,
    pixels_per_batch,
    resolve_devices,
    resolve_dtype,
    stay_safe_after_fork,
)
from skembed.exceptions import InvalidParameterError, SkembedError, UnsupportedModelError
from skembed.image._backbone import Backbone, BackboneSettings
from skembed.image._backbones import find_backbone
from skembed.image._network import load_network
from skembed.image._pictures import (
    ChangedPicture,
    Picture,
    digest_of_image,
)
from skembed.image._preprocess import Preprocess, make_preprocess, probe_pixels
from skembed.image._rgb import UnreadablePicture
from skembed.store import digest_of
from skembed.weights import shared_model

__all__ = ["ImageEncoder", "ImageSettings", "make_image_encoder"]

_FORMAT = 3
"""Raised when a change to skembed changes vectors, so that stored ones are not served."""


_MOST_BYTES = 256 << 20
"""Prepared pictures of this size are enough at once."""


@dataclass(frozen=True)
class ImageSettings:
    """What the user asked for, as the estimator's parameters say it."""

    model: Any
    backbone: BackboneSettings
    normalize: bool = False
    n_components: int | None = None
    preprocess: Callable[[Image], Any] | None = None
    image_size: tuple[int, int] | None = None
    device: str | tuple[str, ...] = "auto"
    dtype: str = "auto"


def make_image_encoder(settings: ImageSettings) -> ImageEncoder:
    """Return the encoder for these settings, with a replica for each device."""
    stay_safe_after_fork()
    preprocess = None if settings.preprocess is None else make_preprocess(settings.preprocess)
    backbone = find_backbone(
        settings.model, preprocess, settings.backbone, image_size=settings.image_size
    )
    devices = resolve_devices(settings.device)
    return join_replicas([ImageEncoder(settings, backbone, preprocess, each) for each in devices])


class _Unfit(Exception):
    """A picture cannot be made what the model takes; the message says why."""


@dataclass(frozen=True, slots=True)
class _Stacks:
    """A batch: pictures of each size in one tensor, and where each stood."""

    tensors: list[Tensor] = field(default_factory=list)
    order: list[int] = field(default_factory=list)


class ImageEncoder(Encoder):
    """Encodes pictures with a backbone.

    Parameters
    ----------
    settings : ImageSettings
        What the user asked for.
    backbone : Backbone
        The model.
    preprocess : Preprocess or None
        What prepares pictures in place of the backbone.
    device : device
        Where it runs.
    """

    layout = "equal"
    may_fail = True
    # Prepared pictures take 150 to 600 KiB each, but as much as it wants where the user's own
    # preprocessing makes them.
    window = 128

    def __init__(
        self,
        settings: ImageSettings,
        backbone: Backbone,
        preprocess: Preprocess | None,
        device: torch.device,
    ) -> None:
        self.backbone = backbone
        self.torch_device = device
        self.torch_dtype = resolve_dtype(settings.dtype, device)
        self.device = str(device)
        self.dtype = str(self.torch_dtype).removeprefix("torch.")
        self.budget = pixels_per_batch(device)
        # Decoding takes all cores as the model does: in turn, 2 cores embed 17% more pictures.
        self.prepares_ahead = device.type != "cpu"
        self.normalize = settings.normalize
        self.n_components = settings.n_components
        self._preprocess = preprocess
        self._image_size = settings.image_size
        self.width = self._choose_width(settings.n_components)
        place = {"kind": "image backbone", "backbone": backbone.digest}
        self.model_key = digest_of({**place, "device": self.device, "dtype": self.dtype})
        self.digest = digest_of(
            {
                "format": _FORMAT,
                "Pillow": ".".join(PIL.__version__.split(".")[:2]),
                "reads cut files": bool(ImageFile.LOAD_TRUNCATED_IMAGES),
                "backbone": backbone.digest,
                "preprocess": None if preprocess is None else preprocess.digest,
                "dtype": self.dtype,
                "normalize": self.normalize,
                "n_components": self.n_components,
            }
        )

    def __repr__(self) -> str:
        return (
            f"ImageEncoder({self.backbone.name!r}, width={self.width}, device={self.device!r}, "
            f"dtype={self.dtype!r})"
        )

    def content(self, item: Picture) -> bytes:
        """Return the digest of the picture's content."""
        return item.digest

    def describe(self, item: Picture) -> str:
        """Return the picture's path, or what else it came as."""
        return item.describe()

    def prepare(self, items: Sequence[Picture]) -> list[Prepared | Fault]:
        """Decode, resize and crop pictures, several at once; a part is a tensor (3, h, w)."""
        n_bytes, guard = 0, threading.Lock()

        def prepare_unless_full(i: int) -> Prepared | Fault | None:
            nonlocal n_bytes
            if i and n_bytes >= _MOST_BYTES:
                return None
            found = self._prepare_one(items[i])
            if isinstance(found, Prepared):
                with guard:
                    n_bytes += sum(part.nbytes for part in found.parts)
            return found

        prepared: list[Prepared | Fault] = []
        for each in map_in_threads(prepare_unless_full, range(len(items)), name="skembed-decode"):
            if each is None:  # one of another thread may have been done after it
                break
            prepared.append(each)
        return prepared

    def cost(self, part: Tensor) -> int:
        """Return the number of pixels."""
        return max(1, part.shape[-2] * part.shape[-1])

    def collate(self, parts: Sequence[Tensor]) -> _Stacks:
        """Stack pictures of equal size on the device."""
        places: dict[Any, list[int]] = {}
        for i, part in enumerate(parts):
            places.setdefault((part.shape, part.dtype), []).append(i)
        batch = _Stacks()
        for indices in places.values():
            stack = torch.stack([parts[i] for i in indices])
            if self.torch_device.type == "cuda":
                stack = stack.pin_memory()
            batch.tensors.append(stack.to(self.torch_device, non_blocking=True))
            batch.order.extend(indices)
        return batch

    def encode(self, batch: _Stacks) -> Tensor:
        """Return vectors of shape (parts, width), float32."""
        network = self._network()
        features = torch.cat([self._run(network, each) for each in batch.tensors])
        if len(batch.tensors) > 1:
            features = features[torch.tensor(batch.order, device=features.device).argsort()]
        return finish(features, self.n_components, self.normalize)

    def _run(self, network: nn.Module, stack: Tensor) -> Tensor:
        features: Tensor = network(self._pixels(stack)).float()
        if features.shape != (len(stack), self.backbone.width):
            raise ValueError(
                f"{self.backbone.name} gives features of shape {tuple(features.shape)} for pixels "
                f"of shape {tuple(stack.shape)}, expected {(len(stack), self.backbone.width)}."
            )
        return features

    def _pixels(self, stack: Tensor) -> Tensor:
        pixels = self.backbone.scale(stack) if self._preprocess is None else stack
        return pixels.to(self.torch_dtype).contiguous(memory_format=torch.channels_last)

    def _prepare_one(self, item: Picture) -> Prepared | Fault:
        try:
            image = item.open()
        except UnreadablePicture as error:
            return Fault(str(error), is_gone=isinstance(error, ChangedPicture))
        size = max(1, image.width * image.height)
        content = digest_of_image(image) if item.is_of_pixels else None
        try:
            pixels = self._pixels_of(image)
        except _Unfit as error:
            return Fault(str(error))
        return Prepared((pixels,), size, content)

    def _pixels_of(self, image: Image) -> Tensor:
        if self._preprocess is None:
            try:
                return self.backbone.prepare(image)
            except ValueError as error:
                reason = f"cannot be prepared for {self.backbone.name}: {error}"
                raise _Unfit(reason) from error
        try:
            return self._preprocess(image)
        except InvalidParameterError as error:  # it gave something else than of other pictures
            raise _Unfit(str(error)) from error
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise _Unfit(f"preprocess raised {type(error).__name__}: {error}") from error

    def _network(self) -> nn.Module:
        """Return the model, loading it once per process for all settings that can share it."""
        return shared_model(self.model_key, self._load_network, n_bytes=self.backbone.n_bytes)

    def _load_network(self) -> nn.Module:
        try:
            return load_network(
                self._load_module,
                self._probes(),
                device=self.torch_device,
                dtype=self.torch_dtype,
                is_foreign=self.backbone.is_foreign,
            )
        except Exception as error:
            if isinstance(error, SkembedError) or is_out_of_memory(error):
                raise
            raise UnsupportedModelError(
                f"{self.backbone.name} cannot be loaded: {type(error).__name__}: {error}"
            ) from error

    def _load_module(self) -> nn.Module:
        module = self.backbone.load()
        self.backbone.refuse_other_files()
        return module

    def _probes(self) -> Iterator[Tensor]:
        """Yield two pictures as the model may take them, of one size after another."""
        if self.backbone.probe is not None:
            yield _with_its_mirror_image(self.backbone.probe)
        elif self._preprocess is not None:
            yield from map(_with_its_mirror_image, probe_pixels(self._preprocess, self._image_size))
        else:  # random ones, which differ more
            for pixels in probe_pixels(self.backbone.prepare, self._image_size):
                generator = torch.Generator().manual_seed(0)
                yield torch.randn((2, *pixels.shape), generator=generator)

    def _choose_width(self, n_components: int | None) -> int:
        width = self.backbone.width
        if n_components is None:
            return width
        if n_components > width:
            raise InvalidParameterError(
                f"n_components={n_components}, but {self.backbone.name} gives {width} features."
            )
        return n_components


def _with_its_mirror_image(pixels: Tensor) -> Tensor:
    return torch.stack([pixels, pixels.flip(-1)])
