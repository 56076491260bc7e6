"""Pretrained models of tables: TabICL's, which read rows beside those that they embed.

Each row becomes what the model makes of it from its own cells and the columns of the rows kept in
`fit`, before any prediction (Qu et al. 2025, arXiv:2502.05564; 2026, arXiv:2602.11139).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skembed._backbone import Backbone, Ending, Exported
from skembed._inputs import CheckedRows
from skembed._optional import import_optional
from skembed.columns import TableRows
from skembed.exceptions import (
    InvalidParameterError,
    InvalidTargetsError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from skembed.store import digest_of
from skembed.tabular._backbones import Around
from skembed.training import InContext, TrainedState
from skembed.training._ways import check_targets_of
from skembed.weights import FileSource, fetch_file, kept_recent, load_content, releases_of

__all__ = ["ContextBackbone", "find_source", "keep_context"]

_REPOSITORY = "jingang/TabICL"
_FILES = {
    "classes": "tabicl-classifier-v2-20260212.ckpt",
    "numbers": "tabicl-regressor-v2-20260212.ckpt",
    "views": "tabicl-classifier-v1.1-20250506.ckpt",  # its columns know no targets
}
"""The checkpoint for each kind of targets."""

_CELLS_AT_ONCE = 100_000


def find_source(model: str, kind: str) -> FileSource:
    """Return the checkpoint of a model for one kind of targets, "views" where there are none."""
    if model != "tabicl":
        path = Path(model).expanduser()
        if not path.is_file():
            raise ModelNotFoundError(f"model={model!r}: no such file.")
        return FileSource(model, path)
    name = _FILES[kind]
    found = fetch_file(_REPOSITORY, name)
    if found.folder is None:
        raise ModelNotFoundError(
            f"model='tabicl' needs {name} of {_REPOSITORY}. {found.place}: {found.result}. Fetch "
            f"it on a machine with a network (`hf download {_REPOSITORY} {name}`) and give its "
            "path: TabularEmbedder('path/to/the/file.ckpt')."
        ) from found.error
    return FileSource(model, found.folder)


def _read(source: FileSource) -> Mapping[str, Any]:
    """Return the configuration of a checkpoint and its weights."""

    def read() -> Mapping[str, Any]:
        content = source.read(lambda: load_content(source.path))
        if not isinstance(content, Mapping) or not {"config", "state_dict"} <= set(content):
            raise UnsupportedModelError(
                f"{source.path} is no checkpoint of TabICL: expected 'config' and 'state_dict'."
            )
        return content

    return kept_recent(("tabicl", source.digest), read)


def keep_context(
    strategy: InContext, model: str, rows: CheckedRows, y: Any, owner: str
) -> TrainedState:
    """Return the good rows, and their targets, that others are to be embedded beside."""
    _library("_model.tabicl")
    targets = check_targets_of(strategy, y, rows, owner)
    source = find_source(model, targets.kind)
    config, kind = _read(source)["config"], targets.kind
    knows_targets = bool(config.get("col_target_aware", True))
    n_classes = int(config.get("max_classes", 10))
    if kind == "views" and knows_targets:
        raise InvalidTargetsError(
            f"{source.name}: this checkpoint reads rows with their targets, and y is None. Give y, "
            f"or a checkpoint that needs none: {_FILES['views']}."
        )
    if kind in ("classes", "numbers") and knows_targets and (kind == "numbers") != (n_classes == 0):
        needed = "a regressor" if kind == "numbers" else "a classifier"
        raise InvalidTargetsError(f"{source.name}: y is made of {kind}, which {needed} reads.")
    if kind == "classes" and knows_targets and targets.n_outputs > n_classes:
        raise InvalidTargetsError(
            f"{source.name} reads {n_classes} classes at most, got {targets.n_outputs}."
        )
    if kind == "labels" or (kind == "numbers" and targets.n_outputs > 1):
        raise InvalidTargetsError(f"{source.name} reads one label or number a row, got several.")
    items, n_rows = rows.items, len(rows.items)
    assert isinstance(items, TableRows)
    values = np.zeros(n_rows)
    if kind != "views":
        values = targets.values.reshape(-1).astype(np.float64)
    if kind == "numbers":
        values = (values - values.mean()) / (values.std() or 1.0)
    kept = np.arange(n_rows)
    if n_rows > strategy.max_rows:
        rng = np.random.default_rng(strategy.random_state)
        kept = np.sort(rng.permutation(n_rows)[: strategy.max_rows])
    return TrainedState(
        method="context",
        arrays={
            "context": _cells(items.take(kept).arrays),
            "targets": values[kept].astype(np.float32),
        },
        base=source.digest.hex(),
        kind=kind,
        classes=targets.classes,
        versions=dict(releases_of("torch", "tabicl")),
    )


def _cells(arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Return rows as numbers (n, features): codes as they are, what is missing in the middle."""
    numbers = np.nan_to_num(arrays["numbers"], nan=0.0)
    return np.concatenate([numbers, arrays["codes"], arrays["dense"]], axis=1, dtype=np.float32)


def _library(module: str) -> Any:
    return import_optional(f"tabicl.{module}", extra="tables", purpose="model='tabicl'")


class ContextBackbone(Backbone):
    """A pretrained model with the rows that it reads beside others.

    `columns` is the digest of what turns cells into numbers.
    """

    prefers_float32 = True
    source: FileSource

    def __init__(self, source: FileSource, columns: bytes, state: TrainedState) -> None:
        self.source, self._state = source, state
        if state.base != source.digest.hex():
            raise InvalidParameterError(
                f"model: {source.path} is not the checkpoint that this TabularEmbedder was fitted "
                "with. Fit again, or use the same."
            )
        config = _read(source)["config"]
        self.name = source.name
        self.width = int(config.get("embed_dim", 128)) * int(config.get("row_num_cls", 4))
        n_features = state.arrays["context"].shape[1]
        self.rows_at_once = max(16, min(4096, _CELLS_AT_ONCE // max(1, n_features)))
        self.digest = digest_of(
            {
                "context": source.digest,
                "rows": state.digest,
                "columns": columns,
                "releases": releases_of("tabicl"),
            }
        )

    def prepare(self, item: Any, rng: np.random.Generator | None = None) -> Any:
        """Return the row as it is."""
        return item

    def cost(self, part: Any) -> int:
        """Return that each row costs the same."""
        return 1

    def collate(self, parts: Any) -> dict[str, Tensor]:
        """Return rows as numbers."""
        return {"cells": torch.from_numpy(_cells(parts.arrays))}

    def load(self, *, core: nn.Module | None = None, dtype: torch.dtype | None = None) -> nn.Module:
        """Return the model with its rows."""
        return Around(self._core() if core is None else core).eval()

    def _core(self) -> nn.Module:
        content = _read(self.source)
        with torch.random.fork_rng([]):  # its first weights are drawn, and not used
            model = _library("_model.tabicl").TabICL(**content["config"])
        model.load_state_dict(content["state_dict"])
        context, targets = (
            torch.from_numpy(np.array(self._state.arrays[name])) for name in ("context", "targets")
        )
        return _Beside(model.col_embedder, model.row_interactor, context, targets)

    def export(self, module: nn.Module, folder: Path, ending: Ending) -> Exported:
        """Refuse: no other library would know the columns."""
        raise UnsupportedModelError(
            "A model of tables cannot be exported: no other library knows its columns. Pickle the "
            "embedder."
        )


class _Beside(nn.Module):
    """Rows as the model reads them beside others: its columns, then the cells of each row.

    Shape: "cells" (n, features) -> (n, width).
    """

    mean: Tensor
    scale: Tensor
    context: Tensor
    targets: Tensor
    columns: Any

    def __init__(
        self, columns: nn.Module, rows: nn.Module, context: Tensor, targets: Tensor
    ) -> None:
        super().__init__()
        self.columns, self.rows = columns, rows
        scale = context.std(0, correction=0) if len(context) > 1 else torch.ones(context.shape[1])
        for name, tensor in (
            ("mean", context.mean(0)),
            ("scale", torch.where(scale > 0, scale, 1.0)),
            ("context", context),
            ("targets", targets),
        ):
            self.register_buffer(name, tensor, persistent=False)
        self._known: Any = None

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return vectors."""
        if self._known is None:
            self._known = self._read(self.context, self.targets)
        embedded = self._embed(batch["cells"], self._known, use_cache=True, store_cache=False)
        vectors: Tensor = self.rows(embedded, mgr_config=self._settings("ROW_CONFIG"))
        return vectors[0]

    def _read(self, context: Tensor, targets: Tensor) -> Any:
        """Return what the columns say of the rows that are kept."""
        known = _library("_model.kv_cache").KVCache()
        self._embed(context, known, y_train=targets[None], use_cache=False, store_cache=True)
        return known

    def _embed(self, cells: Tensor, known: Any, **how: Any) -> Tensor:
        scaled = (cells - self.mean) / self.scale
        embedded: Tensor = self.columns.forward_with_cache(
            scaled[None], known, mgr_config=self._settings("COL_CONFIG"), **how
        )
        return embedded

    def _settings(self, part: str) -> Any:
        config = _library("_model.inference_config").InferenceConfig()
        config.update_from_dict(
            {part: {"device": self.mean.device, "use_amp": False, "use_fa3": False}}
        )
        return getattr(config, part)
