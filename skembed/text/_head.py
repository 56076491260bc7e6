"""What follows the pooling of a sentence-transformers model: dense layers, norms, unit length.

Knows these modules, their settings and their weights, not the transformer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skembed.exceptions import UnsafeModelError, UnsupportedModelError
from skembed.weights import check_weights, load_state

__all__ = ["HeadModule", "check_head", "load_head", "load_layer"]

_ACTIVATION_MODULES = ("torch.nn.modules.activation.", "torch.nn.modules.linear.Identity")


@dataclass(frozen=True)
class HeadModule:
    """A module after pooling: "Dense", "LayerNorm" or "Normalize", and its folder and settings."""

    kind: str
    folder: Path
    config: Mapping[str, Any]


class _Normalize(nn.Module):
    """Scales rows to unit length."""

    def forward(self, vectors: Tensor) -> Tensor:
        """Return vectors of shape (rows, d) at length 1."""
        return F.normalize(vectors, p=2, dim=-1)


class _Dense(nn.Module):
    """A linear layer, an activation, and where the model has one a residual connection."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        n_in, n_out = int(config["in_features"]), int(config["out_features"])
        self.linear = nn.Linear(n_in, n_out, bias=bool(config.get("bias", True)))
        self.activation = _activation(
            config.get("activation_function", "torch.nn.modules.activation.Tanh")
        )
        self.is_residual = bool(config.get("use_residual", False))
        if self.is_residual and n_in != n_out:
            self.residual = nn.Linear(n_in, n_out, bias=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """Map vectors of shape (rows, in_features) to (rows, out_features)."""
        out: Tensor = self.activation(self.linear(vectors))
        if self.is_residual:
            out = out + (self.residual(vectors) if hasattr(self, "residual") else vectors)
        return out


class _LayerNorm(nn.Module):
    """A layer norm under the name that sentence-transformers saves it by."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(int(config["dimension"]))

    def forward(self, vectors: Tensor) -> Tensor:
        """Normalise vectors of shape (rows, dimension)."""
        out: Tensor = self.norm(vectors)
        return out


_LAYERS: dict[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "Dense": _Dense,
    "LayerNorm": _LayerNorm,
}


def check_head(modules: tuple[HeadModule, ...], width: int) -> int:
    """Check that a head can be loaded; return its number of features, from `width` before it.

    Raises
    ------
    UnsupportedModelError
        If weights are missing, or a layer does not take what comes before it.
    """
    for module in modules:
        if module.kind in _LAYERS:
            check_weights(module.folder)
        if module.kind != "Dense":
            continue
        try:
            expected, following = (
                int(module.config[name]) for name in ("in_features", "out_features")
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UnsupportedModelError(
                f"{module.folder / 'config.json'} does not tell the size of the dense layer: "
                f"{type(error).__name__}: {error}"
            ) from error
        if expected != width:
            raise UnsupportedModelError(
                f"The model's dense layer takes {expected} features, but the pooling gives "
                f"{width}. Use the model's own pooling: pooling='auto'."
            )
        width = following
    return width


def load_head(modules: tuple[HeadModule, ...]) -> list[nn.Module]:
    """Load the modules after pooling, in float32 and evaluation mode."""
    return [
        load_layer(partial(_LAYERS[module.kind], module.config), module.folder)
        if module.kind in _LAYERS
        else _Normalize()
        for module in modules
    ]


def load_layer(build: Callable[[], nn.Module], folder: Path, name: str = "") -> nn.Module:
    """Build a layer and give it its weights, found in a folder by the end of their names.

    Raises
    ------
    UnsupportedModelError
        If a weight is missing.
    """
    # The global random state is the user's: initial weights must not draw from it.
    with torch.random.fork_rng(devices=[]):
        layer = build().eval()
    state = {f".{key}": v for path in check_weights(folder) for key, v in load_state(path).items()}
    found = {}
    for key in layer.state_dict():
        full = f"{name}.{key}" if name else key
        named = [value for each, value in state.items() if each.endswith(f".{full}")]
        if not named:
            raise UnsupportedModelError(f"The weights in {folder} are not whole: no {full}.")
        found[key] = named[0]
    layer.load_state_dict(found)
    return layer


def _activation(name: str) -> nn.Module:
    """Return the activation that a config names; only torch's own are built."""
    if not name.startswith(_ACTIVATION_MODULES):
        raise UnsafeModelError(
            f"The model's dense layer names the activation {name}, which is not one of torch.nn; "
            "skembed does not run it."
        )
    module: nn.Module = getattr(nn, name.rsplit(".", 1)[-1])()
    return module
