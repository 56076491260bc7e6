"""timm models, by name, from a folder or from the hub.

Knows timm's configurations and where its models end; must not know rows, keys or devices. timm is
optional.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from skembed._backbone import Exported, Source
from skembed._optional import import_optional
from skembed.exceptions import (
    InvalidParameterError,
    UnsafeModelError,
    UnsupportedModelError,
    did_you_mean,
)
from skembed.image._backbone import (
    ImageBackbone,
    ImageSettings,
    check_settings,
    kept_backbone,
)
from skembed.image._export import pixels_code, pooling_code
from skembed.image._features import Plan, extract, find_on_meta, make_plan, measure
from skembed.image._timm_pixels import TimmPixels
from skembed.modules import (
    CutAt,
    Preprocess,
    build_empty,
    build_random,
    check_layer,
    fill,
    fill_part,
    is_empty,
    plain_names,
    write_state,
)
from skembed.weights import (
    FileSource,
    FolderSource,
    RandomSource,
    check_weights,
    load_state,
    read_json,
    releases_of,
    resolve_model,
)

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["find_timm", "is_timm_folder"]

# What a configuration may not ask of `timm.create_model`: it would load other files.
_FORBIDDEN = ("pretrained", "checkpoint_path", "cache_dir", "pretrained_cfg_overlay")

_PATCHES = "patches"
"""What is run where the user pools: the model without its own pooling."""


def is_timm_folder(folder: Path) -> bool:
    """Return whether a model folder is one that timm has written."""
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    return isinstance(config, dict) and "architecture" in config and "model_type" not in config


@dataclass(frozen=True)
class _Architecture:
    """What timm builds: a name of its own, arguments, and a "pretrained_cfg"."""

    name: str
    config: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """Build the model without its classifier."""
        options = {"pretrained": False, "pretrained_cfg": dict(self.config), "num_classes": 0}
        module: nn.Module = _timm().create_model(self.name, **options, **self.options)
        return module

    def build_unfilled(self) -> nn.Module:
        """Build the model without values where its code allows that."""
        try:
            return build_empty(self.build)
        except (NotImplementedError, RuntimeError):  # it computes with values
            return build_random(self.build)

    def count_bytes(self) -> int:
        """Return the size of the weights."""
        return sum(4 * each.numel() for each in self.build_unfilled().parameters())


def find_timm(
    model: str | FolderSource, settings: ImageSettings, preprocess: Preprocess | None
) -> ImageBackbone:
    """Return the backbone of a name as `timm.create_model` takes it, or of a folder.

    Of a name, `weights` is "auto" (those on the hub), a file with a state dict, or None: random
    weights, always the same.
    """
    is_folder = isinstance(model, FolderSource)
    name = model.name if isinstance(model, FolderSource) else f"timm:{model}"
    is_of_hub = is_folder or settings.weights == "auto"
    check_settings(name, settings, brings_weights=is_folder, is_of_hub=is_of_hub)
    source: Source = model if isinstance(model, FolderSource) else _find_named(model, settings)

    def make() -> ImageBackbone:
        if isinstance(source, FolderSource):
            architecture = _read_folder(source.folder)
        else:
            name = source.name.removeprefix("timm:")
            architecture = _Architecture(_architecture_of(name), _config_of(name)[0])
        return TimmBackbone(source, architecture, settings, preprocess)

    return kept_backbone(source, settings, preprocess, make)


class TimmBackbone(ImageBackbone):
    """A model of timm without its classifier.

    `pooling="auto"` is the vector that the model itself ends with. Any other pooling takes its last
    patches or feature map.
    """

    def __init__(
        self,
        source: Source,
        architecture: _Architecture,
        settings: ImageSettings,
        preprocess: Preprocess | None,
    ) -> None:
        super().__init__(source, settings, preprocess)
        self._architecture = architecture
        self._preparation = TimmPixels(architecture.config, self.name)
        self._scale = self._preparation.scale
        # Torch itself decides random weights only.
        is_random = isinstance(source, RandomSource)
        libraries = ("timm", "torchvision", *(["torch"] if is_random else []))
        self._settle(
            lambda: find_on_meta(self._plan_on),
            self._preparation.description,
            architecture=architecture.name,
            options=repr(sorted(architecture.options.items())),
            config=repr(sorted(architecture.config.items())),
            libraries=releases_of(*libraries),
        )

    def _pixels(self, image: Image) -> Tensor:
        """Prepare a picture as the model's own evaluation transform does."""
        return self._preparation.prepare(image)

    def _load_whole(self) -> nn.Module:
        source = self.source
        if isinstance(source, FolderSource):
            return self._load_files(check_weights(source.folder))
        if isinstance(source, FileSource):
            return self._load_files([source.path])
        return build_random(self._architecture.build)

    def _export(self, core: Any, folder: Path) -> Exported:
        """Write a folder as timm does, without the classifier."""
        whole, is_part = self._load_whole(), self._settings.layer is not None
        fill_part(whole, core.module if is_part or self.plan.output == _PATCHES else core)
        write_state(whole.state_dict(), folder / "model.safetensors")
        given = self._architecture
        known = {k: v for k, v in given.config.items() if v is not None}
        config = {
            "architecture": given.name,
            "num_classes": 0,
            "num_features": self.width,
            "model_args": given.options,
            "pretrained_cfg": {**known, "num_classes": 0},
        }
        (folder / "config.json").write_text(json.dumps(config, indent=2, default=list))
        code = """
import timm
import torch

model = timm.create_model("local-dir:.", pretrained=True).eval()
data = timm.data.resolve_model_data_config(model)
"""
        prepare = "timm.data.create_transform(**data, is_training=False)"
        code += pixels_code(prepare, self._preprocess is not None)
        call = "forward_features" if self.plan.output == _PATCHES else "forward"
        code += pooling_code(f"model.{call}(pixels)", self.plan, self._settings.layer)
        return Exported("timm", code)

    def _load_core(self) -> nn.Module:
        module = self._load_whole()
        layer = self._settings.layer
        if layer is not None:
            module = extract(module, str(layer), self._preparation.size)
        elif self.plan.output == _PATCHES:
            module = _LastFeatures(module)
        return module

    def _load_files(self, files: list[Path]) -> nn.Module:
        state = plain_names({k: v for path in files for k, v in load_state(path).items()})
        module = self._architecture.build_unfilled()
        if not self._is_native(state, module):
            module = build_random(self._architecture.build)
            state = _translated(state, module)
        place: Any = {"path": files[0], "name": self.name, "ignored": self._classifiers()}
        fill(module, state, **place)
        if is_empty(module):  # buffers that are computed and not saved
            module = build_random(self._architecture.build)
            fill(module, state, **place)
        return module

    def _is_native(self, state: dict[str, Tensor], module: nn.Module) -> bool:
        """Return whether weights have the names that timm gives them."""
        known = set(module.state_dict())
        unknown = [name for name in set(state) - known if not name.startswith(self._classifiers())]
        return known <= set(state) and not unknown

    def _classifiers(self) -> tuple[str, ...]:
        """Return with what the names of a classifier's weights begin."""
        heads: Any = self._architecture.config.get("classifier") or ("fc", "head", "classifier")
        heads = [heads] if isinstance(heads, str) else heads
        # Also of norms around the last layer, which some models leave out with it.
        return tuple(f"{each.partition('.')[0]}." for each in heads)

    def _plan_on(self, device: str) -> Plan:
        """Run the model without its own weights."""
        if device == "meta":
            module = self._architecture.build_unfilled().to("meta")
        else:
            module = build_random(self._architecture.build)
        settings = self._settings
        name, run = self.name, module
        pixels = torch.zeros(self._preparation.size, device=device)
        n_prefix = int(getattr(module, "num_prefix_tokens", 0))
        n_tokens = None
        with torch.inference_mode():
            if settings.layer is not None:
                model = f"timm.create_model({self._architecture.name!r})"
                check_layer(module, str(settings.layer), model=model)
                name = f"layer {str(settings.layer)!r} of {name}"
                last = _LastFeatures(module)(pixels) if n_prefix else None
                n_tokens = last.shape[1] if isinstance(last, Tensor) and last.ndim == 3 else None
                run = CutAt(module, str(settings.layer))
            elif settings.pooling != "auto":
                run = _LastFeatures(module)
            shape, is_channels_last = measure(run, pixels, name)
        has_class = getattr(module, "cls_token", None) is not None
        if isinstance(run, _LastFeatures) and len(shape) == 3 and has_class and not n_prefix:
            raise InvalidParameterError(
                f"pooling={settings.pooling!r}, but timm does not say which tokens of {name} are "
                "patches. Leave pooling='auto'."
            )
        if len(shape) != 3 or (settings.layer is not None and shape[1] != n_tokens):
            n_prefix = 0  # a layer before these tokens are put in
        has_class = has_class and n_prefix > 0
        return make_plan(
            settings.pooling,
            shape,
            n_prefix=n_prefix,
            has_class=has_class,
            name=name,
            output=_PATCHES if isinstance(run, _LastFeatures) else None,
            is_channels_last=is_channels_last,
        )


class _LastFeatures(nn.Module):
    """A model of timm without its pooling."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, pixels: Tensor) -> Any:
        """Return patches (n, tokens, d) or a feature map, its channels first or last."""
        return self.module.forward_features(pixels)


def _timm() -> Any:
    return import_optional("timm", extra="timm", purpose="A timm model")


def _find_named(name: str, settings: ImageSettings) -> Source:
    """Return where the weights of a name of timm's are."""
    title = f"timm:{name}"
    config, hub_id = _config_of(name)
    weights, revision = settings.weights, settings.revision
    if weights == "auto":
        # Without a tag, the one that timm takes first; some have other owners.
        found = resolve_model(hub_id or f"timm/{name}", revision=revision, is_whole=is_timm_folder)
        return FolderSource(title, found.folder, found.origin, found.revision)
    if weights is None:
        return RandomSource(title, _Architecture(_architecture_of(name), config).count_bytes)
    path = Path(os.path.expanduser(weights))  # noqa: PTH111  (never raises)
    if not path.is_file():
        raise InvalidParameterError(
            f"weights={str(weights)!r} is not a file. For timm models, expected 'auto', a file "
            f"with a state dict, or None for random weights. The working directory is {Path.cwd()}."
        )
    return FileSource(title, path)


def _architecture_of(name: str) -> str:
    timm, architecture = _timm(), name.partition(".")[0]
    if not timm.is_model(architecture):
        close = did_you_mean(architecture, timm.list_models(), n=3)
        raise InvalidParameterError(
            f"model='timm:{name}': timm {timm.__version__} has no model {architecture!r}.{close} "
            "timm.list_models() lists them."
        )
    return architecture


def _config_of(name: str) -> tuple[dict[str, Any], str | None]:
    """Return what timm knows of a name, and its weights' id on the hub."""
    timm, architecture = _timm(), _architecture_of(name)
    try:
        found = timm.models.get_pretrained_cfg(name)
    except RuntimeError:  # its word for an unknown tag
        tags = timm.list_pretrained(f"{architecture}.*")
        raise InvalidParameterError(
            f"model='timm:{name}': timm {timm.__version__} has no weights with this tag; "
            f"it has {', '.join(map(repr, tags)) or 'none for this architecture'}."
        ) from None
    config = {} if found is None else dict(found.to_dict())
    return config, getattr(found, "hf_hub_id", None)


def _read_folder(folder: Path) -> _Architecture:
    """Return architecture, arguments and preprocessing as the folder says."""
    check_weights(folder)
    config = read_json(folder / "config.json")
    name = str(config.get("architecture"))
    if not _timm().is_model(name):
        raise UnsupportedModelError(
            f"timm {_timm().__version__} does not know {name!r}, the architecture of {folder}. A "
            "newer release may: pip install -U timm."
        )
    options = dict(config.get("model_args") or {})
    options.pop("num_classes", None)
    asked = sorted(set(_FORBIDDEN) & set(options))
    if asked:
        raise UnsafeModelError(
            f"{folder / 'config.json'} asks timm for {', '.join(asked)}, which would load other "
            "files than this folder's. Remove that from model_args."
        )
    # Before timm 0.9 the configuration was all one level.
    return _Architecture(name, dict(config.get("pretrained_cfg") or config), options)


def _translated(state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Return weights by timm's names, if it can tell: authors have names of their own."""
    translate = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    if translate is None:
        return state
    try:
        return dict(translate(dict(state), module))
    except Exception:  # of another architecture; what does not fit is reported by name
        return state
