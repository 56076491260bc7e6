"""What this machine's processor computes fast, and memory that torch frees on it.

Knows instruction sets, number formats and the allocator, not what is computed.
"""

from __future__ import annotations

import functools
import platform
import time
from collections.abc import Callable

from skembed.weights import remembered

__all__ = ["has_int8", "is_bfloat16_faster_on_cpu", "is_onednn_faster_on_cpu", "keep_freed_memory"]

_LEAST_GAIN = 1.3
"""Another way to multiply must be this many times faster on a CPU before it is chosen."""

_BYTES = (32 << 20) - (64 << 10)
"""Just under the largest block (32 MiB) by which glibc's allocator learns."""


def is_bfloat16_faster_on_cpu() -> bool:
    """Return whether this CPU runs linear layers faster in bfloat16.

    It is remembered: as part of every key, it must be the same in all processes of a machine.
    """
    return remembered("cpu-bfloat16", _name(), _probe_bfloat16) == "faster"


@functools.cache
def is_onednn_faster_on_cpu() -> bool:
    """Return whether this CPU multiplies float32 faster by oneDNN than as torch does, by MKL.

    MKL leaves the 512-bit units of AMD's processors idle. It is remembered, so that the same
    training gives the same bits in all processes of a machine.
    """
    return remembered("cpu-onednn", _name(), _probe_onednn) == "faster"


def _name() -> str:
    """Name this machine, and what computes on it."""
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    return f"{platform.node()}/{platform.machine()}/{capability}/torch {torch.__version__}"


def _probe_bfloat16() -> str:
    """Time one linear layer in both formats."""
    import torch
    import torch.nn.functional as F

    def run_in(dtype: torch.dtype) -> Callable[[], object]:
        rows, weight = torch.zeros(256, 384, dtype=dtype), torch.zeros(768, 384, dtype=dtype)
        return lambda: F.linear(rows, weight)

    return _compare(run_in(torch.float32), run_in(torch.bfloat16))


def _probe_onednn() -> str:
    """Time one product in both libraries, and look whether oneDNN's are right."""
    import torch
    import torch.nn.functional as F

    drawn = torch.Generator("cpu").manual_seed(0)
    rows, weight = (
        torch.rand(shape, generator=drawn, dtype=torch.float32, device="cpu")
        for shape in ((256, 384), (768, 384))
    )

    def multiply(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        # It is private to torch, and may change.
        found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            *(rows, weight, None, "none", [], "")
        )
        return found

    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        try:
            for a, b in ((rows, weight), (rows, weight[:384].T), (rows.T, rows.T)):
                if not torch.allclose(multiply(a, b), F.linear(a, b), rtol=1e-3):
                    return "wrong"
        except (AttributeError, RuntimeError, TypeError):
            return "missing"
        return _compare(lambda: F.linear(rows, weight), lambda: multiply(rows, weight))


def _compare(plain: Callable[[], object], other: Callable[[], object]) -> str:
    """Time two ways without gradients, a few milliseconds in all; say how the second does."""
    import torch

    n_threads = torch.get_num_threads()
    try:
        # One thread: what the core can do, not what its neighbours leave.
        torch.set_num_threads(1)
        with torch.no_grad():
            seconds = [_least_seconds(run) for run in (plain, other)]
    finally:
        torch.set_num_threads(n_threads)
    return "faster" if seconds[0] > _LEAST_GAIN * seconds[1] else "slower"


def _least_seconds(run: Callable[[], object]) -> float:
    times = []
    for _ in range(6):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def has_int8() -> bool:
    """Return whether this CPU multiplies 8-bit numbers and this torch can ask it to."""
    import torch

    is_supported = getattr(torch.cpu, "_is_vnni_supported", None)
    return (
        is_supported is not None
        and bool(is_supported())
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.onednn, "qlinear_pointwise")
    )


@functools.cache
def keep_freed_memory() -> None:
    """Make the allocator keep up to 64 MiB that were freed instead of giving them back at once.

    A model frees and asks for the same few large tensors in every layer. By default glibc gives
    such memory back to the system each time and pays a page fault for every 4 KiB it gets again:
    11,000 for a batch of 4,096 tokens through MiniLM, 7 to 9% of its time. Freeing one block of
    32 MiB, which is never written to, raises the size that it keeps (`M_MMAP_THRESHOLD` in
    mallopt(3)). Has no effect with other allocators, nor where the user has set that size.
    """
    import torch

    torch.empty(_BYTES, dtype=torch.uint8)
