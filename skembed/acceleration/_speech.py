"""A transformers speech model, run on clips of any length at once without padding.

Linear layers see the frames of all clips as one sequence, attention stays within each clip. Checked
on noise against the model's own forward pass; if they differ, the model runs as it is.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skembed.acceleration._attention import PACKED, packed_rows, register_packed_attention
from skembed.acceleration._frames import FrameEncoder
from skembed.acceleration._linear import pack_linear_layers, steady_size
from skembed.acceleration._passes import are_alike, convert
from skembed.acceleration._positions import PositionalConvolution
from skembed.acceleration._relative_attention import PositionBias, RelativeAttention
from skembed.modules import Rows, SpeechModel
from skembed.weights import is_out_of_memory

__all__ = ["accelerate_speech"]

_PROBE_FRAMES = (1, 9, 9, 20)
"""Of the clips on which steps are proven: the shortest, two of one length, a longer one."""


def accelerate_speech(
    core: SpeechModel, *, device: torch.device, dtype: torch.dtype
) -> SpeechModel:
    """Return what runs a speech model on its device; it shares weights it need not convert."""
    core.find_least_frames()
    probe = _noise(core)
    # Each alone: whatever the model does with several is not looked at.
    expected = torch.cat([core([clip])[0] for clip in probe])
    n_all = int(core.model.config.num_hidden_layers)
    n_layers = n_all if core.layer is None else core.layer % (n_all + 1)
    # Releases of transformers differ in whether the last hidden state is normalised.
    for is_normed in (True,) if core.layer is None else (False, True):
        try:
            packed = _PackedSpeech(core, n_layers, is_normed)
            is_right = are_alike(packed(probe)[0], expected)
        except Exception as error:
            # A model that only looks like the known ones may fail anywhere.
            if is_out_of_memory(error):
                raise
            continue
        if is_right:
            return _finished(packed, probe, dtype, device)
    convert(core, dtype)
    return core.to(device)


def _finished(
    packed: _PackedSpeech, probe: list[Tensor], dtype: torch.dtype, device: torch.device
) -> SpeechModel:
    convert(packed, dtype)
    packed.to(device)
    if device.type != "cpu" or dtype not in (torch.float32, torch.bfloat16):
        return packed
    expected = packed(probe)[0].to(dtype)

    packed.is_steady = True
    packed.is_steady = pack_linear_layers(
        packed, lambda: are_alike(packed(probe)[0].to(dtype), expected)
    )
    return packed


def _shared_copy(module: Any) -> Any:
    """Return a copy of a module with the same weights in memory, in parameters of its own."""
    memo: dict[int, Any] = {
        id(each): nn.Parameter(each.detach(), requires_grad=False) for each in module.parameters()
    }
    return copy.deepcopy(module, memo).eval()


def _noise(core: SpeechModel) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    lengths = [core.min_samples + (n - 1) * core.hop for n in _PROBE_FRAMES]
    return [torch.randn(n, generator=generator) for n in lengths]


class _PackedSpeech(SpeechModel):
    """The model with its clips end to end, up to a layer; the plain one is not changed.

    `is_normed` tells whether the normalisation after the last layer runs, where there is one.
    """

    def __init__(self, plain: SpeechModel, n_layers: int, is_normed: bool) -> None:
        model = _shared_copy(plain.model)
        super().__init__(model, plain.layer)
        self.least_frames = plain.least_frames
        del self.model  # only parts of it run
        config = model.config
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
        is_pre_norm = bool(getattr(config, "do_stable_layer_norm", False))
        self.norm_before = None if is_pre_norm else model.encoder.layer_norm
        is_last = n_layers == len(model.encoder.layers)
        is_normed = is_normed and is_pre_norm and is_last
        self.norm_after = model.encoder.layer_norm if is_normed else None
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
            bias = None if self.bias is None else self.bias(rows)
            for layer in self.layers:
                states = layer(states) if bias is None else layer(states, position_bias=bias)[0]
        if self.norm_after is not None:
            states = self.norm_after(states)
        return states[0, :n]
