"""Log-mel and MFCC statistics: what a model without training knows of a clip.

Knows the front end, not rows.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from skembed.audio._backbone import Backbone, BackboneSettings, Part
from skembed.audio._network import StackedClips
from skembed.audio._pooling import pooled_width
from skembed.audio._spectra import MFCC, LogMel
from skembed.exceptions import InvalidParameterError
from skembed.store import digest_of
from skembed.weights import releases_of

__all__ = ["BASELINES", "BaselineBackbone"]

_FORMAT = 1
"""Raised when a change to skembed changes vectors, so that stored ones are not served."""

BASELINES = {"logmel": LogMel, "mfcc": MFCC}


class BaselineBackbone(Backbone):
    """Mean and standard deviation over time of 80 log-mel bands, or of 20 MFCC.

    Parameters
    ----------
    name : {"logmel", "mfcc"}
        Which.
    settings : BackboneSettings
        `pooling="auto"` is "mean_std".

    Raises
    ------
    InvalidParameterError
        If settings are given that it does not have.
    """

    float32_on = ("cpu", "cuda", "mps")

    def __init__(self, name: str, settings: BackboneSettings) -> None:
        self.name = name
        faults = [
            f"{key}={value!r}"
            for key, value, idle in (
                ("weights", settings.weights, "auto"),
                ("layer", settings.layer, None),
                ("revision", settings.revision, None),
            )
            if value != idle
        ]
        if faults:
            raise InvalidParameterError(
                f"{', '.join(faults)}: {name!r} has no weights, layers nor revisions. Leave them "
                "at their defaults."
            )
        self._pooling = "mean_std" if settings.pooling == "auto" else settings.pooling
        self.width = pooled_width(int(BASELINES[name](self.rate).width), self._pooling)
        self.digest = digest_of(
            {
                "kind": "baseline",
                "format": _FORMAT,
                "name": name,
                "pooling": self._pooling,
                "libraries": releases_of("torch"),
            }
        )

    def __repr__(self) -> str:
        return f"BaselineBackbone({self.name!r}, width={self.width})"

    def prepare(self, samples: NDArray[np.float32]) -> Part:
        """Return the samples as they are."""
        return Part(torch.from_numpy(samples))

    def load(self, dtype: torch.dtype, device: torch.device) -> nn.Module:
        """Return the front end."""
        module = BASELINES[self.name](self.rate).eval().to(device)
        return StackedClips(module, self._pooling, dtype).eval()

    def n_bytes(self) -> int:
        """Return 0."""
        return 0

    def refuse_other_files(self) -> None:
        """Do nothing: there are no files."""
