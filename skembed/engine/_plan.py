"""Batches by cost.

Knows costs and limits, not what is in a batch. Parts are planned from the costliest down, so that
neighbours in a batch cost about the same and memory problems show up in the first batch.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Layout", "plan_batches"]

Layout = Literal["packed", "padded", "equal"]
"""How parts of different cost share a batch.

- "packed": end to end, nothing between them; any mix.
- "padded": padded to the costliest; only near-equal costs are mixed.
- "equal": only parts of exactly the same cost.
"""

_LEAST_FILL = 0.85
"""A part joins a padded batch if it fills at least this share of its place."""


def plan_batches(
    costs: NDArray[np.int64],
    *,
    budget: int,
    layout: Layout = "packed",
    max_parts: int | None = None,
) -> list[NDArray[np.int64]]:
    """Cut parts into batches: positions, each once, by falling cost; equal costs keep their order.

    Costs are at least 1. `budget` is the most cost of a batch, padding included; one part may
    exceed it alone.
    """
    order = np.argsort(-costs, kind="stable")
    batches: list[NDArray[np.int64]] = []
    start = 0
    while start < len(order):
        rest = costs[order[start:]]
        largest = int(rest[0])
        if layout == "packed":
            n_fitting = int(np.searchsorted(np.cumsum(rest), budget, side="right"))
        else:
            least = largest if layout == "equal" else _LEAST_FILL * largest
            n_alike = int(np.searchsorted(-rest, -least, side="right"))
            n_fitting = min(n_alike, budget // largest)
        stop = start + max(1, min(n_fitting, max_parts or n_fitting))
        batches.append(order[start:stop])
        start = stop
    return batches
