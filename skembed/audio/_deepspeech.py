"""DeepSpeech, as torchaudio builds it, up to one of its hidden layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skembed._backbone import OF_THE_HUB, Exported, Source
from skembed.audio._backbone import AudioBackbone, AudioSettings
from skembed.audio._clips import Part
from skembed.audio._spectra import LogMel
from skembed.exceptions import InvalidParameterError, UnsupportedModelError
from skembed.modules import (
    build_empty,
    build_random,
    fill,
    fill_part,
    plain_names,
    write_state,
)
from skembed.weights import FileSource, load_state, releases_of

__all__ = ["DeepSpeechBackbone"]

_RANDOM = {"n_feature": 80, "n_hidden": 2048, "n_class": 40}
_LAYERS = ("fc1", "fc2", "fc3", "bi_rnn", "fc4")
"""Hidden layers 1 to 5 of the paper."""

_FLOOR = 1e-5


class DeepSpeechBackbone(AudioBackbone):
    """torchaudio's DeepSpeech (arXiv:1412.5567) on log-mel bands, each standardised over the clip.

    `layer` is the number of a hidden layer, 1 to 5, or -1 to -5; None is the last one.
    """

    name = "deepspeech"
    bands = -1
    float32_on = ("cpu",)  # where a recurrent step takes six times as long in bfloat16

    def __init__(self, source: Source, settings: AudioSettings) -> None:
        self.source = source
        settings.refuse(revision=OF_THE_HUB)
        self._place = _place_of(settings.layer)
        self._sizes = _sizes_of(source)
        self._front_end = LogMel(n_mels=self._sizes["n_feature"]).eval()
        self._take_pooling(settings.pooling, self._sizes["n_hidden"])
        self._take_digests(layer=self._place, libraries=releases_of("torchaudio"))

    @torch.no_grad()
    def _prepare(self, samples: NDArray[np.float32]) -> Part:
        """Return log-mel bands (frames, bands), each with mean 0 and variance 1."""
        bands = self._front_end(torch.from_numpy(samples)[None])[0]
        std, mean = torch.std_mean(bands, 0, correction=0)
        return Part((bands - mean) / (std + _FLOOR))

    def _load_core(self) -> nn.Module:
        return _HiddenLayer(self._load_whole(), self._place).eval()

    def _load_whole(self) -> nn.Module:
        if not isinstance(self.source, FileSource):
            return build_random(self._build)
        module, path = build_empty(self._build), self.source.path
        fill(module, load_state(path), path=path, name=self.name)
        return module

    def _export(self, core: _HiddenLayer, folder: Path) -> Exported:
        """Write a state dict by torchaudio's names; the layers after the one that was run, too."""
        whole: Any = self._load_whole()
        for name, layer in core.layers.items():
            fill_part(getattr(whole, name), layer)
        write_state(whole.state_dict(), folder / "model.safetensors")
        sizes = ", ".join(f"{name}={size}" for name, size in self._sizes.items())
        code = f"""
import torch
import torchaudio
from safetensors.torch import load_file

model = torchaudio.models.DeepSpeech({sizes}).eval()
model.load_state_dict(load_file("model.safetensors"))
# vectors: its hidden layer {self._place + 1} on log-mel bands, pooled as AudioEmbedder does it
"""
        return Exported("torchaudio", code, '"deepspeech", weights="model.safetensors"')

    def _build(self) -> nn.Module:
        from torchaudio.models import DeepSpeech

        module: nn.Module = DeepSpeech(**self._sizes)
        return module


class _HiddenLayer(nn.Module):
    """Runs DeepSpeech up to a hidden layer; what follows is left out."""

    def __init__(self, module: Any, place: int) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({name: getattr(module, name) for name in _LAYERS[: place + 1]})

    def forward(self, bands: Tensor) -> Tensor:
        """Map (n, frames, bands) to (n, frames, hidden)."""
        hidden = bands
        for name, layer in self.layers.items():
            if name == "bi_rnn":
                # Both directions side by side, which the model adds up.
                both, _ = layer(hidden.transpose(0, 1))
                forth, back = both.transpose(0, 1).chunk(2, -1)
                hidden = forth + back
            else:
                hidden = layer(hidden)
        return hidden


def _place_of(layer: Any) -> int:
    n = len(_LAYERS)
    if layer is None:
        return n - 1
    if not isinstance(layer, int) or not (1 <= layer <= n or -n <= layer <= -1):
        raise InvalidParameterError(
            f"layer={layer!r}: DeepSpeech has hidden layers 1 to {n}, or -1 to -{n} from the end."
        )
    return layer - 1 if layer > 0 else n + layer


def _sizes_of(source: Source) -> dict[str, int]:
    if not isinstance(source, FileSource):
        return _RANDOM
    state = plain_names(load_state(source.path))
    try:
        n_hidden, n_feature = state["fc1.fc.weight"].shape
        n_class = len(state["out.weight"])
    except (KeyError, ValueError):
        raise UnsupportedModelError(
            f"{source.path} has no state dict for torchaudio.models.DeepSpeech: expected "
            f"'fc1.fc.weight' and 'out.weight', got {', '.join(list(state)[:5])}."
        ) from None
    return {"n_feature": int(n_feature), "n_hidden": int(n_hidden), "n_class": int(n_class)}
