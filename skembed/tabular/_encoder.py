"""Runs a network on the rows of a table, all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from skembed._encoder import AtOnce, BatchPolicy
from skembed.acceleration import speed_up_linear
from skembed.columns import TableEncoder, TableRows
from skembed.engine import BackboneEncoder
from skembed.tabular._backbones import TableBackbone
from skembed.tabular._pretrained import ContextBackbone, find_source
from skembed.tabular._settings import TableSettings
from skembed.training import TrainedState
from skembed.training._trained import drop_with_state, serve

__all__ = ["TabularEncoder", "find_encoder"]

_ROWS_AT_ONCE = 4096


class TabularEncoder(BackboneEncoder):
    """Encodes rows of a table; to look for their vectors would take longer than to make them."""

    uses_store = False

    @property
    def policy(self) -> BatchPolicy:
        """Rows all cost the same."""
        return BatchPolicy(self._rows_at_once)

    @property
    def _rows_at_once(self) -> int:
        return int(getattr(self.backbone, "rows_at_once", _ROWS_AT_ONCE))

    def contents(self, items: Sequence[Any]) -> Iterable[bytes]:
        """Return the bytes of each row's numbers and codes."""
        assert isinstance(items, TableRows)
        return items.contents()

    def collate(self, parts: Any) -> Any:
        """Return the arrays of rows on the device."""
        batch = self.backbone.collate(parts)
        return {name: tensor.to(self.torch_device) for name, tensor in batch.items()}

    def _load_core(self) -> nn.Module:
        """Return the network, whose layers are too small to be made faster in other ways."""
        module: Any = self._loaded(self.backbone.load)
        core: nn.Module = module.core
        if self.torch_device.type == "cpu":
            speed_up_linear(core)
        return core.eval().requires_grad_(False).to(self.torch_device)

    @torch.inference_mode()
    def at_once(self, items: Sequence[Any], tell: Callable[[int], None]) -> AtOnce:
        """Return the vectors of all rows."""
        assert isinstance(items, TableRows)
        vectors = np.empty((len(items), self.full_width), dtype=np.float32)
        module, step = self._module(), self._rows_at_once
        for start in range(0, len(items), step):
            some = slice(start, start + step)
            vectors[some] = module(self.collate(items[some])).cpu().numpy()
            tell(min(step, len(items) - start))
        return AtOnce(vectors)


def find_encoder(
    settings: TableSettings, columns: TableEncoder, device: torch.device, state: TrainedState | None
) -> TabularEncoder:
    """Return the encoder of a network for some columns, with what it has learned."""
    if state is not None and state.method == "context":
        source = find_source(settings.model, state.kind)
        beside = ContextBackbone(source, columns.digest, state)
        return drop_with_state(state, TabularEncoder(beside, settings, device))
    backbone: Any = TableBackbone(settings, columns.shape, columns.digest)
    if state is None:
        return TabularEncoder(backbone, settings, device)
    trained = serve(backbone, state, "TabularEmbedder")
    return drop_with_state(state, TabularEncoder(trained, settings, device))
