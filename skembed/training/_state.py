"""What an embedder has learned: arrays by name, and what they were learned from. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TrainedState"]


@dataclass(frozen=True, eq=False)
class TrainedState:
    """What `fit` has learned, as NumPy arrays: pickled without a device or a training library.

    Attributes
    ----------
    method : {"full", "lora", "head", "context", "weights"}
        What was trained; "context": nothing, rows are kept; "weights": those of words were counted.
    arrays : dict of str to ndarray
        Trained weights, by their names in the model's module; of "lora" the matrices alone, by the
        layer's name and ".lora_A" or ".lora_B"; of "head" the "projection.weight" (d, d) and the
        "projection.bias" (d,); of "context" the rows (n, features) and their "targets" (n,); of
        "weights" the "rows" of words, their "weights" (n,), that of any "other", and for SIF the
        common "component" (d,).
    base : str
        Digest of the weights that were trained.
    made_with : dict of str to str
        The parameters that decided what was learned, as text.
    history : dict of str to list
        Of each epoch, the first (0) before training.
    lora_scale : float
        Factor of the product of LoRA's matrices.
    head : dict of str to ndarray
        What stood on top of the vectors while training, to go on from.
    kind : {"classes", "labels", "numbers", "views", ...}
        What was learned from; "views" where it was rows alone.
    classes : ndarray or None
        The classes, in the order of the head's outputs.
    versions : dict of str to str
        Releases of the libraries that trained.
    """

    method: str
    arrays: dict[str, NDArray[Any]]
    base: str
    made_with: dict[str, str] = field(default_factory=dict)
    history: dict[str, list[Any]] = field(default_factory=dict)
    lora_scale: float = 1.0
    head: dict[str, NDArray[Any]] = field(default_factory=dict)
    kind: str = ""
    classes: NDArray[Any] | None = None
    versions: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        n_values = sum(array.size for array in self.arrays.values())
        return f"TrainedState(method={self.method!r}, {n_values:,} values, {self.n_epochs} epochs)"

    def __getstate__(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)}  # not the digests

    @property
    def n_epochs(self) -> int:
        """How many epochs it was trained for."""
        return int(max(self.history.get("epoch", [0])))

    @cached_property
    def digest(self) -> bytes:
        """Content digest of the weights: of all that changes vectors."""
        return self._digest_of(self.arrays)

    @cached_property
    def core_digest(self) -> bytes:
        """Digest of the weights inside of the model's core."""
        return self._digest_of(
            {name: array for name, array in self.arrays.items() if name.startswith("core.")}
        )

    @property
    def start_digest(self) -> bytes:
        """Digest of all that training goes on from."""
        head = {f"head:{name}": array for name, array in self.head.items()}
        classes = None if self.classes is None else self.classes.tolist()
        told = np.frombuffer(repr((self.kind, classes)).encode(), dtype=np.uint8)
        return self._digest_of({**self.arrays, **head, "head of": told})

    def _digest_of(self, arrays: Mapping[str, NDArray[Any]]) -> bytes:
        found = blake2b(f"{self.method} {self.lora_scale!r}".encode(), digest_size=16)
        for name in sorted(arrays):
            array = np.ascontiguousarray(arrays[name])
            found.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
            found.update(array.reshape(-1).view(np.uint8).data)
        return found.digest()
