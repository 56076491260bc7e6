"""The same training is not done twice: what it learned is kept by all that decides it.

Knows states and what they are made of, not how they are learned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import blake2b
from typing import Any

from numpy.typing import NDArray

from skembed._inputs import CheckedRows
from skembed.engine import BackboneEncoder, keys_of
from skembed.exceptions import StoreWarning, UnsupportedModelError, warn_user
from skembed.store import EmbeddingStore, content_key, digest_of
from skembed.training._packed import pack, under, unpack
from skembed.training._state import TrainedState
from skembed.training._strategy import Strategy
from skembed.training._targets import Targets
from skembed.weights import fingerprint, releases_of

__all__ = ["key_of_training", "train_once"]

_FORMAT = 4
"""Raised when a change to skembed changes what is learned, so that what was kept is not reused."""


def key_of_training(
    strategy: Strategy,
    encoder: BackboneEncoder,
    rows: CheckedRows,
    targets: Targets,
    made_with: Mapping[str, str],
    computes_in: str,
    before: TrainedState | None = None,
) -> bytes | None:
    """Return the digest of all that decides what is learned from rows.

    It takes in the content of rows in their order, targets, weights, the weights of the model and
    all that decides its vectors, what was learned before, parameters, releases of libraries, the
    type of the device and the format that products are computed in. None where two trainings
    differ: without a seed, and with parameters that cannot be pickled.
    """
    if strategy.random_state is None:
        return None
    try:
        parameters = fingerprint(strategy.deciding())
    except UnsupportedModelError:
        return None
    frozen = encoder.unfinished()
    return digest_of(
        {
            "training": _FORMAT,
            "rows": [rows.n_sides, blake2b(keys_of(frozen, rows.items).tobytes()).digest()],
            "cut": [frozen.limit, frozen.cut_digest],
            "targets": _digest_of(targets),
            "base": encoder.backbone.source.digest,
            "before": None if before is None else before.start_digest,
            "parameters": [parameters, dict(made_with)],
            "finish": [encoder.n_components, bool(encoder.normalize)],
            "place": [encoder.torch_device.type, computes_in],
            "releases": releases_of("numpy", "sklearn", "torch"),
        }
    )


def train_once(
    store: EmbeddingStore | None,
    key: bytes | None,
    train: Callable[[], TrainedState],
    *,
    made_with: Mapping[str, str],
    classes: NDArray[Any] | None,
) -> TrainedState:
    """Return what the store has kept of a training, or train and keep it.

    Of the processes and threads that share the store, one trains; the others wait for it.
    `made_with` and `classes` are what the state says of them.
    """
    if store is None or key is None:
        return train()
    with store.in_turn(content_key(b"a turn", key)):
        kept = store.get_large(key)
        if kept is not None:
            try:
                return replace(_unpacked(kept), made_with=dict(made_with), classes=classes)
            except ValueError as error:
                warn_user(
                    f"What was learned before from these rows is kept in {store.path}, but "
                    f"{error}. The model is trained again.",
                    StoreWarning,
                )
        state = train()
        store.put_large(key, _packed(state))
        return state


def _digest_of(targets: Targets) -> bytes:
    found = blake2b(f"{targets.kind} {targets.values.dtype.str} {targets.values.shape}".encode())
    found.update(targets.values.tobytes())
    found.update(targets.weights.tobytes())
    if targets.classes is not None:  # by their names some scorers know which is positive
        found.update(repr((targets.classes.dtype.str, targets.classes.tolist())).encode())
    return found.digest()


_FACTS = ("method", "base", "kind", "history", "lora_scale", "versions")


def _packed(state: TrainedState) -> list[memoryview]:
    arrays = {f"array:{name}": array for name, array in state.arrays.items()}
    arrays |= {f"head:{name}": array for name, array in state.head.items()}
    return pack(arrays, {name: getattr(state, name) for name in _FACTS})


def _unpacked(data: bytes) -> TrainedState:
    arrays, facts = unpack(data)
    return TrainedState(arrays=under("array", arrays), head=under("head", arrays), **facts)
