"""What is particular to audio models of transformers: maps, patches in time, and fusion.

Knows modules and their outputs, not files.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from skembed.modules import States

__all__ = ["N_TOKENS_OF_AST", "AudioStates", "patch_grid"]

N_TOKENS_OF_AST = 2
"""Before the patches: one for the class, one of distillation."""


class AudioStates(States):
    """Runs a model, which takes features or samples, for vectors or frames."""

    def run(self, values: Tensor, *, all_states: bool = False) -> Any:
        """Return the model's whole output."""
        arguments: dict[str, Any] = {"output_hidden_states": True} if all_states else {}
        if getattr(self.module.config, "enable_fusion", False):
            # Windows are never longer than what the model takes whole. Its processor says of one
            # clip at random that it is.
            no = torch.zeros(len(values), 1, dtype=torch.bool, device=values.device)
            arguments["is_longer"] = no
        return self.module(values, **arguments)

    def arrange(self, features: Tensor) -> Tensor:
        """Return maps as frames, and patches in the order of time."""
        if features.ndim == 4:
            return features.flatten(2).transpose(1, 2)
        grid = patch_grid(self.module.config)
        if grid is None or features.shape[1] != N_TOKENS_OF_AST + grid[0] * grid[1]:
            return features
        tokens, patches = features.tensor_split([N_TOKENS_OF_AST], 1)
        return torch.cat([tokens, patches.unflatten(1, grid).transpose(1, 2).flatten(1, 2)], 1)


def patch_grid(config: Any) -> tuple[int, int] | None:
    """Return into how many patches a spectrogram transformer cuts frequency and time."""
    if config.model_type != "audio-spectrogram-transformer":
        return None
    size = config.patch_size
    return (
        (config.num_mel_bins - size) // config.frequency_stride + 1,
        (config.max_length - size) // config.time_stride + 1,
    )
