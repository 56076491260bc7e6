"""The parameters that decide a vector of a row. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sklearn.utils.validation import _num_samples

from skembed._backbone import ModelSettings
from skembed.exceptions import did_you_mean
from skembed.training import FineTune, InContext, SelfSupervised, Strategy

__all__ = ["TableSettings", "choose_training", "fault_of_model", "is_pretrained"]

_NETWORKS = ("mlp", "resnet", "ft_transformer", "tabm")
_LEAST_LABELS = 50
_N_FOLDS = 5


def is_pretrained(model: object) -> bool:
    """Return whether a model is a pretrained one, by its name or its file's."""
    return model == "tabicl" or (isinstance(model, (str, Path)) and str(model).endswith(".ckpt"))


def fault_of_model(model: object, n_components: object, training: object) -> str | None:
    """Return what is wrong with a model, alone or beside what else is asked for."""
    if not is_pretrained(model):
        if model not in _NETWORKS:
            known = (*_NETWORKS, "tabicl")
            close = did_you_mean(str(model), known)
            listed = ", ".join(map(repr, known))
            return f"model={model!r}: expected one of {listed}, or a .ckpt file of TabICL.{close}"
        if model == "tabm" and getattr(training, "method", "") == "lora":
            return (
                "training__method='lora': the layers of model='tabm' share their weights already. "
                "Use method='full', or another model."
            )
        if isinstance(training, InContext):
            return f"training=InContext(...): model={model!r} is trained, it reads no other rows."
        return None
    if n_components != "auto":
        return f"n_components={n_components!r}: model={model!r} has its own; add a PCA for fewer."
    if training != "auto" and not isinstance(training, InContext):
        name = type(training).__name__
        return f"training={name}(...): model={model!r} is not trained. Use 'auto' or InContext()."
    return None


def choose_training(model: object, y: Any, *, is_step: bool) -> Strategy:
    """Return what "auto" stands for; `is_step`: more labels may come."""
    if is_pretrained(model):
        return InContext(cross_fit=None if y is None else _N_FOLDS)
    has_labels = y is not None and (is_step or not _has_few(y))
    return FineTune(cross_fit=_N_FOLDS) if has_labels else SelfSupervised()


def _has_few(y: Any) -> bool:
    """Return whether labels are too few to learn from; what is no collection is refused later."""
    try:
        return bool(_num_samples(y) < _LEAST_LABELS)
    except TypeError:
        return False


@dataclass(frozen=True)
class TableSettings(ModelSettings):
    """The parameters that decide a vector, beside the columns: a network's width and its seed."""

    width: int = 64
    seed: int = 0
    columns: tuple[tuple[str, str], ...] | None = None
