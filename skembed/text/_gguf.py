"""Decoders in a GGUF file, unpacked to full precision: the file says all that folders say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from skembed._backbone import OF_THE_HUB
from skembed.text._backbone import TextSettings
from skembed.text._folder import TextFolder
from skembed.text._tokens import check_tokenizer
from skembed.text._transformers import MOST_BYTES_IN_FLOAT32, TransformerBackbone
from skembed.weights import (
    FileSource,
    gguf_fields,
    gguf_source,
    kept_recent,
    load_gguf,
    load_gguf_config,
    load_gguf_tokenizer,
)

__all__ = ["GgufBackbone", "find_gguf_backbone"]

_POOLINGS = {1: "mean", 2: "cls", 3: "last_token"}
"""By the numbers of llama.cpp, which embedding-tuned models carry."""


def find_gguf_backbone(settings: TextSettings) -> TransformerBackbone:
    """Return the backbone of a GGUF file; the same one while its content is the same."""
    settings.refuse(
        revision=OF_THE_HUB,
        trust_remote_code="a GGUF file holds no code.",
    )
    source = gguf_source(settings.model)
    chosen = settings.pooling, settings.prompt, settings.attention, settings.max_length
    key = ("gguf backbone", source.digest, str(source.path), source.name, *chosen)

    def read() -> TransformerBackbone:
        said = gguf_fields(source, "pooling_type")
        folder = TextFolder(source.path, pooling=_POOLINGS.get(said.get("pooling_type", 0)))
        return GgufBackbone(source, folder, load_gguf_config(source.path), settings)

    return kept_recent(key, lambda: source.read(read))


class GgufBackbone(TransformerBackbone):
    """A model of a GGUF file."""

    source: FileSource
    can_be_placed = False

    def _load_tokenizer(self, folder: TextFolder) -> Any:
        def load() -> Any:
            n_tokens = self.config.get_text_config().vocab_size
            tokenizer = load_gguf_tokenizer(self.source.path, n_tokens)
            return check_tokenizer(tokenizer, self.source.path, n_tokens=n_tokens)

        key = ("tokenizer", self.source.digest)
        return kept_recent(key, lambda: self.source.read(load))

    def _load_pretrained(
        self, auto: Any, dtype: torch.dtype | None, *, has_pooler: bool = False, **arguments: Any
    ) -> Any:
        config = self._config_to_load()
        return load_gguf(self.source.path, config, auto=auto, dtype=self.loaded_as(dtype))

    def loaded_as(self, dtype: torch.dtype | None) -> torch.dtype:
        """Return the format in which weights are unpacked; the file's size tells less of it."""
        is_small = self.n_bytes(torch.float32) <= MOST_BYTES_IN_FLOAT32
        return torch.float32 if is_small else super().loaded_as(dtype)

    def _write_tokenizer(self, folder: Path) -> None:
        self._tokenizer.save_pretrained(folder)
