"""Models of timm, by name, from a folder or from the hub.

Knows timm's configurations and where its models end; must not know rows, keys nor devices. timm is
optional.
"""

from __future__ import annotations

import copy
import difflib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from skembed._optional import import_optional
from skembed.exceptions import (
    InvalidParameterError,
    SkembedError,
    UnsafeModelError,
    UnsupportedModelError,
)
from skembed.image._backbone import Backbone, BackboneSettings
from skembed.image._layers import ChannelsFirst, extract, measure
from skembed.image._pooling import make_pool
from skembed.image._timm_pixels import TimmPixels
from skembed.modules import (
    CutAt,
    build_empty,
    build_random,
    check_layer,
    fill,
    is_empty,
    plain_names,
)
from skembed.store import digest_of
from skembed.weights import (
    ModelSource,
    check_weights,
    file_sha256,
    folder_digest,
    kept_recent,
    load_state,
    read_json,
    releases_of,
    resolve_model,
)

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["TimmBackbone", "is_timm_folder"]

_FORMAT = 2
"""Raised when a change to skembed changes vectors, so that stored ones are not served."""

# What a configuration may not ask of `timm.create_model`: it would load other files.
_FORBIDDEN = ("pretrained", "checkpoint_path", "cache_dir", "pretrained_cfg_overlay")


def is_timm_folder(folder: Path) -> bool:
    """Return whether a model folder is one that timm has written."""
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    return isinstance(config, dict) and "architecture" in config and "model_type" not in config


@dataclass(frozen=True)
class _Plan:
    """What is run and how it is pooled, found without the weights.

    Parameters
    ----------
    is_channels_last : bool
        Whether the features are a map with its channels last.
    pool : Module
        What makes vectors of them.
    width : int
        Their number of features.
    """

    is_channels_last: bool
    pool: nn.Module
    width: int


class TimmBackbone(Backbone):
    """A model of timm without its classifier.

    `pooling="auto"` is the vector that the model itself ends with. Any other pooling takes its last
    patches or feature map.

    Parameters
    ----------
    model : str or ModelSource
        A name as `timm.create_model` takes it ("resnet18", "resnet18.a1_in1k"), or a folder.
    settings : BackboneSettings
        Of a name, `weights` is "auto" (those on the hub under "timm/" and the name), a file with a
        state dict, or None: random weights, always the same. `layer` is the name of a submodule.

    Raises
    ------
    InvalidParameterError
        If timm has no such model, or the settings ask for what it does not have.
    MissingDependencyError
        If timm is not installed.
    ModelNotFoundError
        If the weights are not to be had.
    UnsafeModelError
        If a folder's configuration asks for other files.
    UnsupportedModelError
        If a folder's model is unknown, or takes no colour pictures.
    """

    def __init__(self, model: str | ModelSource, settings: BackboneSettings) -> None:
        self._timm: Any = import_optional("timm", extra="timm", purpose="A model of timm")
        self._settings = settings
        _check_layer_setting(settings)
        self.name = f"timm:{model}" if isinstance(model, str) else model.name
        self._folder: Path | None = None
        self._file: Path | None = None
        self._options: dict[str, Any] = {}
        source = self._read_name(model) if isinstance(model, str) else model
        if source is not None:
            self._read_folder(source.folder, is_named=isinstance(model, str))
        self._weights_digest = self._digest_weights()
        self._pixels = TimmPixels(self._config, self.name)
        asked = {
            "architecture": self._architecture,
            "options": repr(sorted(self._options.items())),
            "config": repr(sorted(self._config.items())),
            "layer": settings.layer,
            "pooling": settings.pooling,
        }
        self._plan: _Plan = kept_recent(
            digest_of({"kind": "plan of a model of timm", **asked}), self._make_plan
        )
        self.width = self._plan.width
        # Torch itself decides random weights only.
        libraries = ("timm", "torchvision", *([] if self._weights_digest else ["torch"]))
        self.digest = digest_of(
            {
                "kind": "timm",
                "format": _FORMAT,
                "libraries": releases_of(*libraries),
                "weights": self._weights_digest or "random",
                "pixels": self._pixels.description,
                **asked,
            }
        )

    def __repr__(self) -> str:
        return f"TimmBackbone({self.name!r}, width={self.width})"

    def prepare(self, image: Image) -> Tensor:
        """Prepare a picture as the model's own evaluation transform does."""
        return self._pixels.prepare(image)

    def scale(self, pixels: Tensor) -> Tensor:
        """Normalise a batch of uint8 pixels; others are normalised already."""
        return self._pixels.scale(pixels)

    def load(self) -> nn.Module:
        """Load the module, in float32 on the CPU, in evaluation mode."""
        files = self._weight_files()
        module = self._load_files(files) if files else build_random(self._build)
        layer = self._settings.layer
        if layer is not None:
            generator = torch.Generator().manual_seed(0)
            pixels = torch.rand(self._pixels.size, generator=generator, device="cpu")
            with torch.inference_mode():
                module = extract(module, str(layer), pixels)
        elif self._settings.pooling != "auto":
            module = _LastFeatures(module)
        parts = [module, ChannelsFirst()] if self._plan.is_channels_last else [module]
        return nn.Sequential(*parts, copy.deepcopy(self._plan.pool)).eval().requires_grad_(False)

    def n_bytes(self) -> int:
        """Return the size of the weights in bytes."""
        files = self._weight_files()
        if files:
            return sum(path.stat().st_size for path in files)
        return sum(4 * each.numel() for each in self._build_unfilled().parameters())

    def refuse_other_files(self) -> None:
        """Refuse weights that are not those of the digest, under which vectors are stored."""
        if self._digest_weights() != self._weights_digest:
            raise UnsupportedModelError(
                f"The files of {self.name} changed while the model was in use. Call again when "
                "they are all written."
            )

    def _read_name(self, name: str) -> ModelSource | None:
        """Settle architecture and weights of a name of timm's; return a folder to read, if any."""
        weights, revision = self._settings.weights, self._settings.revision
        self._architecture = self._check_architecture(name)
        try:
            found = self._timm.models.get_pretrained_cfg(name)
        except RuntimeError as error:  # its word for an unknown tag
            tags = self._timm.list_pretrained(f"{self._architecture}.*")
            raise InvalidParameterError(
                f"model='timm:{name}': timm {self._timm.__version__} has no weights of this tag; "
                f"it has {', '.join(map(repr, tags)) or 'none of this architecture'}."
            ) from error
        self._config: dict[str, Any] = {} if found is None else dict(found.to_dict())
        if weights == "auto":
            # Without a tag, the one that timm takes first; some have other owners.
            hub_id = getattr(found, "hf_hub_id", None) or f"timm/{name}"
            return resolve_model(hub_id, revision=revision, is_whole=is_timm_folder)
        if revision is not None:
            raise InvalidParameterError(
                f"revision={revision!r}: only models of the hub have revisions, and weights="
                f"{str(weights)!r} are not from there."
            )
        if weights is not None:
            self._file = _find_file(weights)
        return None

    def _check_architecture(self, name: str) -> str:
        architecture = name.partition(".")[0]
        if not self._timm.is_model(architecture):
            known = self._timm.list_models()
            close = difflib.get_close_matches(architecture, known, n=5, cutoff=0.5)
            hint = f" Close to it: {', '.join(map(repr, close))}." if close else ""
            raise InvalidParameterError(
                f"model='timm:{name}': timm {self._timm.__version__} has no model "
                f"{architecture!r}.{hint} timm.list_models() lists them."
            )
        return architecture

    def _read_folder(self, folder: Path, *, is_named: bool) -> None:
        """Settle architecture, arguments and preprocessing as the folder says."""
        if not is_named and self._settings.weights != "auto":
            raise InvalidParameterError(
                f"weights={str(self._settings.weights)!r}, but {folder} holds the weights. Leave "
                "weights='auto'."
            )
        self._folder = folder
        check_weights(folder)
        config = read_json(folder / "config.json")
        architecture = str(config.get("architecture"))
        if not self._timm.is_model(architecture):
            raise UnsupportedModelError(
                f"timm {self._timm.__version__} does not know {architecture!r}, the architecture "
                f"of {folder}. A newer release may: pip install -U timm."
            )
        self._architecture = architecture
        self._options = dict(config.get("model_args") or {})
        self._options.pop("num_classes", None)
        asked = sorted(set(_FORBIDDEN) & set(self._options))
        if asked:
            raise UnsafeModelError(
                f"{folder / 'config.json'} asks timm for {', '.join(asked)}, which would load "
                "other files than this folder's. Remove that from model_args."
            )
        # Before timm 0.9 the configuration was all one level.
        self._config = dict(config.get("pretrained_cfg") or config)

    def _digest_weights(self) -> str | None:
        if self._folder is not None:
            return folder_digest(self._folder).hex()
        return None if self._file is None else file_sha256(self._file)

    def _weight_files(self) -> list[Path]:
        if self._folder is not None:
            return check_weights(self._folder)
        return [] if self._file is None else [self._file]

    def _build(self) -> nn.Module:
        module: nn.Module = self._timm.create_model(
            self._architecture,
            pretrained=False,
            pretrained_cfg=dict(self._config),
            num_classes=0,
            **self._options,
        )
        return module

    def _build_unfilled(self) -> nn.Module:
        """Build the model without values where its code allows that."""
        try:
            return build_empty(self._build)
        except (NotImplementedError, RuntimeError):  # it computes with values
            return build_random(self._build)

    def _load_files(self, files: list[Path]) -> nn.Module:
        state = plain_names({k: v for path in files for k, v in load_state(path).items()})
        module = self._build_unfilled()
        if not self._is_native(state, module):
            module = build_random(self._build)
            state = _translated(state, module)
        self._fill(module, state, files[0])
        if is_empty(module):  # buffers that are computed and not saved
            module = build_random(self._build)
            self._fill(module, state, files[0])
        return module

    def _fill(self, module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
        known = set(module.state_dict())

        def is_classifier(name: str) -> bool:
            return name not in known and name.startswith(self._classifiers())

        fill(module, state, path=path, name=self.name, is_ignored=is_classifier)

    def _is_native(self, state: dict[str, Tensor], module: nn.Module) -> bool:
        """Return whether weights have the names that timm gives them."""
        known = set(module.state_dict())
        unknown = [name for name in set(state) - known if not name.startswith(self._classifiers())]
        return known <= set(state) and not unknown

    def _classifiers(self) -> tuple[str, ...]:
        """Return with what the names of a classifier's weights begin."""
        heads: Any = self._config.get("classifier") or ("fc", "head", "classifier")
        # Also of norms around the last layer, which some models leave out with it.
        return tuple(f"{each.partition('.')[0]}." for each in _as_list(heads))

    def _make_plan(self) -> _Plan:
        try:
            return self._plan_on("meta", self._build_unfilled().to("meta"))
        except SkembedError:
            raise
        except Exception:  # some models compute with values to find shapes
            return self._plan_on("cpu", build_random(self._build))

    def _plan_on(self, device: str, module: nn.Module) -> _Plan:
        """Run the model without its own weights."""
        settings = self._settings
        name, run = self.name, module
        pixels = torch.zeros(self._pixels.size, device=device)
        n_prefix = int(getattr(module, "num_prefix_tokens", 0))
        n_tokens = None
        with torch.inference_mode():
            if settings.layer is not None:
                model = f"timm.create_model({self._architecture!r})"
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
                f"pooling={settings.pooling!r}, but timm does not tell which tokens of {name} are "
                "patches. Leave pooling='auto'."
            )
        if len(shape) != 3 or (settings.layer is not None and shape[1] != n_tokens):
            n_prefix = 0  # a layer before these tokens are put in
        has_class = has_class and n_prefix > 0
        pool, width = make_pool(
            settings.pooling, shape, n_prefix=n_prefix, has_class=has_class, name=name
        )
        return _Plan(is_channels_last, pool, width)


class _LastFeatures(nn.Module):
    """A model of timm without its pooling."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, pixels: Tensor) -> Any:
        """Return patches (n, tokens, d) or a feature map, its channels first or last."""
        return self.module.forward_features(pixels)


def _as_list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _translated(state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Return weights by timm's names, if it can tell: authors have names of their own."""
    translate = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    if translate is None:
        return state
    try:
        return dict(translate(dict(state), module))
    except Exception:  # of another architecture; what does not fit is reported by name
        return state


def _check_layer_setting(settings: BackboneSettings) -> None:
    if settings.layer is not None and not isinstance(settings.layer, str):
        raise InvalidParameterError(
            f"layer={settings.layer!r}: models of timm have their layers by name, like 'layer3' or "
            "'blocks.5'; numbers are for models of transformers."
        )


def _find_file(weights: str | Path) -> Path:
    path = Path(os.path.expanduser(weights))  # noqa: PTH111  (never raises)
    if not path.is_file():
        raise InvalidParameterError(
            f"weights={str(weights)!r} is not a file. Of a model of timm, "
            "weights are 'auto', a file with a state dict, or None for random ones."
        )
    return path
