"""A module up to one of its submodules.

Knows torch modules and their names, not pictures.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from skembed.exceptions import InvalidParameterError, SkembedError

__all__ = [
    "ChannelsFirst",
    "CutAt",
    "Reached",
    "check_layer",
    "extract",
    "first_that_runs",
    "measure",
    "run_apart",
    "stop_after",
]


class Reached(BaseException):
    """The layer was reached; no fault, and not for a module's own `except Exception`."""

    def __init__(self, features: Any) -> None:
        super().__init__()
        self.features = features


def stop_after(
    module: nn.Module, take: Callable[[Any], Any] = lambda output: output
) -> RemovableHandle:
    """Have the forward pass end once a submodule has run; return the hook that does it.

    Parameters
    ----------
    module : Module
        The submodule. The hook is its last: the first would miss what the others change.
    take : callable
        Makes of its output what `Reached` carries; of None the pass goes on.
    """

    def stop(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        found = take(output)
        if found is not None:
            raise Reached(found)

    return module.register_forward_hook(stop)


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
        stop_after(module.get_submodule(layer))

    def forward(self, pixels: Any) -> Any:
        """Return what the submodule gives."""
        try:
            self.module(pixels)
        except Reached as reached:
            return reached.features
        raise InvalidParameterError(
            f"layer={self.layer!r}: {type(self.module).__name__} has this submodule but does not "
            "call it in evaluation mode. Choose a layer that its forward pass calls."
        )


def check_layer(module: nn.Module, layer: str, *, model: str = "model", hint: str = "") -> None:
    """Refuse a layer that the module does not have, and name those that are spelled alike.

    The message says how `model` lists them, and ends with `hint`.
    """
    names = [name for name, _ in module.named_modules(remove_duplicate=False) if name]
    if layer in names:
        return
    close = difflib.get_close_matches(layer, names, n=5, cutoff=0.4) or names[:5]
    listed = ", ".join(map(repr, close)) or "none: the module has no submodules"
    raise InvalidParameterError(
        f"layer={layer!r}: {type(module).__name__} has no submodule of this name. Close to it: "
        f"{listed}. All are in `[name for name, _ in {model}.named_modules()]`.{hint}"
    )


class _Only(nn.Module):
    """What a feature extractor gives by name, without the name."""

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.module, self.name = module, name

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the features."""
        features: Tensor = self.module(pixels)[self.name]
        return features


class ChannelsFirst(nn.Module):
    """Turns maps with their channels last around."""

    def forward(self, features: Tensor) -> Tensor:
        """Turn (n, height, width, d) into (n, d, height, width)."""
        return features.permute(0, 3, 1, 2)


def extract(module: nn.Module, layer: str, pixels: Tensor) -> nn.Module:
    """Return the part of a model that leads to a layer, without what follows.

    Where the model can be traced it is a graph, which can be made faster; else it is the model
    with an end to its forward pass.

    Parameters
    ----------
    module : Module
        In evaluation mode; may be changed.
    layer : str
        A submodule's name.
    pixels : Tensor of shape (n, 3, height, width)
        What both are run on: a graph is taken only if it gives the same. A submodule that runs
        more than once, or gives several tensors, is another thing to the graph.
    """
    from torchvision.models.feature_extraction import create_feature_extractor

    hook = stop_after(module.get_submodule(layer))
    try:
        module(pixels)
    except Reached as reached:
        expected = reached.features
    else:
        return CutAt(module, layer)  # which says what is wrong
    finally:
        hook.remove()
    try:
        # Both modes are traced, and differ where a model has a second classifier.
        extractor = create_feature_extractor(module, [layer], suppress_diff_warning=True)
        only = _Only(extractor.eval(), layer)
        if torch.allclose(only(pixels), expected, rtol=1e-5, atol=1e-6):
            return only
    except MemoryError:
        raise
    except Exception:  # tracing refuses with whatever the model's own code raises
        return CutAt(module, layer)
    return CutAt(module, layer)


def run_apart(module: Callable[[Tensor], Any], pixels: Tensor) -> Any:
    """Return what a module gives, where it may change its input or write over its output later."""
    found = module(pixels.clone())
    return found.clone() if isinstance(found, Tensor) else found


def first_that_runs(run: Callable[[Tensor], Any], pixels: Iterable[Tensor]) -> tuple[Tensor, Any]:
    """Return the first pixels on which a model does not fail, and what it gives.

    Raises
    ------
    Exception
        What it raised on the first, if it fails on all.
    """
    first_error: Exception | None = None
    for each in pixels:
        try:
            return each, run(each)
        except Exception as error:
            if isinstance(error, SkembedError):
                raise
            first_error = first_error or error
    raise first_error or RuntimeError("there were no pixels to run it on")


def measure(
    run: Callable[[Tensor], Any], pixels: Tensor, name: str
) -> tuple[tuple[int, ...], bool]:
    """Return the shape of features, and whether they are a map with its channels last.

    Parameters
    ----------
    run : callable
        Gives the features of pixels.
    pixels : Tensor of shape (1, 3, height, width)
        May be on the meta device.
    name : str
        What gives them, for messages.

    Raises
    ------
    InvalidParameterError
        If they are not one tensor, or no one can tell where its channels are.
    """
    features = run(pixels)
    if not isinstance(features, Tensor):
        raise InvalidParameterError(
            f"{name} gives a {type(features).__name__}, expected one tensor. Choose a layer around "
            "it."
        )
    shape = tuple(features.shape)
    if len(shape) != 4:
        return shape, False
    is_square = pixels.shape[2] == pixels.shape[3]
    is_first, is_last = shape[2] == shape[3], shape[1] == shape[2]
    if not is_square or is_first == is_last:
        # As many channels as places: a larger picture has more of the latter.
        try:
            larger = run(torch.cat([torch.cat([pixels, pixels], 2)] * 2, 3)).shape
        except Exception:  # models of one size refuse in their own ways
            larger = shape
        is_first = larger[1] == shape[1] and larger[2:] != shape[2:]
        is_last = larger[3] == shape[3] and larger[1:3] != shape[1:3]
    if is_first == is_last and set(shape[1:]) != {1}:
        raise InvalidParameterError(
            f"{name} gives features of shape {shape}, of which no one can tell where channels and "
            "places are. Choose a layer around it."
        )
    shape = (shape[0], shape[3], *shape[1:3]) if is_last else shape
    return shape, is_last
