"""Models whose one transformer reads texts, pictures and sounds (EmbeddingGemma 2), for sounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from skembed.audio._backbone import AudioBackbone, AudioSettings
from skembed.audio._clips import Part
from skembed.exceptions import UnsupportedModelError
from skembed.modules import Joint, JointModel
from skembed.weights import (
    FolderSource,
    check_weights,
    load_config,
    load_processor,
    releases_of,
)

__all__ = ["JointBackbone"]

_SECONDS = 30.0
"""Of the longest clip that the model's feature extractor does not cut."""


class JointBackbone(AudioBackbone):
    """A tower for sounds, and the language model that the other rooms run too."""

    bands = -1
    normalizes = True

    def __init__(self, source: FolderSource, settings: AudioSettings) -> None:
        self.name, self.source = source.name, source
        settings.refuse(
            weights=f"{self.name} has its own. Leave weights='auto'.",
            layer=f"{self.name} is run whole. Leave layer=None.",
        )
        check_weights(source.folder)
        config = load_config(source.folder, trust_remote_code=False)
        self._model = JointModel(source, config, "audio")
        if self._model.tower_config is None:
            raise UnsupportedModelError(f"{self.name} has no part that reads sounds.")
        self.language = self._model.language
        self._extractor: Any = load_processor(
            "AutoFeatureExtractor",
            source.folder,
            lambda extractor: extractor,
            what="feature extractor",
            trust_remote_code=False,
        )
        self._extractor.dither = 0.0  # noise, which would make vectors random
        self.rate, self.limit = int(self._extractor.sampling_rate), _SECONDS
        # Half of the first frame lies before the clip.
        self.least = self._extractor.frame_length - self._extractor.frame_length // 2 + 1
        self._take_pooling(settings.pooling, self._model.width)
        self._take_digests(libraries=releases_of("transformers"))

    def _prepare(self, samples: NDArray[np.float32]) -> Part:
        made = self._extractor([samples], return_tensors="pt")
        # The extractor fills the clip up; what is its own is read.
        is_own = made["input_features_mask"][0]
        return Part(made["input_features"][0][is_own].to(torch.float32))

    def load(
        self,
        *,
        core: nn.Module | None = None,
        dtype: torch.dtype | None = None,
        language: Any = None,
    ) -> nn.Module:
        """Load the module, around a language model or a core that is there already."""
        if core is None and language is not None:
            core = self._join(language)
        return super().load(core=core, dtype=dtype)

    def _load_core(self) -> nn.Module:
        return self._join(None)

    def _join(self, language: Any) -> Joint:
        return self._model.join(self._model.load_tower(), language)
