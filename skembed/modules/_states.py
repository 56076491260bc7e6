"""What a transformers model is run for: a vector, the last states, or those of a layer.

Knows modules and their outputs, not what goes into them.
"""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor, nn

from skembed.exceptions import UnsupportedModelError
from skembed.modules._hidden import find_layer, first_tensor
from skembed.modules._layers import Reached, check_layer, stop_after

__all__ = ["States", "make_states"]

S = TypeVar("S", bound="States")


class States(nn.Module):
    """Runs a model for one of the things it gives; the rooms say how in subclasses.

    `output` is a name in the model's output, or the number of a hidden state; `stop_at` the
    submodule whose output that is, where the forward pass ends.
    """

    def __init__(self, module: nn.Module, output: str | int, stop_at: str | None = None) -> None:
        super().__init__()
        self.module, self.output, self.stop_at = module, output, stop_at
        if stop_at is not None:
            stop_after(module.get_submodule(stop_at), first_tensor)

    def forward(self, values: Tensor) -> Tensor:
        """Return vectors (n, d), tokens (n, tokens, d), or maps (n, d, height, width)."""
        all_states = isinstance(self.output, int) and self.stop_at is None
        try:
            found = self.run(values, all_states=all_states)
        except Reached as reached:
            return self.arrange(reached.features)
        if self.stop_at is not None:
            raise UnsupportedModelError(
                f"layer {self.stop_at!r} is not run when rows are embedded. Choose another."
            )
        if isinstance(self.output, int):
            return self.arrange(found.hidden_states[self.output])
        return self.arrange(self.take(found, self.output))

    def run(self, values: Tensor, *, all_states: bool = False) -> Any:
        """Return the model's whole output."""
        arguments: dict[str, Any] = {"output_hidden_states": True} if all_states else {}
        return self.module(values, **arguments)

    def take(self, found: Any, output: str) -> Tensor:
        """Return what the model's output has by this name."""
        value: Tensor = getattr(found, output)
        return value

    def arrange(self, features: Tensor) -> Tensor:
        """Return features as the room pools them."""
        return features


def make_states(
    kind: type[S],
    module: nn.Module,
    output: str,
    layer: str | int | None,
    values: Tensor,
    name: str,
) -> S:
    """Return what runs a model for the user's layer, or for an output if there is none.

    `values` are a batch that is run to find the submodule that makes a hidden state, so that the
    pass can end there; messages call the model `name`.
    """
    if layer is None:
        return kind(module, output)
    if isinstance(layer, str):
        check_layer(module, layer, hint=" Or give the number of a hidden state.")
        return kind(module, layer, layer)
    states = kind(module, layer)
    maker = find_layer(module, lambda: states.run(values, all_states=True), layer, name)
    return kind(module, layer, maker)
