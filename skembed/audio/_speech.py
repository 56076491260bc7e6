"""A speech model of transformers, run on clips of any lengths at once without padding.

Convolutions run clip by clip, linear layers see the frames of all clips as one sequence, and
attention stays within each clip, so that a clip's frames depend on nothing but the clip. Every step
of that is proven on some noise against the model's own forward pass, clip by clip; a model with
which they differ runs as it is, on clips of equal length.

Knows transformers' modules and waveforms, not where either comes from.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skembed.audio._convolutions import FrameEncoder
from skembed.audio._positions import PositionalConvolution
from skembed.audio._relative_attention import PositionBias, RelativeAttention
from skembed.engine import (
    PACKED,
    Rows,
    are_alike,
    convert,
    is_out_of_memory,
    keep_freed_memory,
    pack_linear_layers,
    packed_rows,
    register_packed_attention,
    steady_size,
)
from skembed.exceptions import InvalidParameterError, UnsupportedModelError

__all__ = ["SpeechNetwork", "speech_network"]

_PROBE_FRAMES = (1, 9, 9, 20)
"""Of the clips on which steps are proven: the shortest, two of one length, a longer one."""

_MOST_LEAST_FRAMES = 16
"""A model that does not run on so many frames does not run."""

_CLIPS_AT_ONCE = 8
"""Of equal length, where a model runs as it is."""


class SpeechNetwork(nn.Module):
    """Maps clips to the hidden states of their frames.

    Parameters
    ----------
    config : PretrainedConfig
        Of the model: its convolutions tell how many frames a clip gives.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.width = int(config.hidden_size)
        self.least_frames = 1
        self._windows = list(zip(config.conv_kernel, config.conv_stride, strict=True))

    @property
    def min_samples(self) -> int:
        """The fewest samples that the model takes."""
        n = self.least_frames
        for kernel, stride in reversed(self._windows):
            n = (n - 1) * stride + kernel
        return int(n)

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return math.prod(stride for _, stride in self._windows)

    def n_frames(self, n_samples: int) -> int:
        """Return how many frames a clip of so many samples gives; 0 if it is too short."""
        n = n_samples if n_samples >= self.min_samples else 0
        for kernel, stride in self._windows:
            n = max(0, (n - kernel) // stride + 1)
        return int(n)

    def forward(self, waveforms: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
        """Return hidden states of all clips' frames, end to end, and the frames of each.

        Parameters
        ----------
        waveforms : sequence of Tensor of shape (samples,), float32
            One or more clips, in the sampling rate of the model, normalised as it expects. None is
            shorter than `min_samples`.

        Returns
        -------
        states : Tensor of shape (frames of all clips, width), float32
        lengths : list of int
        """
        if min(map(len, waveforms)) < self.min_samples:
            raise ValueError(f"a clip is shorter than {self.min_samples} samples")
        # Clips of like length share attention calls.
        order = sorted(range(len(waveforms)), key=lambda i: len(waveforms[i]))
        lengths = [self.n_frames(len(waveforms[i])) for i in order]
        states = self._states([waveforms[i] for i in order], lengths).float()
        if order != sorted(order):
            parts = dict(zip(order, states.split(lengths), strict=True))
            states = torch.cat([parts[i] for i in range(len(waveforms))])
        return states, [self.n_frames(len(each)) for each in waveforms]

    def _states(self, clips: list[Tensor], lengths: list[int]) -> Tensor:
        """Return states of clips sorted by length, shape (frames, width)."""
        raise NotImplementedError


@torch.inference_mode()
def speech_network(
    module: Any,
    *,
    layer: int | None,
    dtype: torch.dtype,
    device: torch.device,
    is_packed: bool = True,
) -> SpeechNetwork:
    """Return what runs a speech model, as fast as is proven to change nothing.

    Parameters
    ----------
    module : PreTrainedModel
        A model of waveforms in float32 on the CPU, in evaluation mode. Not changed; the network
        shares its weights where they are not converted or laid out anew.
    layer : int or None
        Number of the hidden state as in transformers: 0 is what enters the first layer, -1 what
        leaves the last one. None is the model's `last_hidden_state`. Later layers are left out.
    dtype : torch.dtype
        What it runs in.
    device : torch.device
        Where it runs.
    is_packed : bool
        Whether products run on weights in oneDNN's layout, on CPUs.

    Raises
    ------
    InvalidParameterError
        If the model has no such hidden state.
    UnsupportedModelError
        If the model does not take waveforms, or has an adapter that changes the number of frames.
    """
    config = module.config
    if not hasattr(config, "conv_kernel") or not hasattr(module, "feature_extractor"):
        raise UnsupportedModelError(f"{type(module).__name__} is not a model of waveforms.")
    if getattr(config, "add_adapter", False):
        raise UnsupportedModelError(
            f"{type(module).__name__} has an adapter after its last layer (add_adapter=True), "
            "which skembed does not run. Save the model without it."
        )
    number = _number(layer, int(config.num_hidden_layers))
    if device.type == "cpu":
        keep_freed_memory()
    reference = _Reference(_shared_copy(module), layer)
    reference.find_least_frames()
    probe = _noise(reference)
    # Each alone: whatever the model does with several is not looked at.
    expected = torch.cat([reference([clip])[0] for clip in probe])
    # Releases of transformers differ in whether the last hidden state is normalised.
    for is_normed in (True,) if layer is None else (False, True):
        network = _made(partial(_Packed, module, number, is_normed), probe, expected)
        if network is not None:
            return _finished(network, probe, dtype, device, is_packed)
    convert(reference, dtype)
    return reference.to(device)


def _made(make: Callable[[], _Packed], probe: list[Tensor], expected: Tensor) -> _Packed | None:
    """Return the network if it gives what is expected."""
    try:
        network = make()
        return network if are_alike(network(probe)[0], expected) else None
    except Exception as error:
        # A model that only looks like the known ones may fail anywhere.
        if is_out_of_memory(error):
            raise
        return None


def _finished(
    network: _Packed,
    probe: list[Tensor],
    dtype: torch.dtype,
    device: torch.device,
    is_packed: bool,
) -> SpeechNetwork:
    convert(network, dtype)
    network.to(device)
    if device.type != "cpu" or not is_packed or dtype not in (torch.float32, torch.bfloat16):
        return network
    expected = network(probe)[0].to(dtype)

    def agrees() -> bool:
        return are_alike(network(probe)[0].to(dtype), expected)

    for part in (network.frames, network.positions):
        try:
            part.pack()
            is_right = agrees()
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            is_right = False  # this torch or this processor has no such operators
        if not is_right:
            part.unpack()
    network.is_steady = True
    network.is_steady = pack_linear_layers(network, lambda: network(probe), agrees)
    return network


def _number(layer: int | None, n_layers: int) -> int:
    """Return how many layers run."""
    if layer is None:
        return n_layers
    if not -n_layers - 1 <= layer <= n_layers:
        raise InvalidParameterError(
            f"layer={layer}, but the model has hidden states 0 to {n_layers} (-1 is the last)."
        )
    return layer % (n_layers + 1)


def _shared_copy(module: Any) -> Any:
    """Return a copy of a module with the same weights in memory, in parameters of its own."""
    memo: dict[int, Any] = {
        id(each): nn.Parameter(each.detach(), requires_grad=False) for each in module.parameters()
    }
    return copy.deepcopy(module, memo).eval()


def _noise(network: SpeechNetwork) -> list[Tensor]:
    """Return clips on which steps are proven."""
    generator = torch.Generator().manual_seed(0)
    lengths = [network.min_samples + (n - 1) * network.hop for n in _PROBE_FRAMES]
    return [torch.randn(n, generator=generator) for n in lengths]


class _Reference(SpeechNetwork):
    """The model as it is, on clips of equal length.

    Parameters
    ----------
    module : PreTrainedModel
        The model.
    layer : int or None
        Which hidden state.
    """

    def __init__(self, module: Any, layer: int | None) -> None:
        super().__init__(module.config)
        self.module, self.layer = module, layer

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
        parameter = next(self.module.parameters())
        states = []
        for _, alike in groupby(clips, key=len):
            run = list(alike)
            for start in range(0, len(run), _CLIPS_AT_ONCE):
                batch = torch.stack(run[start : start + _CLIPS_AT_ONCE]).to(parameter)
                found = self.module(batch, output_hidden_states=self.layer is not None)
                if self.layer is None:
                    states.append(found.last_hidden_state.flatten(0, 1))
                else:
                    states.append(found.hidden_states[self.layer].flatten(0, 1))
        return torch.cat(states)


class _Packed(SpeechNetwork):
    """The model with its clips end to end.

    Parameters
    ----------
    module : PreTrainedModel
        The model; not changed.
    n_layers : int
        How many of its layers run.
    is_normed : bool
        Whether the normalisation after the last layer runs, where there is one.

    Raises
    ------
    NotImplementedError
        If the model is made of other parts.
    """

    def __init__(self, module: Any, n_layers: int, is_normed: bool) -> None:
        super().__init__(module.config)
        model = _shared_copy(module)
        self.frames = FrameEncoder(list(model.feature_extractor.conv_layers))
        self.positions = PositionalConvolution(model.encoder.pos_conv_embed)
        self.projection = model.feature_projection
        layers = list(model.encoder.layers)[:n_layers]
        self.bias = None
        if hasattr(model.encoder.layers[0].attention, "rel_attn_embed"):
            self.bias = PositionBias(model.encoder.layers[0].attention)
            for each in layers:
                each.attention = RelativeAttention(each.attention)
        else:
            register_packed_attention()
            model.set_attn_implementation(PACKED)
        self.layers = nn.ModuleList(layers)
        is_pre_norm = bool(getattr(module.config, "do_stable_layer_norm", False))
        self.norm_before = None if is_pre_norm else model.encoder.layer_norm
        is_last = n_layers == len(model.encoder.layers)
        self.norm_after = (
            model.encoder.layer_norm if is_pre_norm and is_last and is_normed else None
        )
        self.is_steady = False

    def _states(self, clips: list[Tensor], lengths: list[int]) -> Tensor:
        frames = self.frames(clips)
        n = len(frames)
        rows = Rows(lengths, n_more=steady_size(n) - n if self.is_steady else 0)
        projected = self.projection(F.pad(frames, (0, 0, 0, rows.n_more))[None])
        states: Tensor = projected[0] if isinstance(projected, tuple) else projected
        states = states + self.positions(states[0], lengths)[None]
        if self.norm_before is not None:
            states = self.norm_before(states)
        with packed_rows(rows):
            if self.bias is not None:
                bias = self.bias(rows)
                for layer in self.layers:
                    states = layer(states, position_bias=bias)[0]
            else:
                for layer in self.layers:
                    states = layer(states)
        if self.norm_after is not None:
            states = self.norm_after(states)
        return states[0, :n]
