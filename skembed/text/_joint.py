"""Models whose one transformer reads texts, pictures and sounds (EmbeddingGemma 2), for texts."""

from __future__ import annotations

from typing import Any

import torch

from skembed.modules import LanguageModel, TokenTransformer
from skembed.text._backbone import TextSettings
from skembed.text._folder import TextFolder
from skembed.text._transformers import TransformerBackbone
from skembed.weights import FolderSource

__all__ = ["JointBackbone"]

_CONTEXT = 8192
"""Tokens for which the model is made, says its card; its positions go much further."""


class JointBackbone(TransformerBackbone):
    """The transformer, which pictures and sounds run through too: it is loaded once for all."""

    can_be_placed = False

    def __init__(
        self, source: FolderSource, folder: TextFolder, config: Any, settings: TextSettings
    ) -> None:
        is_whole = getattr(config, "text_config", None) is not None
        part = config.text_config if is_whole else config
        self._language = LanguageModel(source, folder.transformer, part, is_whole)
        super().__init__(source, folder, part, settings)
        # As its card says, whether or not the files of sentence-transformers are there.
        self.normalizes |= not self._head

    @property
    def core_digest(self) -> bytes:
        """Digest of all that decides the states of given tokens, the same in all rooms."""
        return self._language.digest

    def _n_states(self) -> int:
        return int(self.config.embedding_dim)

    def _choose_max_length(self, folder: TextFolder, max_length: int | None) -> int | None:
        limit = super()._choose_max_length(folder, max_length)
        return limit if max_length or limit is None else min(limit, _CONTEXT)

    def _load_core(self, dtype: torch.dtype | None, **placed: Any) -> TokenTransformer:
        return self._language.load()
