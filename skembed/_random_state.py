"""torch's random state, of which a process has one for the CPU and one for each GPU.

Knows threads, not what is drawn.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from skembed._forks import one_at_a_time

if TYPE_CHECKING:
    import torch

__all__ = [
    "own_random_state",
    "random_state_of",
    "same_random_state",
    "seed_random_state",
    "set_random_state",
]


@contextlib.contextmanager
def own_random_state(seed: int | None = None) -> Iterator[None]:
    """Let no other thread of skembed draw meanwhile, and leave the CPU's state as it was."""
    import torch

    with one_at_a_time(), torch.random.fork_rng([]):
        if seed is not None:
            torch.default_generator.manual_seed(int(seed))
        yield


@contextlib.contextmanager
def same_random_state(device: torch.device) -> Iterator[None]:
    """Leave the states of the CPU and a GPU as they were; other threads may draw meanwhile."""
    import torch

    kept = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with one_at_a_time():
        kept.__enter__()
    try:
        yield
    finally:
        with one_at_a_time():
            kept.__exit__(None, None, None)


def seed_random_state(device: torch.device, value: int) -> None:
    """Seed the random numbers of the CPU and of a device.

    `torch.manual_seed` asks for a GPU on a machine without one, and keeps a traceback each time
    in case there will be one: a millisecond, and memory, in every step.
    """
    import torch

    value = int(value)  # torch takes none of NumPy's
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(value)
    elif device.type == "mps":
        torch.mps.manual_seed(value)


def random_state_of(device: torch.device) -> Any:
    """Return the states of the CPU and of a device, for `set_random_state`."""
    import torch

    of_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), of_device


def set_random_state(device: torch.device, state: Any) -> None:
    """Bring back the states of the CPU and of a device."""
    import torch

    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
