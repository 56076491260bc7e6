"""What the audio encoder knows of a model: one class for each family of models.

A backbone settles everything that decides a vector when it is made, without loading weights; the
network is loaded when the first clip has to be encoded. Must not know rows nor keys.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skembed.exceptions import InvalidParameterError

__all__ = [
    "Backbone",
    "BackboneSettings",
    "Part",
    "check_layer_number",
    "least_samples",
    "probe_samples",
    "standardize",
]

_PROBE_SECONDS = 1.0


@dataclass(frozen=True)
class BackboneSettings:
    """What the user asked of a model, as the estimator's parameters say it.

    Parameters
    ----------
    weights : str, Path or None
        "auto", a state-dict file, or None: random weights.
    layer : str, int or None
        An intermediate layer; None is the model's end.
    pooling : str
        A name in `AUDIO_POOLINGS`.
    model_sampling_rate : int or None
        In Hz, of a module of the user's.
    revision : str or None
        Branch, tag or commit on the hub.
    trust_remote_code : bool
        Whether code that comes with a model may run.
    """

    weights: str | Path | None = "auto"
    layer: str | int | None = None
    pooling: str = "auto"
    model_sampling_rate: int | None = None
    revision: str | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """A clip, or a window of one, as the model takes it.

    Parameters
    ----------
    values : Tensor
        Samples (n,), or features.
    n_frames : int or None
        How many of the frames that the model gives are of the clip, where it fills clips up; None
        is all.
    """

    values: Tensor
    n_frames: int | None = None

    def to(self, device: torch.device) -> Part:
        """Return it on a device."""
        if device.type == "cuda":
            return Part(self.values.pin_memory().to(device, non_blocking=True), self.n_frames)
        return Part(self.values.to(device), self.n_frames)


class Backbone(ABC):
    """A model of one family.

    Attributes
    ----------
    name : str
        What messages call it.
    digest : bytes
        Content digest of the weights and of everything here that decides features: architecture,
        layer, pooling, preprocessing, releases of the libraries whose code computes them.
    width : int
        Number of features.
    float32_on : tuple of str
        Types of devices on which it computes in float32 whatever is asked for.
    rate : int
        Sampling rate of what it takes, in Hz.
    limit : float or None
        Seconds of the longest clip that it takes at once; None is any.
    least : int
        Samples of the shortest one.
    is_foreign : bool
        Whether code that skembed has never been tested with runs: of the user, or of a checkpoint.
    """

    name: str
    digest: bytes
    width: int
    float32_on: tuple[str, ...] = ()
    rate: int = 16_000
    limit: float | None = None
    least: int = 1
    is_foreign: bool = False

    @abstractmethod
    def prepare(self, samples: NDArray[np.float32]) -> Part:
        """Turn samples (n,) at the model's rate into what it takes, on the CPU.

        Called from several threads at once.
        """

    @abstractmethod
    def load(self, dtype: torch.dtype, device: torch.device) -> nn.Module:
        """Load the network: it maps a list of `Part` on the device to vectors (n, width)."""

    @abstractmethod
    def n_bytes(self) -> int:
        """Return the size of the weights in bytes, 0 if unknown."""

    @abstractmethod
    def refuse_other_files(self) -> None:
        """Refuse weights that are not those of the digest, under which vectors are stored.

        Called after loading.

        Raises
        ------
        UnsupportedModelError
            If the files have changed since the backbone was made.
        """


def standardize(samples: NDArray[np.float32], eps: float) -> NDArray[np.float32]:
    """Return samples with mean 0 and variance 1; `eps` is added to the variance."""
    found: NDArray[np.float32] = (samples - samples.mean()) / np.sqrt(samples.var() + eps)
    return found.astype(np.float32, copy=False)


def probe_samples(rate: int, seconds: float = _PROBE_SECONDS, seed: int = 0) -> NDArray[Any]:
    """Return a clip with noise, tones and a rise in level, always the same: float32 (n,)."""
    n = max(1, round(rate * seconds))
    t = np.arange(n) / rate
    noise = np.random.default_rng(seed).normal(size=n)
    tones = np.sin(2 * np.pi * (200 + 60 * seed) * t) + np.sin(2 * np.pi * 0.11 * rate * t)
    level = 0.02 + 0.2 * np.minimum(1.0, t / max(seconds, 1e-9))
    probe: NDArray[Any] = (level * (tones / 2 + noise / 3)).astype(np.float32)
    return probe


def check_layer_number(layer: Any, n_layers: int, name: str) -> int | None:
    """Return the number of a hidden state, counted from 0; None for the model's end.

    Raises
    ------
    InvalidParameterError
        If there is no such state.
    """
    if layer is None:
        return None
    if not isinstance(layer, int) or not -n_layers - 1 <= layer <= n_layers:
        raise InvalidParameterError(
            f"layer={layer!r}, but {name} has hidden states 0 (what enters its first layer) to "
            f"{n_layers}, or {-n_layers - 1} to -1 from the end."
        )
    return layer % (n_layers + 1)


def least_samples(convolutions: Sequence[tuple[int, int]]) -> int:
    """Return the fewest samples of which convolutions of (kernel, stride) give a frame."""
    n = 1
    for kernel, stride in reversed(convolutions):
        n = (n - 1) * stride + kernel
    return n
