"""A module up to one of its submodules, and runs of modules that may not be well-behaved.

Knows torch modules and their names, not what goes into them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from skembed.exceptions import InvalidParameterError, SkembedError, did_you_mean

__all__ = ["CutAt", "Reached", "check_layer", "first_that_runs", "run_apart", "stop_after"]


class Reached(BaseException):
    """The layer was reached; no fault, and not for a module's own `except Exception`."""

    def __init__(self, features: Any) -> None:
        super().__init__()
        self.features = features


def stop_after(
    module: nn.Module, take: Callable[[Any], Any] = lambda output: output
) -> RemovableHandle:
    """Have the forward pass end once a submodule has run; return the hook that does it.

    `take` makes of its output what `Reached` carries; of None the pass goes on. The hook is the
    module's last: the first would miss what the others change.
    """

    def stop(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        found = take(output)
        if found is not None:
            raise Reached(found)

    return module.register_forward_hook(stop)


class CutAt(nn.Module):
    """Runs a module until a submodule has run for the first time, and returns what that gave.

    The module gets a hook, so it has to be a copy.
    """

    def __init__(self, module: nn.Module, layer: str) -> None:
        super().__init__()
        check_layer(module, layer)
        self.module, self.layer = module, layer
        stop_after(module.get_submodule(layer))

    def forward(self, values: Any) -> Any:
        """Return what the submodule gives."""
        try:
            self.module(values)
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
    raise InvalidParameterError(
        f"layer={layer!r}: {type(module).__name__} has no submodule of this name."
        f"{did_you_mean(layer, names, n=3, cutoff=0.4)} All are in "
        f"`[name for name, _ in {model}.named_modules()]`.{hint}"
    )


def run_apart(module: Callable[[Tensor], Any], values: Tensor) -> Any:
    """Return what a module gives, where it may change its input or write over its output later."""
    found = module(values.clone())
    return found.clone() if isinstance(found, Tensor) else found


def first_that_runs(run: Callable[[Tensor], Any], values: Iterable[Tensor]) -> tuple[Tensor, Any]:
    """Return the first values on which a model does not fail, and what it gives.

    If it fails on all, what it raised on the first.
    """
    first_error: Exception | None = None
    for each in values:
        try:
            return each, run(each)
        except Exception as error:
            if isinstance(error, SkembedError):
                raise
            first_error = first_error or error
    raise first_error or RuntimeError("there were no values to run it on")
