"""Run one batch on one device: in smaller ones where memory runs out, and fetched while others run.

Knows encoders and tensors, not rows nor where batches come from.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from skembed._encoder import Encoder
from skembed.engine._devices import is_out_of_memory
from skembed.engine._plan import plan_batches
from skembed.exceptions import MemoryWarning, warn_user
from skembed.weights import free_memory

__all__ = ["begin_to_fetch", "encode_batch"]


def encode_batch(
    encoder: Encoder, parts: list[Any], tensors: Any, keep: Collection[bytes]
) -> torch.Tensor:
    """Run one batch, assembled or not; when memory runs out, run it in smaller ones.

    `keep` has the keys of the models in use, which are not dropped then.
    """
    costs = np.fromiter((encoder.cost(part) for part in parts), np.int64, len(parts))
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
        encoder.budget = min(encoder.budget, int(costs.sum()) // 2)
        warn_user(
            f"Memory ran out on {encoder.device} with {len(parts)} rows at once (cost "
            f"{costs.sum()}); going on with half. Smaller batches from the start: set "
            f"batch_size below {len(parts)}.",
            MemoryWarning,
        )
    return torch.cat(
        [
            encode_batch(encoder, [parts[i] for i in piece], None, keep)
            for piece in _pieces(encoder, costs)
        ]
    )


def _pieces(encoder: Encoder, costs: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Plan the parts of a batch anew, by the encoder's present budget; their order stays."""
    return plan_batches(costs, budget=encoder.budget, layout=encoder.layout)


def begin_to_fetch(vectors: torch.Tensor) -> Callable[[], NDArray[np.float32]]:
    """Begin to copy vectors to the host; return what waits for the copy and gives it."""
    if vectors.device.type != "cuda":
        return lambda: vectors.cpu().numpy()
    # Queued before the next batch, whose end a plain copy made later would wait for.
    on_host = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
    on_host.copy_(vectors, non_blocking=True)
    copied = torch.cuda.current_stream(vectors.device).record_event()

    def fetch() -> NDArray[np.float32]:
        copied.synchronize()
        return on_host.numpy()

    return fetch
