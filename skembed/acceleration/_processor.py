"""What this machine's processor computes fast, and memory that torch frees on it.

Knows instruction sets, number formats and the allocator, not what is computed.
"""

from __future__ import annotations

import functools
import platform
import time

from skembed.weights import remembered

__all__ = ["has_int8", "is_bfloat16_faster_on_cpu", "keep_freed_memory"]

_LEAST_GAIN = 1.3
"""bfloat16 must be this many times faster than float32 on a CPU before it is chosen."""

_BYTES = (32 << 20) - (64 << 10)
"""Just under the largest block (32 MiB) by which glibc's allocator learns."""


def is_bfloat16_faster_on_cpu() -> bool:
    """Return whether this CPU runs linear layers faster in bfloat16.

    It is remembered: as part of every key, it must be the same in all processes of a machine.
    """
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    name = f"{platform.node()}/{platform.machine()}/{capability}/torch {torch.__version__}"
    return remembered("cpu-bfloat16", name, _probe_bfloat16) == "faster"


def _probe_bfloat16() -> str:
    """Time one linear layer in both formats, a few milliseconds in all."""
    import torch

    n_threads = torch.get_num_threads()
    seconds = {}
    try:
        # One thread: what the core can do, not what its neighbours leave.
        torch.set_num_threads(1)
        for dtype in (torch.float32, torch.bfloat16):
            layer = torch.nn.Linear(384, 768, dtype=dtype).requires_grad_(False)
            rows = torch.zeros(256, 384, dtype=dtype)
            times = []
            for _ in range(6):
                start = time.perf_counter()
                layer(rows)
                times.append(time.perf_counter() - start)
            seconds[dtype] = min(times)
    finally:
        torch.set_num_threads(n_threads)
    is_faster = seconds[torch.float32] > _LEAST_GAIN * seconds[torch.bfloat16]
    return "faster" if is_faster else "slower"


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
