"""The encoder of static vectors: texts are looked up all at once, and never stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from skembed._encoder import AtOnce, BatchPolicy, Fault, Prepared
from skembed.text._encoder import TextEncoder
from skembed.text._settings import TextSettings
from skembed.text.static._modules import TextRows, WordBatch
from skembed.weights import shared_model

if TYPE_CHECKING:
    from skembed.text.static._backbone import StaticBackbone

__all__ = ["NOTHING_KNOWN", "StaticEncoder"]

NOTHING_KNOWN = "none of its words has a vector"

_TEXTS_AT_ONCE = 1024
"""Larger steps are slower: their words and vectors fall out of the caches."""


class StaticEncoder(TextEncoder):
    """Encodes texts with static vectors; looking for a text in a store would take longer."""

    backbone: StaticBackbone  # type: ignore[assignment]
    uses_store = False

    def __init__(
        self, backbone: StaticBackbone, settings: TextSettings, device: torch.device
    ) -> None:
        super().__init__(backbone, settings, device)  # type: ignore[arg-type]
        self.settings = settings

    @property
    def policy(self) -> BatchPolicy:
        """Any texts share a batch."""
        return BatchPolicy(budget=1 << 20, overlaps=False)

    def prepare(self, items: Sequence[str]) -> list[Prepared | Fault]:
        """Look words up; sizes count all words of a text."""
        read = self.backbone.read(items, is_cut=not self.in_chunks)
        ends = np.cumsum(read.counts).tolist()
        rows, weights = read.texts.rows, read.texts.weights
        prepared: list[Prepared | Fault] = []
        for start, end, size in zip([0, *ends], ends, read.sizes.tolist(), strict=False):
            own = None if weights is None else weights[start:end]
            prepared.append(Prepared([TextRows(rows[start:end], own)], size))
        return prepared

    @torch.inference_mode()
    def at_once(self, items: Sequence[str], tell: Callable[[int], None]) -> AtOnce:
        """Return the vectors of all texts; those of which nothing is known are zeros."""
        module, n = self._module(), len(items)
        vectors = np.empty((n, self.full_width), dtype=np.float32)
        sizes, n_unknown = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        notes: dict[int, str] = {}
        for start in range(0, n, _TEXTS_AT_ONCE):
            some = slice(start, start + _TEXTS_AT_ONCE)
            # Nothing has to be read in chunks: what has no order can be read whole.
            read = self.backbone.read(items[some], is_cut=not self.in_chunks)
            vectors[some] = module(WordBatch.of(read.texts, read.counts)).numpy()
            sizes[some], n_unknown[some] = read.sizes, read.n_unknown
            for row in np.flatnonzero(read.counts == 0).tolist():
                vectors[start + row] = 0
                notes[start + row] = NOTHING_KNOWN
            tell(len(read.sizes))
        return AtOnce(vectors, sizes, n_unknown, notes)

    def core(self) -> nn.Module:
        """Return the table, one for all settings; a mapped one takes no memory from others."""
        return shared_model(self.model_key, self._load_core, n_bytes=lambda: self.backbone.n_bytes)

    def _load_core(self) -> nn.Module:
        """Return the table as it is: there is nothing to make faster."""

        def load() -> nn.Module:
            state = getattr(self.backbone, "state", None)
            if state is None or state.method == "head":  # as published
                return self.backbone.shared_core()
            module: Any = self.backbone.load()
            core: nn.Module = module.core
            return core

        return self._loaded(load).eval().requires_grad_(False)
