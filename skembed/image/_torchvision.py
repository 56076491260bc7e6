"""torchvision's classification models, without their classifiers.

Knows torchvision's names, weights and presets; must not know rows, keys nor devices.
"""

from __future__ import annotations

import difflib
import os
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from skembed.exceptions import InvalidParameterError, UnsupportedModelError
from skembed.image._backbone import (
    Backbone,
    BackboneSettings,
    refuse_enormous,
    scale_and_normalize,
)
from skembed.image._layers import check_layer, extract
from skembed.image._models import IMAGE_MODELS
from skembed.image._pooling import Pool, make_pool
from skembed.image._state_dicts import load_into, plain_names, refuse_other_state
from skembed.store import digest_of
from skembed.weights import file_sha256, find_checkpoint, kept_recent, load_state, releases_of

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["TorchvisionBackbone"]

_FORMAT = 1
"""Raised when a change to skembed changes vectors, so that stored ones are not served."""

_SEED = 0

# Their initial weights take minutes, and auxiliary classifiers are never run.
_SLOW_TO_INITIALIZE = ("inception_v3", "googlenet")
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")

# Features that torchvision keeps with their channels last.
_CHANNELS_LAST = {
    "swin": r"features(\.\d+)?(\.\d+)?|norm",
    "convnext": r".*\.block\.[2-4]",
}


class TorchvisionBackbone(Backbone):
    """A classification model of torchvision up to what its last linear layer takes.

    Parameters
    ----------
    name : str
        As `torchvision.models.get_model` takes it.
    settings : BackboneSettings
        `weights` is "auto" (torchvision's best), the name of other weights, a file with a state
        dict, or None: random weights, always the same. `layer` is the name of a submodule.

    Raises
    ------
    InvalidParameterError
        If torchvision has no such model or weights, or the settings ask for what it does not have.
    ModelNotFoundError
        If the weights are not to be had.
    UnsupportedModelError
        If a state dict is not one of this model.
    """

    def __init__(self, name: str, settings: BackboneSettings) -> None:
        self.name = name
        self._settings = settings
        _check_name(name)
        _check_settings(name, settings)
        self._file, self._preset = _find_weights(name, settings.weights)
        self._sha256 = None if self._file is None else file_sha256(self._file)
        self._mean, self._std = (
            torch.tensor(values).view(1, -1, 1, 1)
            for values in (self._preset.mean, self._preset.std)
        )
        self.digest = digest_of(
            {
                "kind": "torchvision",
                "format": _FORMAT,
                "libraries": releases_of("torchvision"),
                "name": name,
                "weights": self._sha256 or f"random, seed {_SEED}, torch {torch.__version__}",
                "layer": settings.layer,
                "pooling": settings.pooling,
                "preset": repr(self._preset),
            }
        )
        key = digest_of({"kind": "torchvision's features", "digest": self.digest})
        self._shape: tuple[int, ...] = kept_recent(key, self._measure)
        _, self.width = self._make_pool()

    def __repr__(self) -> str:
        return f"TorchvisionBackbone({self.name!r}, width={self.width})"

    def prepare(self, image: Image) -> Tensor:
        """Resize and crop a picture as the weights' preset does; uint8 (3, height, width)."""
        from torchvision.transforms import functional as F

        preset = self._preset
        refuse_enormous(image, preset.resize_size[0])
        resized = F.resize(
            image, preset.resize_size, preset.interpolation, antialias=preset.antialias
        )
        pixels: Tensor = F.pil_to_tensor(F.center_crop(resized, preset.crop_size))
        return pixels

    def scale(self, pixels: Tensor) -> Tensor:
        """Normalise a batch of uint8 pixels as the preset does."""
        mean, std = (each.to(pixels.device) for each in (self._mean, self._std))
        return scale_and_normalize(pixels, mean, std)

    def load(self) -> nn.Module:
        """Load the module, in float32 on the CPU, in evaluation mode."""
        if self._file is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(_SEED)
                module, _ = self._build(init_weights=True)
        else:
            module, _ = self._load_file(self._file)
        pool, _ = self._make_pool()
        return nn.Sequential(self._cut(module), pool).eval().requires_grad_(False)

    def n_bytes(self) -> int:
        """Return the size of the weight file in bytes."""
        return 0 if self._file is None else self._file.stat().st_size

    def refuse_other_files(self) -> None:
        """Refuse weights that are not those of the digest, under which vectors are stored."""
        if self._file is not None and file_sha256(self._file) != self._sha256:
            raise UnsupportedModelError(
                f"{self._file} changed while the model was in use. Call again when it is written."
            )

    def _build(self, *, init_weights: bool) -> tuple[nn.Module, str]:
        """Build the model without its classifier; return it and where the classifier was."""
        from torchvision import models

        arguments: dict[str, Any] = {}
        if self.name in _SLOW_TO_INITIALIZE:
            # torchvision's own weights take pixels of another range than their preset gives.
            arguments = {
                "init_weights": init_weights,
                "aux_logits": False,
                "transform_input": self._file is not None,
            }
        if self._has_class():  # a ViT's positions are those of one size
            arguments = {"image_size": self._preset.crop_size[0]}
        module: Any = models.get_model(self.name, weights=None, **arguments)
        if self.name.startswith("squeezenet"):
            module.classifier = nn.AdaptiveAvgPool2d((1, 1))
            return module.eval(), "classifier"
        head = [name for name, each in module.named_modules() if isinstance(each, nn.Linear)][-1]
        parent, _, last = head.rpartition(".")
        setattr(module.get_submodule(parent), last, nn.Identity())
        return module.eval(), head

    def _build_fast(self, device: str) -> tuple[nn.Module, str]:
        """Build the model on the meta device where its weights are not needed."""
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                with torch.device(device):
                    return self._build(init_weights=False)
            except NotImplementedError:  # RegNets compute their widths with tensors
                return self._build(init_weights=False)

    def _load_file(self, path: Path) -> tuple[nn.Module, str]:
        state = plain_names(load_state(path))
        module, head = self._build_fast("meta")
        expected = module.state_dict()
        known = {
            name: value.to(expected[name].dtype) if name in expected else value
            for name, value in state.items()
            if not name.startswith((f"{head}.", *_AUXILIARY))
        }
        refuse_other_state(path, self.name, known, expected)
        load_into(module, known)
        return module, head

    def _cut(self, module: nn.Module) -> nn.Module:
        """Return the model up to the layer whose features are taken."""
        layer = self._layer()
        if layer is None:
            return module
        check_layer(module, layer)
        cut = extract(module, layer)
        for family, places in _CHANNELS_LAST.items():
            if self.name.startswith(family) and re.fullmatch(places, layer):
                return nn.Sequential(cut, _ChannelsFirst())
        return cut

    def _layer(self) -> str | None:
        """Return the submodule whose output is pooled; None is the model's own vector."""
        layer = self._settings.layer
        if layer is None and self._has_class() and self._settings.pooling != "auto":
            return "encoder"  # all tokens, after the last norm
        return None if layer is None else str(layer)

    def _has_class(self) -> bool:
        return self.name.startswith("vit_")

    def _measure(self) -> tuple[int, ...]:
        """Return the shape of the features of one picture, found without the weights."""
        pixels = torch.zeros(1, 3, *(2 * self._preset.crop_size)[:2])
        module, _ = self._build_fast("meta")
        is_real = not next(module.parameters()).is_meta
        with torch.inference_mode():
            features = self._cut(module)(pixels if is_real else pixels.to("meta"))
        if not isinstance(features, Tensor):
            raise InvalidParameterError(
                f"layer={self._settings.layer!r} of {self.name} gives a "
                f"{type(features).__name__}, expected one tensor. Choose a layer around it."
            )
        return tuple(features.shape)

    def _make_pool(self) -> tuple[Pool, int]:
        has_class = self._has_class()
        return make_pool(
            self._settings.pooling,
            self._shape,
            n_prefix=int(has_class),
            has_class=has_class,
            name=self.name if self._settings.layer is None else f"its layer {self._layer()!r}",
        )


class _ChannelsFirst(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        """Turn (n, height, width, d) into (n, d, height, width)."""
        return features.permute(0, 3, 1, 2)


def _check_name(name: str) -> None:
    known = [each for each, row in IMAGE_MODELS.items() if row.is_torchvision]
    if name in known:
        return
    close = difflib.get_close_matches(name, IMAGE_MODELS, n=5, cutoff=0.5)
    hint = f"Close to it: {', '.join(map(repr, close))}. " if close else ""
    raise InvalidParameterError(
        f"model={name!r} is no folder, and torchvision has no classification model of this name. "
        f"{hint}Models of the hub have an owner ('facebook/dinov2-small'), timm's begin with "
        "'timm:'; torchvision.models.list_models(torchvision.models) lists torchvision's."
    )


def _check_settings(name: str, settings: BackboneSettings) -> None:
    faults = []
    if settings.layer is not None and not isinstance(settings.layer, str):
        faults.append(
            f"layer={settings.layer!r}: {name} has its layers by name, like 'layer3' or "
            "'features.5'; numbers are for models of transformers"
        )
    if settings.revision is not None:
        faults.append(f"revision={settings.revision!r}: only models of the hub have revisions")
    if faults:
        raise InvalidParameterError("; ".join(faults))


def _find_weights(name: str, weights: str | Path | None) -> tuple[Path | None, Any]:
    """Return the file with the weights, None for random ones, and their preset."""
    from torchvision import models

    known = models.get_model_weights(name)
    preset = known["DEFAULT"].transforms()
    if weights is None:
        return None, preset
    if isinstance(weights, str) and weights in ("auto", *known.__members__):
        member = known["DEFAULT" if weights == "auto" else weights]
        return find_checkpoint(member.url), member.transforms()
    path = Path(os.path.expanduser(weights))  # noqa: PTH111  (never raises)
    if path.is_file():
        return path, preset
    listed = ", ".join(repr(each) for each in ("auto", *known.__members__))
    raise InvalidParameterError(
        f"weights={str(weights)!r} is neither a file nor weights of {name}. torchvision has "
        f"{listed}; None is random weights."
    )
