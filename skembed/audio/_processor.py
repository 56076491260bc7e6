"""A checkpoint's own feature extractor, one clip at a time.

Its random parts (crops of long clips) are never used: clips are split into windows before.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skembed.audio._backbone import probe_samples, standardize
from skembed.exceptions import UnsupportedModelError

__all__ = ["Processor"]

# transformers' own, of waveforms with mean 0 and variance 1.
_EPS = 1e-7

_INPUTS = ("input_features", "input_values")


class Processor:
    """Makes of samples what a model takes, with an extractor of transformers.

    `rate` is in Hz, `limit` in seconds of the longest clip that it takes whole (None is any), `hop`
    in samples from one of its frames to the next (1 where it makes none), `is_normalizing` whether
    it gives waveforms mean 0 and variance 1, `input_name` what transformers calls what it makes.
    """

    def __init__(self, extractor: Any) -> None:
        self._extractor = extractor
        if getattr(extractor, "dither", 0.0):
            extractor.dither = 0.0  # noise, which would make vectors random
        self.rate = int(extractor.sampling_rate)
        self.hop = int(getattr(extractor, "hop_length", 1))
        self.limit: float | None = None
        kind = type(extractor).__name__
        self._is_plain = kind == "Wav2Vec2FeatureExtractor"
        self.is_normalizing = self._is_plain and bool(extractor.do_normalize)
        if kind == "ASTFeatureExtractor":
            self.hop = self.rate // 100
            self.limit = extractor.max_length / 100  # frames of 10 ms, as Kaldi makes them
        else:
            most = getattr(extractor, "nb_max_samples", None)  # of CLAP, n_samples of Whisper
            most = getattr(extractor, "n_samples", most)
            self.limit = None if most is None else float(most) / self.rate
        self.input_name = "input_values"
        self.probe = self.prepare(probe_samples(self.rate))

    def prepare(self, samples: NDArray[np.float32]) -> Tensor:
        """Return what the model takes of samples (n,), without the batch's dimension."""
        if self._is_plain:
            if self.is_normalizing:
                samples = standardize(samples, _EPS)
            return torch.from_numpy(samples)
        made = self._extractor(samples, sampling_rate=self.rate, return_tensors="pt")
        for name in _INPUTS:
            if isinstance(made.get(name), Tensor):
                self.input_name = name
                values: Tensor = made[name][0]
                return values.to(torch.float32)
        raise UnsupportedModelError(f"it gives {', '.join(made)}, expected one of {_INPUTS}")
