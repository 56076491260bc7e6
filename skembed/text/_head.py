"""What follows the pooling of a sentence-transformers model: dense layers, norms, unit length.

Knows these modules, their settings and their weights, not the transformer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from skembed.exceptions import UnsafeModelError, UnsupportedModelError
from skembed.weights import check_weights, load_state

__all__ = ["HeadModule", "UnitLength", "check_head", "load_head", "load_layer"]

_TANH = "torch.nn.modules.activation.Tanh"
_IDENTITY = "torch.nn.modules.linear.Identity"
_ACTIVATION_MODULES = ("torch.nn.modules.activation.", _IDENTITY)


@dataclass(frozen=True)
class HeadModule:
    """A module after pooling: "Dense", "LayerNorm" or "Normalize", and its folder and settings."""

    kind: str
    folder: Path
    config: Mapping[str, Any]


class UnitLength(nn.Module):
    """Scales rows to unit length."""

    def forward(self, vectors: Tensor) -> Tensor:
        """Return vectors of shape (rows, d) at length 1."""
        return F.normalize(vectors, p=2, dim=-1)


def check_head(modules: tuple[HeadModule, ...], width: int) -> int:
    """Check that a head can be loaded; return its number of features, from `width` before it."""
    for module in modules:
        if module.kind != "Normalize":
            check_weights(module.folder)
        if module.kind == "Dense":
            if module.config["in_features"] != width:
                raise UnsupportedModelError(
                    f"The model's dense layer takes {module.config['in_features']} features, but "
                    f"the pooling gives {width}. Use the model's own pooling: pooling='auto'."
                )
            width = module.config["out_features"]
    return width


def load_head(modules: tuple[HeadModule, ...]) -> list[nn.Module]:
    """Load the modules after pooling, in float32 and evaluation mode."""
    layers: list[nn.Module] = []
    for module in modules:
        config, folder = module.config, module.folder
        if module.kind == "Normalize":
            layers.append(UnitLength())
        elif module.kind == "LayerNorm":
            layers.append(load_layer(skip_init(nn.LayerNorm, config["dimension"]), folder, "norm"))
        else:
            sizes = config["in_features"], config["out_features"]
            linear = skip_init(nn.Linear, *sizes, bias=bool(config.get("bias", True)))
            layers.append(load_layer(linear, folder, "linear"))
            layers.append(_activation(config.get("activation_function", _TANH) or _IDENTITY))
    return layers


def load_layer(layer: nn.Module, folder: Path, name: str) -> nn.Module:
    """Give a layer its weights, found in a folder by the end of their names."""
    ends = {key: f".{name}.{key}" for key in layer.state_dict()}

    def is_wanted(stored: str) -> bool:
        return f".{stored}".endswith(tuple(ends.values()))

    states = [load_state(path, is_wanted) for path in check_weights(folder)]
    state = {f".{key}": value for each in states for key, value in each.items()}
    found = {}
    for key, end in ends.items():
        named = [value for each, value in state.items() if each.endswith(end)]
        if not named:
            raise UnsupportedModelError(f"The weights in {folder} are incomplete: no {name}.{key}.")
        found[key] = named[0]
    layer.load_state_dict(found)
    return layer.eval()


def _activation(name: str) -> nn.Module:
    """Return the activation that a config names; only torch's own are built."""
    if not name.startswith(_ACTIVATION_MODULES):
        raise UnsafeModelError(
            f"The model's dense layer uses the activation {name}, which is not in torch.nn; "
            "skembed does not run it."
        )
    module: nn.Module = getattr(nn, name.rsplit(".", 1)[-1])()
    return module
