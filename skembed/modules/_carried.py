"""Modules in the pickles of estimators: joblib's workers are sent each of them once.

Anywhere else a pickle holds the module itself. Knows modules, not estimators.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import cloudpickle
from joblib.externals.loky.backend.reduction import register
from torch import nn

from skembed.exceptions import SkembedError
from skembed.store import live_run_folder
from skembed.weights import fingerprint, kept_recent

__all__ = ["Carried"]


class Carried:
    """A module within a pickle, which is read as the module.

    On its way to a worker of joblib it is a file in the run's folder, by the module's content: a
    search pickles its estimator for every task.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __reduce__(self) -> tuple[Callable[..., nn.Module], tuple[Any, ...]]:
        return _itself, (self.module,)


def _itself(module: nn.Module) -> nn.Module:
    return module


def _as_file(carried: Carried) -> tuple[Callable[..., nn.Module], tuple[Any, ...]]:
    folder = live_run_folder()
    if folder is None:
        return carried.__reduce__()
    try:
        path = folder / f"module-{fingerprint(carried.module).hex()}"
        if not path.exists():
            written = path.with_name(f"{path.name}-{uuid4().hex}")
            written.write_bytes(cloudpickle.dumps(carried.module))
            written.replace(path)
    except (OSError, SkembedError):  # a full disk; what has no fingerprint says so when it is used
        return carried.__reduce__()
    return _from_file, (str(path),)


def _from_file(path: str) -> nn.Module:
    """Return the module in a file of the user's own, the same one for every task of a process."""
    module: nn.Module = kept_recent(("module", path), lambda: pickle.loads(Path(path).read_bytes()))
    return module


register(Carried, _as_file)
