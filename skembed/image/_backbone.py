"""What all picture models have in common before they are frozen.

Must not know rows, keys, devices or any model.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from skembed._backbone import (
    OF_THE_HUB,
    Backbone,
    Ending,
    Exported,
    ModelSettings,
    Source,
    thawed,
)
from skembed.exceptions import InvalidParameterError
from skembed.image._features import ChannelsFirst, Plan
from skembed.image._preprocess import probe_pixels
from skembed.image._views import random_view
from skembed.modules import Preprocess, Stacks, pool
from skembed.store import digest_of
from skembed.weights import is_out_of_memory, kept_recent

__all__ = [
    "ImageBackbone",
    "ImageSettings",
    "PixelModule",
    "Scale",
    "UnfitPicture",
    "check_settings",
    "kept_backbone",
    "refuse_enormous",
]

_MOST_PIXELS = 64_000_000
"""Of a resized picture, before it is cropped: 200 MB in uint8, 800 MB in float32."""


@dataclass(frozen=True)
class ImageSettings(ModelSettings):
    """The parameters of `ImageEmbedder` that decide a vector, as Python's own values."""

    image_size: tuple[int, int] | None = None
    reads_cut_files: bool = False


class UnfitPicture(ValueError):
    """A picture cannot be made what the model takes; the message says why."""


class Scale(nn.Module):
    """Turns pixels in uint8 into normalised float32; those in float32 are normalised already."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Any = 0.0, std: Any = 1.0, unit: float = 255.0) -> None:
        super().__init__()
        for name, value in (("mean", mean), ("std", std)):
            numbers = torch.as_tensor(value, dtype=torch.float32, device="cpu").view(-1, 1, 1)
            self.register_buffer(name, numbers * unit, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return float32 pixels (n, channels, height, width)."""
        if pixels.dtype != torch.uint8:
            return pixels
        return pixels.float().sub_(self.mean).div_(self.std)


class PixelModule(nn.Module):
    """Maps a batch of pictures to vectors: scaling, the core, pooling as `plan` says.

    The core maps float32 pixels to vectors (n, d), tokens (n, tokens, d) or maps (n, d, h, w).
    """

    def __init__(self, core: nn.Module, scale: nn.Module, plan: Plan) -> None:
        super().__init__()
        self.core, self.scale, self.plan = core, scale, plan

    def forward(self, batch: Stacks) -> Tensor:
        """Return vectors (n, width), float32."""
        vectors: list[Tensor] = []
        for stack in batch.tensors:
            features: Tensor = self.core(self.scale(stack)).float()
            if self.plan.pooling is not None:
                features = pool(features, self.plan.pooling, n_prefix=self.plan.n_prefix)
            if features.shape != (len(stack), self.plan.width):
                raise ValueError(
                    f"the model gives features of shape {tuple(features.shape)} for pixels of "
                    f"shape {tuple(stack.shape)}, expected {(len(stack), self.plan.width)}"
                )
            vectors.append(features)
        return batch.join(vectors)


class ImageBackbone(Backbone):
    """A model of pictures; `preprocess` stands in for the model's own preparation."""

    core_digest = b""

    def __init__(
        self, source: Source, settings: ImageSettings, preprocess: Preprocess | None
    ) -> None:
        self.source, self.name = source, source.name
        self._settings, self._preprocess = settings, preprocess
        self._scale = Scale()

    def _settle(self, make_plan: Callable[[], Plan], preparation: object, **core: object) -> None:
        """Find how features are pooled, and take the digests.

        `core` is all that decides the core beside family, source and plan; `preparation` what
        pictures become before it.
        """
        settings = self._settings
        core = {"kind": type(self).__name__, **core}
        core |= {"source": self.source.digest, "layer": settings.layer}
        key = digest_of({**core, "plan": settings.pooling})
        self.plan = kept_recent(key, lambda: self.source.read(make_plan))
        self.width = self.plan.width
        self.core_digest = digest_of({**core, "output": self.plan.output})
        self.digest = digest_of(
            {
                "core": self.core_digest,
                "pooling": self.plan.pooling,
                "preparation": preparation if self._preprocess is None else self._preprocess.digest,
            }
        )

    def prepare(self, image: Image.Image, rng: np.random.Generator | None = None) -> Tensor:
        """Turn a picture in mode RGB into a tensor (channels, height, width), uint8 or float32.

        With `rng`, of a random view of it.
        """
        if rng is not None:
            image = random_view(image, rng)
        if self._preprocess is None:
            try:
                return self._pixels(image)
            except ValueError as error:
                raise UnfitPicture(f"cannot be prepared for {self.name}: {error}") from error
        try:
            return self._preprocess(image)
        except InvalidParameterError as error:  # it gave something else than of other pictures
            raise UnfitPicture(str(error)) from error
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise UnfitPicture(f"preprocess raised {type(error).__name__}: {error}") from error

    def _pixels(self, image: Image.Image) -> Tensor:
        """Turn a picture into a tensor as the model's publisher does; ValueError if it is unfit."""
        raise NotImplementedError

    def cost(self, part: Tensor) -> int:
        """Return the number of pixels."""
        return max(1, part.shape[-2] * part.shape[-1])

    def collate(self, parts: Sequence[Tensor]) -> Stacks:
        """Stack pictures of equal size."""
        return Stacks.of(parts)

    def probes(self) -> Iterable[Tensor]:
        """Yield two pictures as the core may take them, of one size after another."""
        for pixels in probe_pixels(self._preprocess or self._pixels, self._settings.image_size):
            if self._preprocess is not None:
                yield torch.stack([pixels, pixels.flip(-1)])
            else:  # random ones, which differ more
                generator = torch.Generator().manual_seed(0)
                yield torch.randn((2, *pixels.shape), generator=generator)

    def load(
        self, *, core: nn.Module | None = None, dtype: torch.dtype | None = None
    ) -> PixelModule:
        """Load the module; in float32 whatever the dtype."""
        if core is None:
            with torch.inference_mode(False), torch.no_grad():  # what it makes may be trained
                core = self._load_core()
            if self.plan.is_channels_last:
                core = nn.Sequential(core, ChannelsFirst())
            thawed(core)
        return PixelModule(core, copy.deepcopy(self._scale), self.plan).eval()

    def export(self, module: nn.Module, folder: Path, ending: Ending) -> Exported:
        """Write the model as its library does; the code on its card pools."""
        core: Any = module.core
        return self._export(core[0] if self.plan.is_channels_last else core, folder)

    @abstractmethod
    def _export(self, core: Any, folder: Path) -> Exported:
        """Write the weights of what `_load_core` has returned."""

    @abstractmethod
    def _load_core(self) -> nn.Module:
        """Load what maps pixels to features, in float32 on the CPU."""


def check_settings(
    name: str, settings: ImageSettings, *, brings_weights: bool = False, is_of_hub: bool = False
) -> None:
    """Refuse settings that mean nothing for a model whose layers have names, all at once."""
    reasons = {} if is_of_hub else {"revision": OF_THE_HUB}
    if brings_weights:
        reasons["weights"] = f"{name} has its own. Leave weights='auto'."
    if isinstance(settings.layer, int):
        reasons["layer"] = (
            f"{name} names its layers, like 'layer3' or 'features.5'; numbers are for transformers "
            "models."
        )
    settings.refuse(**reasons)


def kept_backbone(
    source: Source,
    settings: ImageSettings,
    preprocess: Preprocess | None,
    make: Callable[[], ImageBackbone],
) -> ImageBackbone:
    """Return a backbone: the same one as long as source, settings and preprocess are the same."""
    place = getattr(source, "folder", None) or getattr(source, "path", None)
    prepared = None if preprocess is None else preprocess.digest
    asked = (settings.layer, settings.pooling, settings.image_size, settings.trust_remote_code)
    read = (source.name, source.digest, place, settings.weights, settings.revision)
    key = "backbone of pictures", read, asked, prepared
    return kept_recent(key, lambda: source.read(make))


def refuse_enormous(image: Image.Image, shortest_edge: int) -> None:
    """Raise a ValueError if a picture is enormous once its shorter side has this length."""
    short, long = sorted(image.size)
    if shortest_edge * shortest_edge * long / short > _MOST_PIXELS:
        raise ValueError(
            f"the picture has {image.width} x {image.height} pixels; resized to {shortest_edge} on "
            f"its shorter side, as the model asks, it would have over {_MOST_PIXELS:,}: crop it "
            "first"
        )
