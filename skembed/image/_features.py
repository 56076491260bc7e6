"""What a model's features look like, how they are pooled, and the part that leads to a layer.

Knows torch modules and feature maps, not pictures.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from skembed._forks import one_at_a_time
from skembed.exceptions import InvalidParameterError, SkembedError
from skembed.modules import CutAt, Reached, of_this_thread, pooled_width, stop_after

__all__ = [
    "IMAGE_POOLINGS",
    "ChannelsFirst",
    "Plan",
    "extract",
    "find_on_meta",
    "make_plan",
    "measure",
]

T = TypeVar("T")

IMAGE_POOLINGS = ("auto", "cls", "mean", "cls+mean", "max")


@dataclass(frozen=True)
class Plan:
    """What is run and how it is pooled, found without the weights.

    `pooling` is None where the core gives vectors; `output` is what is run, as its family calls it,
    or None for the model's own vector; `n_prefix` counts tokens before the patches.
    """

    width: int
    pooling: str | None
    n_prefix: int = 0
    output: str | None = None
    is_channels_last: bool = False
    is_map: bool = False


def make_plan(
    pooling: str,
    shape: Sequence[int],
    *,
    n_prefix: int,
    has_class: bool,
    name: str,
    output: str | None = None,
    is_channels_last: bool = False,
) -> Plan:
    """Return how features of this shape, channels first, are pooled.

    Shape is that of the features of one picture: (1, d), (1, tokens, d) or (1, d, height, width);
    `has_class` tells whether the first of `n_prefix` tokens stands for the whole picture. "auto" is
    this one, else the mean.
    """
    n_dims = len(shape)
    if n_dims == 2:
        if pooling != "auto":
            raise InvalidParameterError(
                f"pooling={pooling!r}, but {name} ends in one vector per picture, so there is "
                "nothing to pool. Leave pooling='auto', or choose an earlier layer."
            )
        return Plan(int(shape[1]), None, output=output)
    if n_dims not in (3, 4):
        raise InvalidParameterError(
            f"{name} gives features of shape {tuple(shape)}; expected (n, features), (n, tokens, "
            "features) or (n, features, height, width). Choose another layer."
        )
    has_class = has_class and n_dims == 3
    if pooling == "auto":
        pooling = "cls" if has_class else "mean"
    if "cls" in pooling and not has_class:
        what = "a feature map" if n_dims == 4 else "patches without a class token"
        raise InvalidParameterError(
            f"pooling={pooling!r}, but {name} gives {what}. Use 'mean' or 'max'."
        )
    width = pooled_width(int(shape[2] if n_dims == 3 else shape[1]), pooling)
    return Plan(width, pooling, n_prefix, output, is_channels_last, n_dims == 4)


def find_on_meta(find: Callable[[str], T]) -> T:
    """Return what is found on the meta device, or on the CPU for models that need values."""
    try:
        return find("meta")
    except SkembedError:
        raise
    except Exception:
        return find("cpu")


class _Only(nn.Module):
    """What a feature extractor gives by name, without the name."""

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.module, self.name = module, name

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the features."""
        features: Tensor = self.module(pixels)[self.name]
        return features

    def __deepcopy__(self, memo: dict[int, Any]) -> _Only:
        # torchvision's own copies are in training mode, whatever the graph's was.
        return _Only(copy.deepcopy(self.module, memo), self.name).train(self.training)


class ChannelsFirst(nn.Module):
    """Turns maps with their channels last around."""

    def forward(self, features: Tensor) -> Tensor:
        """Turn (n, height, width, d) into (n, d, height, width)."""
        return features.permute(0, 3, 1, 2)


def extract(module: nn.Module, layer: str, size: Sequence[int]) -> nn.Module:
    """Return the part of a model that leads to a layer: a graph, else the model cut there.

    A graph can be made faster, and is taken if it gives the same on pixels of this size: a
    submodule that runs more than once, or gives several tensors, is another thing to the graph.
    """
    pixels = torch.rand(size, generator=torch.Generator().manual_seed(0), device="cpu")
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
        extractor = _trace(module, layer)
        only = _Only(extractor.eval(), layer)
        if torch.allclose(only(pixels), expected, rtol=1e-5, atol=1e-6):
            return only
    except MemoryError:
        raise
    except Exception:  # tracing refuses with whatever the model's own code raises
        pass
    return CutAt(module, layer)


def _trace(module: nn.Module, layer: str) -> nn.Module:
    with one_at_a_time():
        from torchvision.models import feature_extraction as library

        tracer = library.NodePathTracer
        library.NodePathTracer = of_this_thread(tracer)  # which it can't be told otherwise
        try:
            found: nn.Module = library.create_feature_extractor(
                module, [layer], suppress_diff_warning=True
            )
            return found
        finally:
            library.NodePathTracer = tracer


def measure(
    run: Callable[[Tensor], Any], pixels: Tensor, name: str
) -> tuple[tuple[int, ...], bool]:
    """Return the shape of features, and whether they are a map with its channels last.

    Pixels are those of one picture, and may be on the meta device; messages call it `name`.
    """
    features = run(pixels)
    if not isinstance(features, Tensor):
        raise InvalidParameterError(
            f"{name} gives a {type(features).__name__}, expected one tensor. Choose the layer "
            "around it."
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
            f"{name} gives features of shape {shape}, in which "
            "channels and positions cannot be told apart. Choose the layer around it."
        )
    shape = (shape[0], shape[3], *shape[1:3]) if is_last else shape
    return shape, is_last
