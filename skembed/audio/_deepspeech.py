"""DeepSpeech, as torchaudio builds it, up to one of its hidden layers.

Owns its front end and the names of its layers; must not know rows nor keys.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skembed.audio._backbone import Backbone, BackboneSettings, Part, probe_samples
from skembed.audio._network import load_stacked
from skembed.audio._pooling import pooled_width
from skembed.audio._spectra import LogMel
from skembed.audio._torchaudio import find_file
from skembed.exceptions import InvalidParameterError, UnsupportedModelError
from skembed.modules import build_empty, build_random, fill, plain_names
from skembed.store import digest_of
from skembed.weights import file_sha256, load_state, releases_of

__all__ = ["DeepSpeechBackbone"]

_FORMAT = 1
"""Raised when a change to skembed changes vectors, so that stored ones are not served."""

_N_FEATURES, _N_HIDDEN, _N_CLASSES = 80, 2048, 40
_LAYERS = ("fc1", "fc2", "fc3", "bi_rnn", "fc4")
"""Hidden layers 1 to 5 of the paper."""

_FLOOR = 1e-5


class DeepSpeechBackbone(Backbone):
    """torchaudio's DeepSpeech [1]_ on log-mel bands, each standardised over the clip.

    Parameters
    ----------
    settings : BackboneSettings
        `weights` is a file with a state dict of `torchaudio.models.DeepSpeech`, whose shapes tell
        the sizes, or None: random weights, always the same. `layer` is the number of a hidden
        layer, 1 to 5, or -1 to -5; None is the last one, before the classes.

    References
    ----------
    .. [1] A. Hannun et al., "Deep Speech: Scaling up end-to-end speech recognition",
       arXiv:1412.5567.
    """

    name = "deepspeech"
    float32_on = ("cpu",)  # where a recurrent step takes six times as long in bfloat16

    def __init__(self, settings: BackboneSettings) -> None:
        if settings.weights == "auto":
            raise InvalidParameterError(
                "weights='auto', but no weights of DeepSpeech are published. Give a file with the "
                "state dict of a torchaudio.models.DeepSpeech, or None for random weights."
            )
        if settings.revision is not None:
            raise InvalidParameterError(
                f"revision={settings.revision!r}: only models of the hub have revisions."
            )
        self._place = _place_of(settings.layer)
        self._pooling = "mean" if settings.pooling == "auto" else settings.pooling
        self._file = find_file(settings.weights, self.name, None)
        self._sha256 = None if self._file is None else file_sha256(self._file)
        self._sizes = _sizes_of(self._file)
        self._front_end = LogMel(self.rate, n_mels=self._sizes["n_feature"]).eval()
        self.width = pooled_width(self._sizes["n_hidden"], self._pooling)
        libraries = ["torchaudio"] + ["torch"] * (self._file is None)
        self.digest = digest_of(
            {
                "kind": "DeepSpeech",
                "format": _FORMAT,
                "libraries": releases_of(*libraries),
                "weights": self._sha256 or "random",
                "sizes": self._sizes,
                "layer": self._place,
                "pooling": self._pooling,
            }
        )

    def __repr__(self) -> str:
        return f"DeepSpeechBackbone(width={self.width})"

    @torch.inference_mode()
    def prepare(self, samples: NDArray[np.float32]) -> Part:
        """Return log-mel bands (frames, bands), each with mean 0 and variance 1."""
        bands = self._front_end(torch.from_numpy(samples)[None])[0]
        std, mean = torch.std_mean(bands, 0, correction=0)
        return Part((bands - mean) / (std + _FLOOR))

    def load(self, dtype: torch.dtype, device: torch.device) -> nn.Module:
        """Load the network."""
        if self._file is None:
            module = build_random(self._build)
        else:
            module = build_empty(self._build)
            fill(module, load_state(self._file), path=self._file, name=self.name)
        probe = self.prepare(probe_samples(self.rate)).values
        return load_stacked(
            _HiddenLayer(module, self._place),
            probe,
            pooling=self._pooling,
            dtype=dtype,
            device=device,
        )

    def n_bytes(self) -> int:
        """Return the size of the weights in bytes."""
        if self._file is not None:
            return self._file.stat().st_size
        return sum(4 * each.numel() for each in build_empty(self._build).parameters())

    def refuse_other_files(self) -> None:
        """Refuse weights that are not those of the digest, under which vectors are stored."""
        if self._file is not None and file_sha256(self._file) != self._sha256:
            raise UnsupportedModelError(
                f"{self._file} changed while the model was in use. Call again when it is written."
            )

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


def _sizes_of(path: Path | None) -> dict[str, int]:
    if path is None:
        return {"n_feature": _N_FEATURES, "n_hidden": _N_HIDDEN, "n_class": _N_CLASSES}
    state = plain_names(load_state(path))
    try:
        n_hidden, n_feature = state["fc1.fc.weight"].shape
        n_class = len(state["out.weight"])
    except (KeyError, ValueError) as error:
        raise UnsupportedModelError(
            f"{path} holds no state dict of torchaudio.models.DeepSpeech: expected 'fc1.fc.weight' "
            f"and 'out.weight', got {', '.join(list(state)[:5])}."
        ) from error
    return {"n_feature": int(n_feature), "n_hidden": int(n_hidden), "n_class": int(n_class)}
