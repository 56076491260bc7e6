"""Torch modules that the user hands over.

Owns what a module of one's own may return and how its width is found. Must not know where modules
come from, rows, devices, nor how pictures become pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from functools import partial

import torch
from PIL import Image
from torch import Tensor, nn

from skembed.exceptions import InvalidParameterError, SkembedError, UnsupportedModelError
from skembed.image._backbone import Backbone, BackboneSettings
from skembed.image._layers import ChannelsFirst, measure
from skembed.image._pooling import Pool, make_pool
from skembed.modules import (
    CutAt,
    Features,
    are_near,
    check_layer,
    copy_of,
    first_that_runs,
    run_apart,
    without_compiler,
)
from skembed.store import digest_of
from skembed.weights import fingerprint, kept_recent

__all__ = ["ModuleBackbone"]

# Rounding in bfloat16, in which a module may compute on its own, and more in batches of two.
_MOST_OF_NEIGHBOURS = 0.03

# What transformers' models and their like call the features, the most finished first.
_OUTPUT_NAMES = ("image_embeds", "pooler_output", "last_hidden_state")


class ModuleBackbone(Backbone):
    """A `torch.nn.Module` of the user, which is copied and never changed.

    Parameters
    ----------
    module : torch.nn.Module
        Maps pixels (n, channels, height, width) to vectors (n, d), feature maps (n, d, h, w) or
        (n, h, w, d), or tokens (n, tokens, d): a tensor, or a mapping or an output of transformers
        with "image_embeds", "pooler_output" or "last_hidden_state".
    probes : iterable of Tensor of shape (channels, height, width)
        What the user's preprocessing makes of pictures of several sizes. The module has to run on
        one of them.
    settings : BackboneSettings
        Layer and pooling; weights have to be "auto", as they are in the module.

    Raises
    ------
    InvalidParameterError
        If the layer or the pooling does not fit.
    UnsupportedModelError
        If the module's content cannot be told, or it fails or returns something else.
    """

    is_foreign = True

    def __init__(
        self, module: nn.Module, probes: Iterable[Tensor], settings: BackboneSettings
    ) -> None:
        self.module = without_compiler(module)
        self.name = type(self.module).__name__
        _check_settings(self.module, settings, self.name)
        self._settings = settings
        self._fingerprint = fingerprint(self.module)
        self.digest = digest_of(
            {
                "kind": "module",
                "module": self._fingerprint,
                "layer": settings.layer,
                "pooling": settings.pooling,
                "torch": ".".join(torch.__version__.split(".")[:2]),
            }
        )
        place = {
            "kind": "features of a module",
            "module": self._fingerprint,
            "layer": settings.layer,
            "is_auto": settings.pooling == "auto",
        }
        first, probes = itertools.tee(probes)
        key = digest_of({**place, "size": tuple(next(first).shape)})
        measured: tuple[Tensor, tuple[int, ...], bool]
        measured = kept_recent(key, lambda: self._measure(probes))
        self.probe, self._shape, self._is_channels_last = measured
        self._pool, self.width = self._make_pool()

    def prepare(self, image: Image.Image) -> Tensor:
        """Do nothing: the user prepares pictures."""
        raise RuntimeError(f"{self.name} was made for preprocessing of the user")

    def load(self) -> nn.Module:
        """Return a copy of the module, in evaluation mode, that ends in pooled vectors."""
        pool, _ = self._make_pool()
        turned = [ChannelsFirst()] if self._is_channels_last else []
        return nn.Sequential(self._copy(), *turned, pool).eval()

    def n_bytes(self) -> int:
        """Return the size of parameters and buffers, in float32."""
        return sum(4 * each.numel() for each in [*self.module.parameters(), *self.module.buffers()])

    def refuse_other_files(self) -> None:
        """Refuse a module that has been changed since its digest was taken."""
        if fingerprint(self.module) != self._fingerprint:
            raise UnsupportedModelError(
                f"{self.name} has been changed since this embedder was fitted (its weights, its "
                "attributes, its code or a variable that its code uses). Fit the embedder again. "
                "If it changes such a variable as it runs, like a list that it appends to, make "
                "that an attribute of the module: it runs on a copy."
            )

    def _copy(self) -> nn.Module:
        module = copy_of(self.module, self.name)
        layer = self._settings.layer
        # Who asks for a pooling means the tokens, not the vector made of them.
        names = _OUTPUT_NAMES if self._settings.pooling == "auto" else _OUTPUT_NAMES[::-1]
        inner = module if layer is None else CutAt(module, str(layer))
        return Features(inner, names, self.name)

    @torch.inference_mode()
    def _measure(self, probes: Iterable[Tensor]) -> tuple[Tensor, tuple[int, ...], bool]:
        """Return a picture that it runs on, its features' shape, and whether channels came last."""
        module = self._copy()
        pixels, features = self._run_first(module, probes)
        shape = tuple(features.shape)
        if len(shape) < 2 or shape[0] != 1 or not features.is_floating_point():
            raise UnsupportedModelError(
                f"{self.name} gives {features.dtype} of shape {shape} for a batch of one picture; "
                "expected floats of shape (1, features), (1, tokens, features) or (1, features, "
                "height, width). Keep the batch's dimension in forward, or choose another layer."
            )
        self._refuse_unsteady(module, pixels, features)
        try:
            return pixels, *measure(partial(run_apart, module), pixels[None], self.name)
        except InvalidParameterError:  # no one can tell: as maps usually are
            return pixels, shape, False

    def _run_first(self, module: nn.Module, probes: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
        first: list[tuple[int, ...]] = []

        def run(pixels: Tensor) -> Tensor:
            first.append((1, *pixels.shape))
            features: Tensor = run_apart(module, pixels[None])
            return features

        try:
            return first_that_runs(run, probes)
        except SkembedError:
            raise
        except Exception as error:
            tried = f" (and on {len(first) - 1} of other sizes)" if len(first) > 1 else ""
            raise UnsupportedModelError(
                f"{self.name} failed on a prepared picture, a float32 tensor of shape {first[0]}"
                f"{tried}: {type(error).__name__}: {error}. preprocess has to give what the module "
                "reads. If it takes pictures of one size, add a Resize to preprocess, or set "
                "image_shape=(height, width) to the size that all pictures have."
            ) from error

    def _refuse_unsteady(self, module: nn.Module, pixels: Tensor, features: Tensor) -> None:
        """Refuse a module whose vector of a picture is not always the same."""
        run = partial(run_apart, module)
        others = [pixels.flip(-1) / 2, pixels.flip(-1)]  # of other statistics, if it takes such
        other, _ = first_that_runs(lambda each: run(each[None]), others)
        if not are_near(run(pixels[None]), features, 1e-3):
            raise UnsupportedModelError(
                f"{self.name} is random, or keeps something of the pictures before: it gave "
                "different features of one picture in evaluation mode, which would make the "
                "vectors random. Does it call functional.dropout without training=self.training?"
            )
        try:
            pair = run(torch.stack([pixels, other]))
        except Exception as error:
            raise UnsupportedModelError(
                f"{self.name} runs on a batch of one picture and fails on one of two: "
                f"{type(error).__name__}: {error}. Keep the batch's dimension in forward."
            ) from error
        if pair.shape != (2, *features.shape[1:]):
            raise UnsupportedModelError(
                f"{self.name} gives features of shape {tuple(pair.shape)} for two pictures and of "
                f"{tuple(features.shape)} for one. Keep the batch's dimension in forward."
            )
        if not are_near(pair[:1], features, _MOST_OF_NEIGHBOURS):
            raise UnsupportedModelError(
                f"{self.name} mixes the pictures of a batch: it gave a picture other features "
                "beside another one, which would make vectors depend on other rows. Does it have "
                "a BatchNorm with track_running_stats=False?"
            )

    def _make_pool(self) -> tuple[Pool, int]:
        # Only the user knows whether a module's first token stands for the whole picture.
        has_class = "cls" in self._settings.pooling
        return make_pool(
            self._settings.pooling,
            self._shape,
            n_prefix=int(has_class),
            has_class=has_class,
            name=self.name,
        )


def _check_settings(module: nn.Module, settings: BackboneSettings, name: str) -> None:
    if settings.weights != "auto":
        raise InvalidParameterError(
            f"weights={settings.weights!r}, but the weights of {name}, a torch.nn.Module, are in "
            "it. Leave weights='auto', and load others by model.load_state_dict."
        )
    layer = settings.layer
    if layer is not None and not isinstance(layer, str):
        raise InvalidParameterError(
            f"layer={layer!r} of type {type(layer).__name__}; expected the name of a submodule of "
            f"{name} as in model.named_modules()."
        )
    if layer is not None:
        check_layer(module, layer)
