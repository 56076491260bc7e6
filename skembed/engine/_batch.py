"""Run one batch on one device: in smaller ones if memory runs out, and fetched while others run.

Knows encoders and tensors, not rows or where batches come from.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skembed._encoder import Encoder
from skembed.engine._devices import is_out_of_memory
from skembed.engine._plan import plan_batches
from skembed.exceptions import MemoryWarning, warn_user
from skembed.weights import free_memory

if TYPE_CHECKING:
    import torch

__all__ = ["begin_to_fetch", "budget_of", "encode_batch"]

_lowered: dict[bytes, int] = {}
"""Budgets of models that ran out of memory, by `Encoder.model_key`: remembered for later calls."""


def budget_of(encoder: Encoder) -> int:
    """Return the most cost of a batch: the encoder's own, or what memory has been enough for."""
    own = encoder.policy.budget
    return min(own, _lowered.get(encoder.model_key, own))


def encode_batch(
    encoder: Encoder,
    parts: list[Any],
    costs: NDArray[np.int64],
    tensors: Any,
    keep: Collection[bytes],
) -> torch.Tensor:
    """Run one batch, assembled or not; when memory runs out, run it in smaller ones.

    `keep` has the keys of the models in use, which are not dropped then.
    """
    import torch

    # Batches that were planned before memory ran out, or for a device that has more of it, are not
    # tried at their old size.
    if len(_pieces(encoder, costs)) == 1:
        try:
            with torch.inference_mode():
                return encoder.encode(encoder.collate(parts) if tensors is None else tensors)
        except Exception as error:
            if not is_out_of_memory(error) or len(parts) == 1:
                raise
        # Out of the handler, so that the failed batch's tensors are gone.
        del tensors
        free_memory(*keep)
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        _lowered[encoder.model_key] = min(budget_of(encoder), int(costs.sum()) // 2)
        warn_user(
            f"Memory ran out on {encoder.device} with {len(parts)} rows at once (cost "
            f"{costs.sum()}); going on with half. Smaller batches from the start: set "
            f"batch_size below {len(parts)}.",
            MemoryWarning,
        )
    return torch.cat(
        [
            encode_batch(encoder, [parts[i] for i in piece], costs[piece], None, keep)
            for piece in _pieces(encoder, costs)
        ]
    )


def _pieces(encoder: Encoder, costs: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Plan the parts of a batch anew, by the present budget; their order stays."""
    return plan_batches(costs, budget=budget_of(encoder), layout=encoder.policy.layout)


def begin_to_fetch(vectors: torch.Tensor) -> Callable[[], NDArray[np.float32]]:
    """Begin to copy vectors to the host; return what waits for the copy and gives it."""
    if vectors.device.type != "cuda":
        return lambda: vectors.cpu().numpy()
    import torch

    # Queued before the next batch, whose end a plain copy made later would wait for.
    on_host = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
    on_host.copy_(vectors, non_blocking=True)
    copied = torch.cuda.current_stream(vectors.device).record_event()

    def fetch() -> NDArray[np.float32]:
        copied.synchronize()
        return on_host.numpy()

    return fetch
