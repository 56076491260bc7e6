"""torchvision's classification models, without their classifiers.

Knows torchvision's architectures and presets; must not know rows, keys nor devices.
"""

from __future__ import annotations

import copy
import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from skembed.exceptions import InvalidParameterError, UnsupportedModelError
from skembed.image._backbone import (
    Backbone,
    BackboneSettings,
    MeanAndStd,
    refuse_enormous,
)
from skembed.image._layers import ChannelsFirst, extract, measure
from skembed.image._models import IMAGE_MODELS
from skembed.image._pooling import make_pool
from skembed.image._published import find_weights
from skembed.modules import CutAt, build_empty, build_random, check_layer, fill
from skembed.store import digest_of
from skembed.weights import file_sha256, kept_recent, load_state, releases_of

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["TorchvisionBackbone"]

_FORMAT = 2
"""Raised when a change to skembed changes vectors, so that stored ones are not served."""

_TOKENS = "encoder"
"""Of a vision transformer, the layer whose output are all tokens after the last norm."""

# Where classifiers are; the last three are run in training only.
_CLASSIFIERS = ("classifier.", "fc.", "head.", "heads.", "AuxLogits.", "aux1.", "aux2.")

# As densenets were saved before names could hold no dots; torchvision's own files are such.
_OLD_NAME = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)$")


@dataclass(frozen=True)
class _Plan:
    """What is run and how it is pooled, found without the weights.

    Parameters
    ----------
    layer : str or None
        The submodule whose output is pooled; None is the model's own vector.
    is_channels_last : bool
        Whether that is a map with its channels last.
    pool : Module
        What makes vectors of it.
    width : int
        Their number of features.
    """

    layer: str | None
    is_channels_last: bool
    pool: nn.Module
    width: int


class TorchvisionBackbone(Backbone):
    """A classification model of torchvision up to what its last linear layer takes.

    These are 2,048 features of a ResNet-50, the class token of a vision transformer, of AlexNet
    and VGG the 4,096 of the layer before the last. SqueezeNet has no such layer: its last feature
    map is averaged.

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
    """

    def __init__(self, name: str, settings: BackboneSettings) -> None:
        self.name = name
        self._settings = settings
        _check_name(name)
        _check_settings(name, settings)
        self._file, member = find_weights(name, settings.weights)
        self._sha256 = None if self._file is None else file_sha256(self._file)
        self._preset: Any = member.transforms()
        self._options = self._choose_options()
        self._numbers = MeanAndStd(self._preset.mean, self._preset.std)
        self._refuse_missing_classifier(member)
        asked = {
            "name": name,
            "options": self._options,
            "size": list(self._preset.crop_size),
            "layer": settings.layer,
            "pooling": settings.pooling,
        }
        self._plan: _Plan = kept_recent(
            digest_of({"kind": "plan of a model of torchvision", **asked}), self._make_plan
        )
        self.width = self._plan.width
        # Torch itself decides random weights only.
        libraries = ("torchvision",) if self._file is not None else ("torchvision", "torch")
        self.digest = digest_of(
            {
                "kind": "torchvision",
                "format": _FORMAT,
                "libraries": releases_of(*libraries),
                "weights": self._sha256 or "random",
                "preset": _numbers_of(self._preset),
                **asked,
            }
        )

    def __repr__(self) -> str:
        return f"TorchvisionBackbone({self.name!r}, width={self.width})"

    def prepare(self, image: Image) -> Tensor:
        """Resize and crop a picture as the weights' preset does; uint8 (3, height, width).

        Raises
        ------
        ValueError
            If the picture is so narrow that resizing it would make it enormous.
        """
        from torchvision.transforms import functional

        preset = self._preset
        refuse_enormous(image, preset.resize_size[0])
        resized = functional.resize(
            image, preset.resize_size, preset.interpolation, antialias=preset.antialias
        )
        pixels: Tensor = functional.pil_to_tensor(functional.center_crop(resized, preset.crop_size))
        return pixels

    def scale(self, pixels: Tensor) -> Tensor:
        """Normalise a batch of uint8 pixels as the preset does."""
        return self._numbers.scale(pixels)

    def load(self) -> nn.Module:
        """Load the module, in float32 on the CPU, in evaluation mode."""
        module = build_random(self._build) if self._file is None else self._load_file(self._file)
        plan = self._plan
        if plan.layer is not None:
            pixels = torch.rand(
                self._size(), generator=torch.Generator().manual_seed(0), device="cpu"
            )
            with torch.inference_mode():
                module = extract(module, plan.layer, pixels)
        parts = [module, ChannelsFirst()] if plan.is_channels_last else [module]
        return nn.Sequential(*parts, copy.deepcopy(plan.pool)).eval().requires_grad_(False)

    def n_bytes(self) -> int:
        """Return the size of the weights in bytes."""
        if self._file is not None:
            return self._file.stat().st_size
        return sum(4 * each.numel() for each in build_empty(self._build).parameters())

    def refuse_other_files(self) -> None:
        """Refuse weights that are not those of the digest, under which vectors are stored."""
        if self._file is not None and file_sha256(self._file) != self._sha256:
            raise UnsupportedModelError(
                f"{self._file} changed while the model was in use. Call again when it is written."
            )

    def _choose_options(self) -> dict[str, Any]:
        """Return with what the architecture is built."""
        if self._is_transformer():
            return {"image_size": int(self._preset.crop_size[0])}
        if self.name in ("inception_v3", "googlenet"):
            # Published weights take pixels of another range than their preset gives.
            return {"transform_input": self._file is not None, "aux_logits": False}
        return {}

    def _is_transformer(self) -> bool:
        return self.name.startswith("vit_")

    def _is_without_head(self) -> bool:
        """Return whether the model has no linear layer at its end, but a map of classes."""
        return self.name.startswith("squeezenet")

    def _refuse_missing_classifier(self, member: Any) -> None:
        layer = self._settings.layer
        is_whole = member.meta.get("categories") is not None
        if not is_whole and (layer is None or str(layer).startswith("classifier")):
            raise InvalidParameterError(
                f"weights {member.name!r} of {self.name} end before its classifier, whose values "
                "are not numbers. Choose a layer before it: layer='features'."
            )

    def _build_whole(self) -> nn.Module:
        from torchvision import models

        options = dict(self._options)
        if "aux_logits" in options:
            options["init_weights"] = self._file is None
        module: nn.Module = models.get_model(self.name, weights=None, **options)
        return module

    def _build(self) -> nn.Module:
        """Build the model without its classifier."""
        module = self._build_whole()
        _drop_head(module)
        return module

    def _load_file(self, path: Path) -> nn.Module:
        state = load_state(path)
        if self.name.startswith("densenet"):
            state = {_OLD_NAME.sub(r"\1\2", name): value for name, value in state.items()}
        module = build_empty(self._build)
        known = set(module.state_dict())

        def is_classifier(name: str) -> bool:
            return name not in known and name.startswith(_CLASSIFIERS)

        # Only MNASNets ask for a version; what they call the first has weights of other shapes.
        version = 2 if self.name.startswith("mnasnet") else None
        fill(module, state, path=path, name=self.name, is_ignored=is_classifier, version=version)
        return module

    def _size(self) -> tuple[int, ...]:
        """Return the shape of one picture, as a batch."""
        height, width = (*self._preset.crop_size, *self._preset.crop_size)[:2]
        return 1, 3, int(height), int(width)

    def _make_plan(self) -> _Plan:
        settings = self._settings
        module = build_empty(self._build_whole).to("meta")
        head = _drop_head(module)
        layer, pooling = settings.layer, settings.pooling
        if layer is not None:
            model = f"torchvision.models.get_model({self.name!r})"
            check_layer(module, str(layer), model=model)
            if f"{head}.".startswith(f"{layer}."):
                raise InvalidParameterError(
                    f"layer={layer!r} is or ends with the classifier of {self.name}, which is left "
                    "out. layer=None gives what it takes."
                )
        elif self._is_without_head():
            layer = "features"
        elif self._is_transformer() and pooling == "cls":
            pooling = "auto"  # its own end is the class token
        elif self._is_transformer() and pooling != "auto":
            layer = _TOKENS
        run = module if layer is None else CutAt(module, str(layer))
        name = self.name if layer is None else f"layer {str(layer)!r} of {self.name}"
        with torch.inference_mode():
            shape, is_channels_last = measure(run, torch.empty(self._size(), device="meta"), name)
        has_class = self._is_transformer() and shape[1:2] == (getattr(module, "seq_length", 0),)
        pool, width = make_pool(
            pooling, shape, n_prefix=int(has_class), has_class=has_class, name=name
        )
        return _Plan(None if layer is None else str(layer), is_channels_last, pool, width)


def _drop_head(module: nn.Module) -> str:
    """Leave out what classifies features, the last linear layer or a map of classes; name it."""
    linear = [name for name, each in module.named_modules() if isinstance(each, nn.Linear)]
    head = linear[-1] if linear else "classifier"
    parent, _, last = head.rpartition(".")
    setattr(module.get_submodule(parent), last, nn.Identity())
    return head


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


def _numbers_of(preset: Any) -> dict[str, Any]:
    """Return what decides a preset's pixels."""
    return {
        "resize": list(preset.resize_size),
        "crop": list(preset.crop_size),
        "interpolation": preset.interpolation.value,
        "antialias": preset.antialias,
        "mean": list(preset.mean),
        "std": list(preset.std),
    }
