"""Embeddings for scikit-learn: raw rows in, vectors out, inside any Pipeline.

Public names are loaded on first use: `import skembed` does not import torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from skembed._later import import_torch
from skembed._models import ModelInfo
from skembed.exceptions import InvalidParameterError, did_you_mean
from skembed.store import announce_run

if TYPE_CHECKING:
    from skembed._base import BaseEmbedder
    from skembed._encoder import BatchPolicy, Encoder, Fault, Prepared
    from skembed.audio import AudioEmbedder
    from skembed.function import FunctionEmbedder
    from skembed.image import ImageEmbedder
    from skembed.inspection import EmbeddingMapDisplay
    from skembed.store import EmbeddingStore
    from skembed.tabular import TabularEmbedder
    from skembed.text import TextEmbedder
    from skembed.training import (
        Contrastive,
        FineTune,
        InContext,
        SelfSupervised,
        TrainedState,
        TrainingCurveDisplay,
        WordWeights,
    )
    from skembed.weights import unload_models

__version__ = "0.1.0"

_HOMES = {
    "AudioEmbedder": "skembed.audio",
    "BaseEmbedder": "skembed._base",
    "BatchPolicy": "skembed._encoder",
    "Contrastive": "skembed.training",
    "EmbeddingMapDisplay": "skembed.inspection",
    "EmbeddingStore": "skembed.store",
    "Encoder": "skembed._encoder",
    "Fault": "skembed._encoder",
    "FineTune": "skembed.training",
    "FunctionEmbedder": "skembed.function",
    "ImageEmbedder": "skembed.image",
    "InContext": "skembed.training",
    "Prepared": "skembed._encoder",
    "SelfSupervised": "skembed.training",
    "TabularEmbedder": "skembed.tabular",
    "TextEmbedder": "skembed.text",
    "TrainedState": "skembed.training",
    "TrainingCurveDisplay": "skembed.training",
    "WordWeights": "skembed.training",
    "unload_models": "skembed.weights",
}
_MODULES = ("exceptions", "inspection", "model_selection", "neighbors", "testing")
_ROOMS = ("text", "image", "audio")

__all__ = [
    "AudioEmbedder",
    "BaseEmbedder",
    "BatchPolicy",
    "Contrastive",
    "EmbeddingMapDisplay",
    "EmbeddingStore",
    "Encoder",
    "Fault",
    "FineTune",
    "FunctionEmbedder",
    "ImageEmbedder",
    "InContext",
    "ModelInfo",
    "Prepared",
    "SelfSupervised",
    "TabularEmbedder",
    "TextEmbedder",
    "TrainedState",
    "TrainingCurveDisplay",
    "WordWeights",
    "__version__",
    "exceptions",
    "inspection",
    "list_models",
    "model_selection",
    "neighbors",
    "testing",
    "unload_models",
]

# Worker processes inherit the name of this run's store, so it must be set before they start.
announce_run()


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        if name in ("AudioEmbedder", "FunctionEmbedder", "ImageEmbedder"):  # they import torch
            import_torch()
        value = getattr(import_module(_HOMES[name]), name)
    elif name in _MODULES:
        value = import_module(f"skembed.{name}")
    else:
        listed = ", ".join(each for each in __all__ if each[0] != "_")
        message = (
            f"module 'skembed' has no attribute {name!r}."
            f"{did_you_mean(name, __all__, cutoff=0.85)} It has {listed}."
        )
        # `from skembed import x` asks first, and would replace an AttributeError by its own.
        if name[0] != "_" and sys._getframe(1).f_code.co_name == "_handle_fromlist":
            raise ImportError(message)
        raise AttributeError(message)
    globals()[name] = value
    return value


def list_models(kind: str | None = None) -> list[ModelInfo]:
    """Return the models that skembed knows by name; other hub ids and folders work too.

    Parameters
    ----------
    kind : {"text", "image", "audio"} or None
        What they embed; None is all kinds: a model for several kinds has a row for each.

    Returns
    -------
    models : list of ModelInfo
        Each with name, width, licence, source and note; `pandas.DataFrame(list_models("image"))`
        makes a table of them.

    Examples
    --------
    >>> import skembed
    >>> skembed.list_models("audio")[0].name
    'logmel'
    """
    if kind is not None and kind not in _ROOMS:
        raise InvalidParameterError(
            f"kind={kind!r}: expected one of {', '.join(map(repr, _ROOMS))}, or None."
            f"{did_you_mean(kind, _ROOMS)}"
        )
    import_torch()  # as the rooms do
    rooms = _ROOMS if kind is None else (kind,)
    tables = [import_module(f"skembed.{room}._models").MODELS for room in rooms]
    return [info for table in tables for info in table.values()]


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_MODULES})
