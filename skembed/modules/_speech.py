"""A transformers speech model as published: waveforms in, frame states out.

Knows transformers' modules and waveforms, not where either comes from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from skembed.weights import is_out_of_memory

__all__ = ["SpeechModel"]

_MOST_LEAST_FRAMES = 16
"""A model that does not run on so many frames does not run."""

_CLIPS_AT_ONCE = 8
"""Of equal length."""


class SpeechModel(nn.Module):
    """Maps clips of any lengths to the hidden states of their frames; equal lengths run together.

    Parameters
    ----------
    model : PreTrainedModel
        A model of waveforms.
    layer : int or None
        Which hidden state, as in transformers: 0 is what enters the first layer, -1 what leaves the
        last one. None is the model's `last_hidden_state`.
    """

    def __init__(self, model: Any, layer: int | None) -> None:
        super().__init__()
        self.model, self.layer = model, layer
        self.width = int(model.config.hidden_size)
        self.least_frames = 1
        self._convolutions = list(
            zip(model.config.conv_kernel, model.config.conv_stride, strict=True)
        )

    @property
    def min_samples(self) -> int:
        """The fewest samples that the model takes."""
        n = self.least_frames
        for kernel, stride in reversed(self._convolutions):
            n = (n - 1) * stride + kernel
        return int(n)

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return math.prod(stride for _, stride in self._convolutions)

    def n_frames(self, n_samples: int) -> int:
        """Return how many frames a clip of so many samples gives; 0 if it is too short."""
        n = n_samples if n_samples >= self.min_samples else 0
        for kernel, stride in self._convolutions:
            n = max(0, (n - kernel) // stride + 1)
        return int(n)

    def forward(self, clips: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
        """Return the states of all clips' frames, end to end, and the frames of each.

        Parameters
        ----------
        clips : sequence of Tensor of shape (samples,), float32
            At the model's sampling rate, normalised as it expects; none shorter than `min_samples`.

        Returns
        -------
        states : Tensor of shape (frames of all clips, width), float32
        lengths : list of int
        """
        if min(map(len, clips)) < self.min_samples:
            raise ValueError(f"a clip is shorter than {self.min_samples} samples")
        # Clips of like length share attention calls.
        order = sorted(range(len(clips)), key=lambda i: len(clips[i]))
        lengths = [self.n_frames(len(clips[i])) for i in order]
        states = self._states([clips[i] for i in order], lengths).float()
        if order != sorted(order):
            parts = dict(zip(order, states.split(lengths), strict=True))
            states = torch.cat([parts[i] for i in range(len(clips))])
        return states, [self.n_frames(len(each)) for each in clips]

    def find_least_frames(self) -> None:
        """Find out how many frames the model needs: one that squeezes them may fail on a few."""
        while True:
            try:
                self([torch.zeros(self.min_samples)])
                return
            except RuntimeError as error:
                if is_out_of_memory(error) or self.least_frames >= _MOST_LEAST_FRAMES:
                    raise
                self.least_frames *= 2

    def _states(self, clips: list[Tensor], lengths: list[int]) -> Tensor:
        """Return states of clips sorted by length, shape (frames, width)."""
        parameter = next(self.model.parameters())
        states = []
        for _, alike in groupby(clips, key=len):
            run = list(alike)
            for start in range(0, len(run), _CLIPS_AT_ONCE):
                batch = torch.stack(run[start : start + _CLIPS_AT_ONCE]).to(parameter)
                found = self.model(batch, output_hidden_states=self.layer is not None)
                if self.layer is None:
                    states.append(found.last_hidden_state.flatten(0, 1))
                else:
                    states.append(found.hidden_states[self.layer].flatten(0, 1))
        return torch.cat(states)
