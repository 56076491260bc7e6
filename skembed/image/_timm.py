"""Models of timm, by name, from a folder or from the hub.

Knows timm's configurations and transforms; must not know rows, keys nor devices. timm is optional.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from skembed._optional import import_optional
from skembed.exceptions import InvalidParameterError, UnsupportedModelError
from skembed.image._backbone import (
    Backbone,
    BackboneSettings,
    refuse_enormous,
    scale_and_normalize,
)
from skembed.image._layers import check_layer, extract
from skembed.image._pooling import Pool, make_pool
from skembed.image._state_dicts import plain_names, refuse_other_state
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

_FORMAT = 1
"""Raised when a change to skembed changes vectors, so that stored ones are not served."""

_SEED = 0


def is_timm_folder(folder: Path) -> bool:
    """Return whether a model folder is one that timm has written."""
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    return isinstance(config, dict) and "architecture" in config and "model_type" not in config


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
    UnsupportedModelError
        If a state dict is not one of this model.
    """

    def __init__(self, model: str | ModelSource, settings: BackboneSettings) -> None:
        self._timm = import_optional("timm", extra="timm", purpose="A model of timm")
        self._settings = settings
        _check_settings(settings)
        self.name = f"timm:{model}" if isinstance(model, str) else model.name
        self._folder: Path | None = None
        self._file: Path | None = None
        if isinstance(model, str):
            self._arguments: dict[str, Any] = {}
            self._architecture = self._check_architecture(model)
            if settings.weights == "auto":
                model = resolve_model(f"timm/{model}", revision=settings.revision)
            elif settings.weights is not None:
                self._file = _find_file(settings.weights)
        if isinstance(model, ModelSource):
            self._read_folder(model.folder)
        self._weights_digest = self._digest_weights()
        self._transform, self._mean, self._std = self._make_transform()
        self.digest = digest_of(
            {
                "kind": "timm",
                "format": _FORMAT,
                "libraries": releases_of("timm", "torchvision"),
                "architecture": self._architecture,
                "arguments": repr(sorted(self._arguments.items())),
                "weights": self._weights_digest
                or f"random, seed {_SEED}, torch {torch.__version__}",
                "layer": settings.layer,
                "pooling": settings.pooling,
                "transform": repr(self._transform),
                "scale": repr((self._mean, self._std)),
            }
        )
        key = digest_of({"kind": "timm's features", "digest": self.digest})
        self._shape, self._n_prefix = kept_recent(key, self._measure)
        _, self.width = self._make_pool()

    def __repr__(self) -> str:
        return f"TimmBackbone({self.name!r}, width={self.width})"

    def prepare(self, image: Image) -> Tensor:
        """Prepare a picture as the model's own evaluation transform does."""
        size = self._config["input_size"]
        refuse_enormous(image, round(max(size[1:]) / float(self._config["crop_pct"])))
        pixels: Tensor = self._transform(image)
        return pixels

    def scale(self, pixels: Tensor) -> Tensor:
        """Normalise a batch of uint8 pixels; others are normalised already."""
        if self._mean is None or self._std is None:
            return pixels
        return scale_and_normalize(
            pixels, self._mean.to(pixels.device), self._std.to(pixels.device)
        )

    def load(self) -> nn.Module:
        """Load the module, in float32 on the CPU, in evaluation mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            module = self._build()
        files = [self._file] if self._file is not None else []
        if self._folder is not None:
            files = list(check_weights(self._folder))
        if files:
            state = {k: v for path in files for k, v in load_state(path).items()}
            self._load_state(module, plain_names(state), files[0])
        pool, _ = self._make_pool()
        return nn.Sequential(self._cut(module), pool).eval().float().requires_grad_(False)

    def n_bytes(self) -> int:
        """Return the size of the weight files in bytes."""
        if self._folder is not None:
            return sum(path.stat().st_size for path in check_weights(self._folder))
        return 0 if self._file is None else self._file.stat().st_size

    def refuse_other_files(self) -> None:
        """Refuse weights that are not those of the digest, under which vectors are stored."""
        if self._digest_weights() != self._weights_digest:
            raise UnsupportedModelError(
                f"The files of {self.name} changed while the model was in use. Call again when "
                "they are all written."
            )

    def _check_architecture(self, name: str) -> str:
        architecture = name.partition(".")[0]
        if not self._timm.is_model(architecture):
            close = self._timm.list_models(f"*{architecture[:6]}*")[:5]
            hint = f" Close to it: {', '.join(map(repr, close))}." if close else ""
            raise InvalidParameterError(
                f"model='timm:{name}': timm {self._timm.__version__} has no model "
                f"{architecture!r}.{hint} timm.list_models() lists them."
            )
        return name if self._is_tagged(name) else architecture

    def _is_tagged(self, name: str) -> bool:
        return bool(self._timm.models.get_pretrained_cfg(name, allow_unregistered=False))

    def _read_folder(self, folder: Path) -> None:
        if self._settings.weights != "auto":
            raise InvalidParameterError(
                f"weights={str(self._settings.weights)!r}, but {folder} holds the weights. Leave "
                "weights='auto'."
            )
        check_weights(folder)
        config = read_json(folder / "config.json")
        self._folder = folder
        self._arguments = dict(config.get("model_args") or {})
        cfg = dict(config.get("pretrained_cfg") or {})
        # A folder's pictures are prepared as the folder says, not as timm's own of that name.
        self._arguments["pretrained_cfg"] = {**cfg, "num_classes": config.get("num_classes", 1000)}
        self._architecture = str(config["architecture"]).partition(".")[0]
        if not self._timm.is_model(self._architecture):
            raise UnsupportedModelError(
                f"timm {self._timm.__version__} does not know {self._architecture!r}, the "
                f"architecture of {folder}. A newer release may."
            )

    def _build(self) -> nn.Module:
        module: nn.Module = self._timm.create_model(
            self._architecture, pretrained=False, num_classes=0, **self._arguments
        )
        return module.eval()

    def _load_state(self, module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
        heads: Any = getattr(module, "pretrained_cfg", {}).get("classifier") or ()
        heads = (heads,) if isinstance(heads, str) else tuple(heads)
        prefixes = tuple(f"{head}." for head in heads)
        known = {k: v for k, v in state.items() if not k.startswith(prefixes)} if heads else state
        refuse_other_state(path, self.name, known, module.state_dict())
        module.load_state_dict(dict(known), strict=False)

    def _digest_weights(self) -> str | None:
        if self._folder is not None:
            return folder_digest(self._folder).hex()
        return None if self._file is None else file_sha256(self._file)

    def _make_transform(self) -> tuple[Callable[[Any], Any], Tensor | None, Tensor | None]:
        """Return what prepares a picture, and mean and deviation if it leaves it in uint8."""
        from torchvision import transforms

        data = import_optional("timm.data", extra="timm", purpose="A model of timm")
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            config = self._build_config()
        self._config = data.resolve_data_config(pretrained_cfg=config)
        whole = data.create_transform(**self._config, is_training=False)
        steps = list(whole.transforms)
        is_plain = (
            len(steps) >= 2
            and type(steps[-1]) is transforms.Normalize
            and type(steps[-2]).__name__ in ("ToTensor", "MaybeToTensor")
        )
        if not is_plain:
            return whole, None, None
        mean, std = (
            torch.as_tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
            for values in (steps[-1].mean, steps[-1].std)
        )
        return transforms.Compose([*steps[:-2], transforms.PILToTensor()]), mean, std

    def _build_config(self) -> dict[str, Any]:
        given = self._arguments.get("pretrained_cfg")
        if given is not None:
            return dict(given)
        found = self._timm.models.get_pretrained_cfg(self._architecture)
        return {} if found is None else dict(found.to_dict())

    def _cut(self, module: nn.Module) -> nn.Module:
        """Return the model up to the features that are taken."""
        layer = self._settings.layer
        if layer is not None:
            check_layer(module, str(layer))
            return extract(module, str(layer))
        if self._settings.pooling == "auto":
            return module
        return _LastFeatures(module)

    def _measure(self) -> tuple[tuple[int, ...], int]:
        """Return the shape of the features of one picture, and the tokens before its patches."""
        pixels = torch.zeros(1, *self._config["input_size"])
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            try:
                with torch.device("meta"):
                    module = self._build()
                    n_prefix = int(getattr(module, "num_prefix_tokens", 0))
                    features = self._cut(module)(pixels.to("meta"))
            except (NotImplementedError, RuntimeError):  # it computes with values
                module = self._build()
                n_prefix = int(getattr(module, "num_prefix_tokens", 0))
                features = self._cut(module)(pixels)
        if not isinstance(features, Tensor):
            raise InvalidParameterError(
                f"layer={self._settings.layer!r} of {self.name} gives a "
                f"{type(features).__name__}, expected one tensor. Choose a layer around it."
            )
        return tuple(features.shape), n_prefix

    def _make_pool(self) -> tuple[Pool, int]:
        return make_pool(
            self._settings.pooling,
            self._shape,
            n_prefix=self._n_prefix,
            has_class=self._n_prefix > 0,
            name=self.name,
        )


class _LastFeatures(nn.Module):
    """A model of timm without its pooling."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module
        self.is_channels_last = getattr(module, "output_fmt", "NCHW") == "NHWC"

    def forward(self, pixels: Tensor) -> Tensor:
        """Return patches (n, tokens, d) or a feature map (n, d, h, w)."""
        features: Tensor = self.module.forward_features(pixels)
        if self.is_channels_last and features.ndim == 4:
            return features.permute(0, 3, 1, 2)
        return features


def _check_settings(settings: BackboneSettings) -> None:
    if settings.layer is not None and not isinstance(settings.layer, str):
        raise InvalidParameterError(
            f"layer={settings.layer!r}: models of timm have their layers by name, like 'layer3' or "
            "'blocks.5'; numbers are for models of transformers."
        )


def _find_file(weights: str | Path) -> Path:
    path = Path(os.path.expanduser(weights))  # noqa: PTH111  (never raises)
    if not path.is_file():
        raise InvalidParameterError(
            f"weights={str(weights)!r} is not a file. Of a model of timm, weights are 'auto', a "
            "file with a state dict, or None for random ones."
        )
    return path
