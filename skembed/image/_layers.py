"""A module up to one of its submodules.

Knows torch modules and their names, not pictures.
"""

from __future__ import annotations

import difflib
from typing import Any

from torch import Tensor, nn

from skembed.exceptions import InvalidParameterError

__all__ = ["CutAt", "check_layer", "extract"]


class _Reached(BaseException):
    """The layer was reached; no fault, and not for a module's own `except Exception`."""

    def __init__(self, features: Any) -> None:
        super().__init__()
        self.features = features


class CutAt(nn.Module):
    """Runs a module until a submodule has run for the first time, and returns what that gave.

    Parameters
    ----------
    module : torch.nn.Module
        Changed: it gets a hook, so it has to be a copy.
    layer : str
        A submodule's name as in `module.named_modules()`.

    Raises
    ------
    InvalidParameterError
        If there is no such submodule; in `forward`, if it does not run.
    """

    def __init__(self, module: nn.Module, layer: str) -> None:
        super().__init__()
        check_layer(module, layer)
        self.module, self.layer = module, layer
        # First among its hooks it would miss what the others change.
        module.get_submodule(layer).register_forward_hook(_stop)

    def forward(self, pixels: Any) -> Any:
        """Return what the submodule gives."""
        try:
            self.module(pixels)
        except _Reached as reached:
            return reached.features
        raise InvalidParameterError(
            f"layer={self.layer!r}: {type(self.module).__name__} has this submodule but does not "
            "call it in evaluation mode. Choose a layer that its forward pass calls."
        )


def check_layer(module: nn.Module, layer: str) -> None:
    """Refuse a layer that the module does not have, and name those that are spelled alike."""
    names = [name for name, _ in module.named_modules(remove_duplicate=False) if name]
    if layer in names:
        return
    close = difflib.get_close_matches(layer, names, n=5, cutoff=0.4) or names[:5]
    listed = ", ".join(map(repr, close)) or "none: the module has no submodules"
    raise InvalidParameterError(
        f"layer={layer!r}: {type(module).__name__} has no submodule of this name. Close to it: "
        f"{listed}. All are in `[name for name, _ in model.named_modules()]`."
    )


def _stop(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    raise _Reached(output)


class _Only(nn.Module):
    """What a feature extractor gives by name, without the name."""

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.module, self.name = module, name

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the features."""
        features: Tensor = self.module(pixels)[self.name]
        return features


def extract(module: nn.Module, layer: str) -> nn.Module:
    """Return the part of a model that leads to a layer, without what follows."""
    from torchvision.models.feature_extraction import create_feature_extractor

    try:
        extractor = create_feature_extractor(module, [layer], suppress_diff_warning=True)
    except Exception:  # tracing refuses with whatever the model's own code raises
        return CutAt(module, layer)
    return _Only(extractor.eval(), layer)
