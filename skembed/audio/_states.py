"""What an audio model of transformers is run for: a vector, or the hidden states of a layer.

Knows modules and their outputs, not files.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from skembed.exceptions import InvalidParameterError
from skembed.modules import Reached, find_layer, first_tensor, stop_after

__all__ = ["N_TOKENS_OF_AST", "AudioStates", "make_states", "patch_grid"]

N_TOKENS_OF_AST = 2
"""Before the patches: one for the class, one of distillation."""


class AudioStates(nn.Module):
    """Runs a model, which takes features or samples, for one of the things it gives.

    Parameters
    ----------
    module : PreTrainedModel
        The model.
    output : str or int
        A name in the model's output, or the number of a hidden state.
    stop_at : str or None
        The submodule whose output that is: the forward pass ends there.
    """

    def __init__(self, module: nn.Module, output: str | int, stop_at: str | None = None) -> None:
        super().__init__()
        self.module, self.output, self.stop_at = module, output, stop_at
        self._grid = patch_grid(module.config)
        self._has_fusion = bool(getattr(module.config, "enable_fusion", False))
        if stop_at is not None:
            stop_after(module.get_submodule(stop_at), first_tensor)

    def forward(self, values: Tensor) -> Tensor:
        """Return vectors (n, d), or frames (n, frames, d), maps as frames."""
        try:
            found = self.run(values, all_states=isinstance(self.output, int))
        except Reached as reached:
            return self._as_frames(reached.features)
        if isinstance(self.output, int):
            return self._as_frames(found.hidden_states[self.output])
        return self._as_frames(getattr(found, self.output))

    def _as_frames(self, features: Tensor) -> Tensor:
        """Return maps as frames, and patches in the order of time."""
        if features.ndim == 4:
            return features.flatten(2).transpose(1, 2)
        if self._grid is None or features.ndim != 3:
            return features
        n_prefix = features.shape[1] - self._grid[0] * self._grid[1]
        if n_prefix != N_TOKENS_OF_AST:
            return features
        patches = features[:, n_prefix:].unflatten(1, self._grid).transpose(1, 2).flatten(1, 2)
        return torch.cat([features[:, :n_prefix], patches], 1)

    def run(self, values: Tensor, *, all_states: bool = False) -> Any:
        """Return the model's whole output."""
        arguments: dict[str, Any] = {"output_hidden_states": True} if all_states else {}
        if self._has_fusion:
            # Windows are never longer than what the model takes whole. Its processor says of one
            # clip at random that it is.
            arguments["is_longer"] = torch.zeros(
                len(values), 1, dtype=torch.bool, device=values.device
            )
        return self.module(values, **arguments)


def patch_grid(config: Any) -> tuple[int, int] | None:
    """Return into how many patches a spectrogram transformer cuts frequency and time."""
    if config.model_type != "audio-spectrogram-transformer":
        return None
    size = config.patch_size
    return (
        (config.num_mel_bins - size) // config.frequency_stride + 1,
        (config.max_length - size) // config.time_stride + 1,
    )


def make_states(
    module: nn.Module, output: str, layer: str | int | None, values: Tensor, name: str
) -> AudioStates:
    """Return what runs a model for a hidden state, or for an output if `layer` is None.

    `values` are a batch that is run to find the submodule that makes the state.
    """
    if layer is None:
        return AudioStates(module, output)
    if isinstance(layer, str):
        raise InvalidParameterError(
            f"layer={layer!r}: expected the number of a hidden state of {name}, or None."
        )
    states = AudioStates(module, 0)
    maker = find_layer(module, lambda: states.run(values, all_states=True), layer, name)
    return AudioStates(module, layer, maker)
