"""Log-mel and MFCC statistics: what a model without training knows of a clip.

Knows the front end, not rows.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from skembed._backbone import Source
from skembed.audio._backbone import AudioBackbone, AudioSettings, refuse_settings
from skembed.audio._clips import Part
from skembed.audio._spectra import MFCC, LogMel

__all__ = ["BASELINES", "BaselineBackbone"]

BASELINES = {"logmel": LogMel, "mfcc": MFCC}


class BaselineBackbone(AudioBackbone):
    """Mean and standard deviation over time of 80 log-mel bands, or of 20 MFCC.

    Clips stay whole: deviations within windows are not those of the clip.
    """

    float32_on = ("cpu", "cuda", "mps")
    window = None

    def __init__(self, source: Source, settings: AudioSettings) -> None:
        self.name, self.source = source.name, source
        refuse_settings(
            settings,
            f"{self.name!r} has no weights, layers nor revisions. Leave them at their defaults.",
            weights="auto",
            layer=None,
            revision=None,
        )
        self._take_pooling(settings.pooling, BASELINES[self.name]().width, "mean+std")
        self._take_digests(name=self.name)

    def _prepare(self, samples: NDArray[np.float32]) -> Part:
        return Part(torch.from_numpy(samples))

    def _load_core(self) -> nn.Module:
        module: nn.Module = BASELINES[self.name]()
        return module.eval()
