"""torchvision's classification models, without their classifiers.

Knows torchvision's architectures and presets; must not know rows, keys or devices.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from skembed._backbone import Exported
from skembed._forks import one_at_a_time
from skembed.exceptions import InvalidParameterError, did_you_mean
from skembed.image._backbone import (
    ImageBackbone,
    ImageSettings,
    Scale,
    check_settings,
    kept_backbone,
    refuse_enormous,
)
from skembed.image._export import pixels_code, pooling_code
from skembed.image._features import Plan, extract, make_plan, measure
from skembed.image._models import MODELS
from skembed.modules import (
    CutAt,
    Preprocess,
    build_empty,
    build_random,
    check_layer,
    fill,
    fill_part,
    write_state,
)
from skembed.weights import (
    FileSource,
    RandomSource,
    file_sha256,
    find_checkpoint,
    load_state,
    releases_of,
)

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["find_torchvision"]

_TOKENS = "encoder"
"""Of a vision transformer, the layer whose output are all tokens after the last norm."""

# Where classifiers are; the last three are run in training only.
_CLASSIFIERS = ("classifier.", "fc.", "head.", "heads.", "AuxLogits.", "aux1.", "aux2.")

# In the header of an exported file: the published weights that it was trained from.
_ORIGIN, _RANDOM = "torchvision_weights", "random"

# As densenets were saved before names could hold no dots; torchvision's own files are such.
_OLD_NAME = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)$")


def find_torchvision(
    name: str, settings: ImageSettings, preprocess: Preprocess | None
) -> ImageBackbone:
    """Return the backbone of a model as `torchvision.models.get_model` takes its name.

    `weights` is "auto" (torchvision's best), the name of other weights, a file with a state dict,
    or None: random weights, always the same.
    """
    _check_name(name)
    check_settings(name, settings)
    path, member = _find_weights(name, settings.weights)
    source = FileSource(name, path) if path else RandomSource(name, lambda: _count_bytes(name))
    return kept_backbone(
        source,
        settings,
        preprocess,
        lambda: TorchvisionBackbone(source, member, settings, preprocess),
    )


class TorchvisionBackbone(ImageBackbone):
    """A classification model of torchvision up to what its last linear layer takes.

    These are 2,048 features of a ResNet-50, the class token of a vision transformer, of AlexNet
    and VGG the 4,096 of the layer before the last. SqueezeNet has no such layer: its last feature
    map is averaged.
    """

    def __init__(
        self,
        source: FileSource | RandomSource,
        member: Any,
        settings: ImageSettings,
        preprocess: Preprocess | None,
    ) -> None:
        super().__init__(source, settings, preprocess)
        self._file = source.path if isinstance(source, FileSource) else None
        self._member = member
        preset: Any = member.transforms()
        self._preset = preset
        self._scale = Scale(preset.mean, preset.std)
        self._is_transformer = self.name.startswith("vit_")
        self._options = self._choose_options()
        self._refuse_missing_classifier(member)
        # Torch itself decides random weights only.
        libraries = ("torchvision",) if self._file is not None else ("torchvision", "torch")
        self._settle(
            self._make_plan,
            _numbers_of(preset),
            architecture=self.name,
            options=self._options,
            libraries=releases_of(*libraries),
        )

    def _pixels(self, image: Image) -> Tensor:
        """Resize and crop a picture as the weights' preset does; uint8 (3, height, width)."""
        from torchvision.transforms import functional

        preset = self._preset
        refuse_enormous(image, preset.resize_size[0])
        resized = functional.resize(
            image, preset.resize_size, preset.interpolation, antialias=preset.antialias
        )
        pixels: Tensor = functional.pil_to_tensor(functional.center_crop(resized, preset.crop_size))
        return pixels

    def _load_core(self) -> nn.Module:
        module = self._load_whole()
        if self.plan.output is not None:
            module = extract(module, self.plan.output, self._size())
        return module

    def _load_whole(self) -> nn.Module:
        return build_random(self._build) if self._file is None else self._load_file(self._file)

    def _export(self, core: Any, folder: Path) -> Exported:
        """Write a state dict by torchvision's names, without the classifier."""
        whole = self._load_whole()
        fill_part(whole, core if self.plan.output is None else core.module)
        weights = _RANDOM if self._is_random else str(self._member)
        write_state(whole.state_dict(), folder / "model.safetensors", **{_ORIGIN: weights})
        head = re.sub(r"\.(\d+)", r"[\1]", f".{_drop_head(build_empty(self._build_whole))}")
        options = "".join(f", {k}={v!r}" for k, v in self._all_options(draws=False).items())
        is_old = self.name.startswith("mnasnet")
        state = 'load_file("model.safetensors")'
        code = f"""
import torch
import torchvision
from safetensors.torch import load_file

model = torchvision.models.get_model("{self.name}", weights=None{options}).eval()
model{head} = torch.nn.Identity()  # it gives vectors, not classes
"""
        if is_old:  # which asks which version the names are of
            code += f"""
from collections import OrderedDict

state = OrderedDict({state})
state._metadata = {{"": {{"version": 2}}}}
"""
            state = "state"
        code += f"model.load_state_dict({state})\n"
        prepare = f'torchvision.models.get_weight("{self._member}").transforms()'
        code += pixels_code(prepare, self._preprocess is not None)
        code += pooling_code("model(pixels)", self.plan, self.plan.output)
        return Exported("torchvision", code, f'"{self.name}", weights="model.safetensors"')

    def _choose_options(self) -> dict[str, Any]:
        """Return with what the architecture is built."""
        if self._is_transformer:
            return {"image_size": int(self._preset.crop_size[0])}
        if self.name in ("inception_v3", "googlenet"):
            # Published weights take pixels of another range than their preset gives.
            return {"transform_input": not self._is_random, "aux_logits": False}
        return {}

    @property
    def _is_random(self) -> bool:
        """Whether the weights, or those that they were trained from, were random."""
        return self._file is None or _origin_of(self._file) == _RANDOM

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

        module: nn.Module = models.get_model(
            self.name, weights=None, **self._all_options(draws=self._file is None)
        )
        return module

    def _all_options(self, *, draws: bool) -> dict[str, Any]:
        """Return with what the architecture is built; whether it draws random weights."""
        is_slow = "aux_logits" in self._options
        return {**self._options, **({"init_weights": draws} if is_slow else {})}

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
        # Only MNASNets ask for a version; what they call the first has weights of other shapes.
        version = 2 if self.name.startswith("mnasnet") else None
        fill(module, state, path=path, name=self.name, ignored=_CLASSIFIERS, version=version)
        return module

    def _size(self) -> tuple[int, ...]:
        """Return the shape of one picture, as a batch."""
        height, width = (*self._preset.crop_size, *self._preset.crop_size)[:2]
        return 1, 3, int(height), int(width)

    def _make_plan(self) -> Plan:
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
                    "out. layer=None gives the classifier's input."
                )
        elif self.name.startswith("squeezenet"):  # which ends in a map of classes
            layer = "features"
        elif self._is_transformer and pooling == "cls":
            pooling = "auto"  # its own end is the class token
        elif self._is_transformer and pooling != "auto":
            layer = _TOKENS
        run = module if layer is None else CutAt(module, str(layer))
        name = self.name if layer is None else f"layer {str(layer)!r} of {self.name}"
        with torch.inference_mode():
            shape, is_channels_last = measure(run, torch.empty(self._size(), device="meta"), name)
        has_class = self._is_transformer and shape[1:2] == (getattr(module, "seq_length", 0),)
        return make_plan(
            pooling,
            shape,
            n_prefix=int(has_class),
            has_class=has_class,
            name=name,
            output=None if layer is None else str(layer),
            is_channels_last=is_channels_last,
        )


def _count_bytes(name: str) -> int:
    from torchvision import models

    # Those that can initialise themselves warn unless they are told.
    options = {"init_weights": False} if name in ("inception_v3", "googlenet") else {}
    module = build_empty(lambda: models.get_model(name, weights=None, **options))
    _drop_head(module)
    return sum(4 * each.numel() for each in module.parameters())


def _drop_head(module: nn.Module) -> str:
    """Leave out what classifies features, the last linear layer or a map of classes; name it."""
    linear = [name for name, each in module.named_modules() if isinstance(each, nn.Linear)]
    head = linear[-1] if linear else "classifier"
    parent, _, last = head.rpartition(".")
    setattr(module.get_submodule(parent), last, nn.Identity())
    return head


def _check_name(name: str) -> None:
    known = [each for each, row in MODELS.items() if row.is_torchvision]
    if name in known:
        return
    close = did_you_mean(name, MODELS, n=3)
    raise InvalidParameterError(
        f"model={name!r} is neither a folder nor a torchvision classification model.{close} Hub "
        "models have an owner ('facebook/dinov2-small'), timm models begin with 'timm:'."
    )


def _numbers_of(preset: Any) -> dict[str, Any]:
    """Return what decides a preset's pixels."""
    numbers = {"resize": preset.resize_size, "crop": preset.crop_size}
    numbers |= {"mean": preset.mean, "std": preset.std}
    interpolation = {"interpolation": preset.interpolation.value, "antialias": preset.antialias}
    return {name: list(value) for name, value in numbers.items()} | interpolation


def _find_weights(name: str, weights: str | Path | None) -> tuple[Path | None, Any]:
    """Return the file with a model's weights, and whose preset prepares its pictures.

    The file is None for random weights. The member, of torchvision's enum, is that of a file that
    holds published weights, too; of other files and of random weights the best one.
    """
    with one_at_a_time():
        from torchvision import models

    known = models.get_model_weights(name)
    if weights is None:
        return None, known["DEFAULT"]
    if isinstance(weights, str):
        short = weights.removeprefix(f"{known.__name__}.")
        if short in ("auto", *known.__members__):
            member = known["DEFAULT" if short == "auto" else short]
            return find_checkpoint(member.url), member
    path = Path(os.path.expanduser(weights))  # noqa: PTH111  (never raises)
    if path.is_file():
        return path, _published_as(path, known)
    listed = ", ".join(repr(each) for each in ("auto", *known.__members__))
    raise InvalidParameterError(
        f"weights={str(weights)!r} is neither a file nor weights for {name}. torchvision has "
        f"{listed}; None is random weights. The working directory is {Path.cwd()}."
    )


def _origin_of(path: Path) -> str:
    """Return what an exported file says of the weights that it was trained from; "" of others."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        return ""
    try:
        with safe_open(path, framework="numpy", backend="pread") as file:
            return str((file.metadata() or {}).get(_ORIGIN, ""))
    except (SafetensorError, OSError):  # told when it is read
        return ""


def _published_as(path: Path, known: Any) -> Any:
    """Return the published weights that a file holds: pictures are prepared for these."""
    short = _origin_of(path).removeprefix(f"{known.__name__}.")
    if short in known.__members__:
        return known[short]
    sha256 = file_sha256(path)
    for member in known:
        found = re.search(r"-([0-9a-f]{8,64})\.\w+$", member.url)
        if found and sha256.startswith(found[1]):
            return member
    return known["DEFAULT"]
