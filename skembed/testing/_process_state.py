"""What an embedder shares with everyone in its process: random state and global settings."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np

__all__ = ["read_random_states", "read_settings"]


def read_random_states() -> dict[str, str]:
    """Return a hash of each global random generator's state."""
    states: dict[str, Any] = {
        "random": random.getstate(),
        "numpy.random": np.random.get_state(),  # noqa: NPY002 (the generator that others share)
    }
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        states["torch"] = torch.random.get_rng_state().numpy()
    if torch is not None and torch.cuda.is_initialized():
        states["torch.cuda"] = [state.numpy() for state in torch.cuda.get_rng_state_all()]
    return {name: str(joblib.hash(state)) for name, state in states.items()}


def read_settings() -> dict[str, Any]:
    """Return the settings of the process that no embedder has any business with."""
    settings: dict[str, Any] = {
        "working directory": str(Path.cwd()),
        "numpy.geterr": np.geterr(),
        "numpy.get_printoptions": repr(np.get_printoptions()),
    }
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        settings["torch.is_grad_enabled"] = torch.is_grad_enabled()
        settings["torch.get_default_dtype"] = torch.get_default_dtype()
        settings["torch.get_num_threads"] = torch.get_num_threads()
    return settings
