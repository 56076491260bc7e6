"""The user's own torch modules.

Owns what such a module may return and how its width is found. Must not know where modules come
from, rows, devices, or how pictures become pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skembed._backbone import Exported
from skembed.exceptions import InvalidParameterError
from skembed.image._backbone import ImageBackbone, ImageSettings, check_settings, kept_backbone
from skembed.image._export import pixels_code, pooling_code
from skembed.image._features import make_plan, measure
from skembed.image._preprocess import probe_pixels
from skembed.modules import (
    FEATURES,
    CutAt,
    Features,
    ModuleSource,
    Preprocess,
    check_layer,
    run_apart,
    try_out,
    write_state,
)
from skembed.weights import kept_recent, releases_of

__all__ = ["find_module"]

_OUTPUT_NAMES = ("image_embeds", *FEATURES)


def find_module(
    module: nn.Module, settings: ImageSettings, preprocess: Preprocess | None
) -> ImageBackbone:
    """Return the backbone of a module of the user's."""
    if preprocess is None:
        raise InvalidParameterError(
            f"preprocess=None, but model={type(module).__name__}, a torch.nn.Module, needs one: "
            "set preprocess to a callable from a PIL image in mode RGB to a float tensor "
            "(channels, height, width), such as "
            "torchvision.models.ResNet50_Weights.DEFAULT.transforms()."
        )
    source = ModuleSource(module)
    check_settings(source.name, settings, brings_weights=True)
    if settings.layer is not None:
        check_layer(source.module, str(settings.layer))
    found: Any = kept_backbone(
        source, settings, preprocess, lambda: ModuleBackbone(source, settings, preprocess)
    )
    # Of modules of one content, the first may have been changed since: this one has not.
    found.source.module = source.module
    return found  # type: ignore[no-any-return]


class ModuleBackbone(ImageBackbone):
    """A `torch.nn.Module` of the user's, which is copied and never changed.

    It maps pixels (n, channels, height, width) to vectors (n, d), feature maps (n, d, h, w) or (n,
    h, w, d), or tokens (n, tokens, d): a tensor, or a mapping, dataclass or output of transformers
    with one tensor, or with "image_embeds" or one of `FEATURES`.
    """

    is_foreign = True
    prefers_float32 = True  # unknown code may not bear rounding
    source: ModuleSource

    def __init__(
        self, source: ModuleSource, settings: ImageSettings, preprocess: Preprocess
    ) -> None:
        super().__init__(source, settings, preprocess)
        first, probes = itertools.tee(probe_pixels(preprocess, settings.image_size))
        size, is_auto = tuple(next(first).shape), settings.pooling == "auto"
        key = ("features of a module", source.digest, settings.layer, is_auto, size)
        measured: tuple[Tensor, tuple[int, ...], bool]
        measured = kept_recent(key, lambda: self._measure(probes))
        self._probe, shape, is_channels_last = measured
        # Only the user knows whether a module's first token stands for the whole picture.
        has_class = "cls" in settings.pooling
        self._settle(
            lambda: make_plan(
                settings.pooling,
                shape,
                n_prefix=int(has_class),
                has_class=has_class,
                name=self.name,
                is_channels_last=is_channels_last,
            ),
            None,
            is_auto=is_auto,
            shape=list(shape),
            libraries=releases_of("torch"),
        )

    def probes(self) -> Iterable[Tensor]:
        """Yield two pictures of a size that the module is known to run on."""
        yield torch.stack([self._probe, self._probe.flip(-1)])

    def _load_core(self) -> nn.Module:
        return self._copy()

    def _export(self, core: Any, folder: Path) -> Exported:
        """Write the state dict of the user's module, by its own names."""
        own = core.module if self._settings.layer is None else core.module.module
        write_state(own.state_dict(), folder / "model.safetensors")
        code = f"""
import torch
from safetensors.torch import load_file

# model: your {self.name}
model.load_state_dict(load_file("model.safetensors"))
model.eval()
"""
        code += pixels_code("", has_own=True)
        code += pooling_code("model(pixels)", self.plan, self._settings.layer)
        return Exported("torch", code, "model")

    def _copy(self) -> nn.Module:
        module, layer = self.source.copy(), self._settings.layer
        # Who asks for a pooling means the tokens, not the vector made of them.
        names = _OUTPUT_NAMES if self._settings.pooling == "auto" else _OUTPUT_NAMES[::-1]
        return Features(module if layer is None else CutAt(module, str(layer)), names, self.name)

    @torch.inference_mode()
    def _measure(self, probes: Iterable[Tensor]) -> tuple[Tensor, tuple[int, ...], bool]:
        """Return a picture that it runs on, its features' shape, and whether channels come last."""
        module = self._copy()
        pixels, features = try_out(
            module,
            probes,
            row="picture",
            shapes="(1, features), (1, tokens, features) or (1, features, height, width)",
            name=self.name,
            advice="preprocess must return what the module reads. If it takes pictures of one "
            "size only, add a Resize to preprocess, or set image_shape=(height, width) to the size "
            "that all pictures have.",
        )
        try:
            return pixels, *measure(partial(run_apart, module), pixels[None], self.name)
        except InvalidParameterError:  # no one can tell: as maps usually are
            return pixels, tuple(features.shape), False
