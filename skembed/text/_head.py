"""What follows the pooling of a sentence-transformers model: dense layers, norms, unit length."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skembed.engine import finish
from skembed.exceptions import UnsafeModelError, UnsupportedModelError
from skembed.text._folder import HeadModule
from skembed.weights import check_weights, load_state

__all__ = ["Head", "build_head", "check_head", "head_width"]

_ACTIVATION_MODULES = ("torch.nn.modules.activation.", "torch.nn.modules.linear.Identity")


class Normalize(nn.Module):
    """Scale rows to unit length."""

    def forward(self, vectors: Tensor) -> Tensor:
        """Return vectors of shape (rows, d) at length 1."""
        return F.normalize(vectors, p=2, dim=-1)


class Dense(nn.Module):
    """A linear layer, an activation, and where the model has one a residual connection."""

    def __init__(self, config: Any) -> None:
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


class LayerNorm(nn.Module):
    """A layer norm under the name that sentence-transformers saves it by."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(int(config["dimension"]))

    def forward(self, vectors: Tensor) -> Tensor:
        """Normalise vectors of shape (rows, dimension)."""
        out: Tensor = self.norm(vectors)
        return out


class Head(nn.Module):
    """Modules after pooling, then the leading components, then unit length; all in float32.

    Parameters
    ----------
    modules : list of Module
        From `build_head`.
    n_components : int or None
        Leading features to keep (Kusupati et al., 2022, arXiv:2205.13147).
    normalize : bool
        Whether rows end at unit length.
    """

    def __init__(self, modules: list[nn.Module], n_components: int | None, normalize: bool) -> None:
        super().__init__()
        self.chain = nn.Sequential(*modules)
        self.n_components = n_components
        self.normalize = normalize

    def forward(self, pooled: Tensor) -> Tensor:
        """Map pooled rows of shape (rows, d) to vectors of shape (rows, width)."""
        return finish(self.chain(pooled), self.n_components, self.normalize)


def build_head(modules: tuple[HeadModule, ...]) -> list[nn.Module]:
    """Build and load the modules after pooling."""
    built: list[nn.Module] = []
    for module in modules:
        if module.kind == "Normalize":
            built.append(Normalize())
            continue
        # The global random state is the user's: initial weights must not draw from it.
        with torch.random.fork_rng(devices=[]):
            layer = Dense(module.config) if module.kind == "Dense" else LayerNorm(module.config)
        layer.load_state_dict(
            {k: v for path in check_weights(module.folder) for k, v in load_state(path).items()}
        )
        built.append(layer)
    return built


def check_head(modules: tuple[HeadModule, ...]) -> None:
    """Refuse a head whose weights are not there, before anything is loaded."""
    for module in modules:
        if module.kind != "Normalize":
            check_weights(module.folder)


def head_width(modules: tuple[HeadModule, ...], width: int) -> int:
    """Return the number of features after the head, from `width` before it.

    Raises
    ------
    UnsupportedModelError
        If a layer of the head does not take what comes before it.
    """
    for module in modules:
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


def _activation(name: str) -> nn.Module:
    """Return the activation that a config names; only torch's own are built."""
    if not name.startswith(_ACTIVATION_MODULES):
        raise UnsafeModelError(
            f"The model's dense layer names the activation {name}, which is not one of torch.nn; "
            "skembed does not run it."
        )
    module: nn.Module = getattr(nn, name.rsplit(".", 1)[-1])()
    return module
