"""A backbone with trained weights, for serving: what the encoder runs instead of the published one.

Knows modules and arrays; needs no training library.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from skembed._backbone import Backbone, Ending, Exported, Projection
from skembed._encoder import Encoder
from skembed.engine import is_in_float32
from skembed.exceptions import InvalidParameterError, UnsupportedModelError
from skembed.store import digest_of
from skembed.training._state import TrainedState
from skembed.weights import forget_model

__all__ = ["TrainedBackbone", "apply_state", "copy_array", "drop_with_state", "serve", "state_of"]

E = TypeVar("E", bound=Encoder)

_served: weakref.WeakKeyDictionary[TrainedState, set[bytes]] = weakref.WeakKeyDictionary()
"""Keys of the loaded models of states."""


def serve(backbone: Backbone, state: TrainedState, owner: str) -> Backbone:
    """Return a backbone with what was learned; messages call the embedder `owner`."""
    if state.base != backbone.source.digest.hex():
        raise InvalidParameterError(
            f"model: the weights of {backbone.name} are not those that this {owner} was trained "
            "from. Fit again, or use the same model."
        )
    if state.method == "weights":
        return backbone.weighted(state)
    return TrainedBackbone(backbone, state)


def state_of(encoder: Any) -> TrainedState | None:
    """Return what the backbone of an encoder has learned, None of none and of one published."""
    backbone = getattr(encoder, "backbone", None)
    return backbone.state if isinstance(backbone, TrainedBackbone) else None


def drop_with_state(state: TrainedState, encoder: E) -> E:
    """Let the loaded model of an encoder go when the state does; return the encoder.

    The candidates of a search then free their weights one after the other.
    """
    if state.method not in ("head", "weights"):
        keys = _served.setdefault(state, set())
        for each in encoder.replicas or (encoder,):
            if each.model_key not in keys:
                keys.add(each.model_key)
                weakref.finalize(state, _let_go, each.model_key).atexit = False
    return encoder


def _let_go(key: bytes) -> None:
    """Forget the model of a state that is gone, unless another state has learned the same."""
    if not any(key in keys for keys in _served.values()):
        forget_model(key)


class TrainedBackbone(Backbone):
    """A backbone whose weights are those of a `TrainedState`."""

    def __init__(self, base: Backbone, state: TrainedState) -> None:
        self.base, self.state = base, state
        self.name, self.width, self.source = base.name, base.width, base.source
        self.is_foreign, self.prefers_float32 = base.is_foreign, is_in_float32(base)
        self.float32_on, self.normalizes = base.float32_on, base.normalizes
        self.digest = base.digest
        self._core_digest = base.core_digest
        if state.method == "head":  # vectors are stored before the projection
            arrays = state.arrays
            weight, bias = arrays["projection.weight"], arrays["projection.bias"]
            self.projection = Projection(weight, bias)
        else:
            self.digest = digest_of({"backbone": base.digest, "trained": state.digest})
            core = {"core": base.core_digest, "trained": state.core_digest}
            self._core_digest = digest_of(core)

    def __getattr__(self, name: str) -> Any:
        if name in ("base", "state"):  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.base, name)

    @property
    def core_digest(self) -> bytes:
        """Digest of all that decides the core."""
        return self._core_digest

    def prepare(self, item: Any, rng: np.random.Generator | None = None) -> Any:
        """Turn one item into a part."""
        return self.base.prepare(item, rng)

    def cost(self, part: Any) -> int:
        """Return what a part costs to run."""
        return self.base.cost(part)

    def collate(self, parts: Sequence[Any]) -> Any:
        """Assemble parts into one batch."""
        return self.base.collate(parts)

    def probes(self) -> Iterable[Any]:
        """Yield what the core may take."""
        return self.base.probes()

    def load(self, *, core: nn.Module | None = None, dtype: torch.dtype | None = None) -> nn.Module:
        """Load the module with its trained weights."""
        module = self.base.load(core=core, dtype=dtype)
        if self.state.method != "head":
            apply_state(module, self.state, is_core_done=core is not None)
        return module

    def export(self, module: nn.Module, folder: Path, ending: Ending) -> Exported:
        """Write the model into a folder as its own library does."""
        return self.base.export(module, folder, ending)


@torch.no_grad()
def apply_state(module: nn.Module, state: TrainedState, *, is_core_done: bool = False) -> None:
    """Give a module its trained weights; not those of the core, if that has them already."""
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, array in state.arrays.items():
        if is_core_done and name.startswith("core."):
            continue
        if state.method == "lora":
            if not name.endswith(".lora_A"):
                continue
            layer = name.removesuffix(".lora_A")
            weight = _of(own, f"{layer}.weight", state)
            a, b = array, state.arrays[f"{layer}.lora_B"]
            if a[0].size * b[:, 0].size != weight.numel():
                raise _other_shape(layer, (len(b), a[0].size), weight, state)
            weight += _product(b, a, weight, state.lora_scale).to(weight)
        else:
            copy_array(array, _of(own, name, state), name, state)


@torch.no_grad()
def copy_array(array: NDArray[Any], tensor: torch.Tensor, name: str, state: TrainedState) -> None:
    """Give a tensor of a model the values that were learned."""
    if array.shape != tuple(tensor.shape):
        raise _other_shape(name, array.shape, tensor, state)
    tensor.copy_(as_tensor(array))


def _other_shape(
    name: str, trained: tuple[int, ...], tensor: torch.Tensor, state: TrainedState
) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"The model's weights {name!r} are of shape {tuple(tensor.shape)}, and of {trained} where "
        f"they were trained, {_trained_by(state)}. Fit again."
    )


def as_tensor(array: NDArray[Any]) -> torch.Tensor:
    """Return an array as a tensor: a copy if it must not be written to, as one on a disk."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _trained_by(state: TrainedState) -> str:
    return "with " + ", ".join(f"{name} {release}" for name, release in state.versions.items())


def _of(own: dict[str, torch.Tensor], name: str, state: TrainedState) -> torch.Tensor:
    if name not in own:
        raise UnsupportedModelError(
            f"The model has no weights {name!r}, which training has changed: another release of "
            f"its library may name them otherwise. It was trained {_trained_by(state)}."
        )
    return own[name]


def _product(b: np.ndarray, a: np.ndarray, weight: torch.Tensor, scale: float) -> torch.Tensor:
    """Return what LoRA adds to a weight: that of a linear layer, or a convolution."""
    first, second = as_tensor(a), as_tensor(b)
    rank = first.shape[0]
    product = second.reshape(-1, rank) @ first.reshape(rank, -1)
    if product.shape != weight.shape and product.T.shape == weight.shape:  # GPT-2's Conv1D
        product = product.T
    return scale * product.reshape(weight.shape)
