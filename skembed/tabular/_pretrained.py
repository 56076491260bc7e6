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

from skembed._inputs import CheckedRows
from skembed._optional import import_optional
from skembed._random_state import own_random_state
from skembed.columns import TableRows
from skembed.exceptions import (
    InvalidParameterError,
    InvalidTargetsError,
    ModelNotFoundError,
    TrainingWarning,
    UnsupportedModelError,
    warn_user,
)
from skembed.store import digest_of
from skembed.tabular._backbones import Around, OfTables
from skembed.training import InContext, TrainedState
from skembed.training._targets import Targets
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
        parts = content if isinstance(content, Mapping) else {}
        if not all(isinstance(parts.get(name), Mapping) for name in ("config", "state_dict")):
            raise UnsupportedModelError(
                f"{source.path} is no checkpoint of TabICL: expected 'config' and 'state_dict'."
            )
        return parts

    return kept_recent(("tabicl", source.digest), read)


def keep_context(
    strategy: InContext, model: str, rows: CheckedRows, y: Any, owner: str
) -> TrainedState:
    """Return the good rows, and their targets, that others are to be embedded beside."""
    _library("_model.tabicl")
    strategy, source = _for_its_file(strategy, model)
    targets = check_targets_of(strategy, y, rows, owner)
    if targets.kind == "labels" or (targets.kind == "numbers" and targets.n_outputs > 1):
        raise InvalidTargetsError(f"y: model={model!r} reads one label or number a row.")
    source = source or find_source(model, targets.kind)
    config = _read(source)["config"]
    if not config.get("col_target_aware", True):
        targets = check_targets_of(strategy, None, rows, owner)  # its columns know none
    else:
        _refuse_targets(targets, model, int(config.get("max_classes", 10)))
    items = rows.items
    assert isinstance(items, TableRows)
    kept = _draw(targets, strategy, owner)
    values = np.zeros(len(items)) if targets.kind == "views" else targets.values.reshape(-1)
    if targets.kind == "numbers":
        values = (values - values.mean()) / (values.std() or 1.0)
    width = int(config.get("embed_dim", 128)) * int(config.get("row_num_cls", 4))
    return TrainedState(
        method="context",
        arrays={
            "context": _cells(items.take(kept).arrays),
            "targets": values[kept].astype(np.float32),
            "width": np.array(width),
        },
        base=source.digest.hex(),
        kind=targets.kind,
        classes=targets.classes,
        versions=dict(releases_of("torch", "tabicl")),
    )


def _for_its_file(strategy: InContext, model: str) -> tuple[InContext, FileSource | None]:
    """Return the strategy as a file of the user's asks for: a regressor reads numbers."""
    if model == "tabicl":
        return strategy, None
    source = find_source(model, "views")
    if int(_read(source)["config"].get("max_classes", 10)) == 0:
        strategy = strategy.settled("numbers")
    return strategy, source


def _refuse_targets(targets: Targets, model: str, n_classes: int) -> None:
    """Refuse targets that a checkpoint cannot read; it reads none, so many classes, or numbers."""
    if targets.kind == "views":
        name = _FILES["views"]
        raise InvalidTargetsError(
            f"model={model!r}: this checkpoint reads rows with their targets, and y is None. Give "
            f"y, or the path of one that needs none (`hf download {_REPOSITORY} {name}`)."
        )
    if targets.kind == "numbers" and n_classes:
        raise InvalidTargetsError(
            f"model={model!r}: y is made of numbers, and this checkpoint is a classifier. Give the "
            f"path of a regressor (`hf download {_REPOSITORY} {_FILES['numbers']}`), or classes."
        )
    if targets.kind == "classes" and not n_classes:
        raise InvalidTargetsError(
            f"model={model!r}: y is made of classes, and this checkpoint is a regressor. Give the "
            f"path of a classifier (`hf download {_REPOSITORY} {_FILES['classes']}`), or numbers."
        )
    if targets.kind == "classes" and targets.n_outputs > n_classes:
        raise InvalidTargetsError(
            f"model={model!r} reads {n_classes} classes at most, y has {targets.n_outputs}. If "
            "they are amounts, set training=InContext(loss='squared_error'); else use model='mlp'."
        )


def _draw(targets: Targets, strategy: InContext, owner: str) -> NDArray[np.int64]:
    """Return the places of the rows that are kept, one of each class at least."""
    n_rows = len(targets.values)
    if n_rows <= strategy.max_rows:
        return np.arange(n_rows)
    warn_user(
        f"{owner}: {strategy.max_rows:,} of {n_rows:,} rows are kept for the model to read beside "
        "others; training=InContext(max_rows=...) sets how many.",
        TrainingWarning,
        once=f"context {strategy.max_rows} of {n_rows}",
    )
    order = np.random.default_rng(strategy.random_state).permutation(n_rows)
    if targets.kind == "classes":
        _, first = np.unique(targets.values[order], return_index=True)
        order = np.concatenate([order[first], np.delete(order, first)])
    return np.sort(order[: strategy.max_rows])


def _cells(arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Return rows as numbers (n, features): codes as they are, what is missing in the middle."""
    numbers = np.nan_to_num(arrays["numbers"], nan=0.0)
    return np.concatenate([numbers, arrays["codes"], arrays["dense"]], axis=1, dtype=np.float32)


def _library(module: str) -> Any:
    return import_optional(f"tabicl.{module}", extra="tables", purpose="model='tabicl'")


class ContextBackbone(OfTables):
    """A pretrained model with the rows that it reads beside others.

    `columns` is the digest of what turns cells into numbers.
    """

    source: FileSource

    def __init__(self, source: FileSource, columns: bytes, state: TrainedState) -> None:
        self.source, self._state = source, state
        if state.base != source.digest.hex():
            raise InvalidParameterError(
                f"model: {source.path} is not the checkpoint that this TabularEmbedder was fitted "
                "with. Fit again, or use the same."
            )
        self.name, self.width = source.name, int(state.arrays["width"])
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

    def collate(self, parts: Any) -> dict[str, Tensor]:
        """Return rows as numbers."""
        return {"cells": torch.from_numpy(_cells(parts.arrays))}

    def load(self, *, core: nn.Module | None = None, dtype: torch.dtype | None = None) -> nn.Module:
        """Return the model with its rows."""
        return Around(self._core() if core is None else core).eval()

    def _core(self) -> nn.Module:
        content = _read(self.source)
        with own_random_state():  # its first weights are drawn, and not used
            model = _library("_model.tabicl").TabICL(**content["config"])
        model.load_state_dict(content["state_dict"])
        context, targets = (
            torch.from_numpy(np.array(self._state.arrays[name])) for name in ("context", "targets")
        )
        return _Beside(model.col_embedder, model.row_interactor, context, targets)


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
