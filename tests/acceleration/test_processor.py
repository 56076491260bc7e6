"""Freed memory is used again: page faults are counted, not seconds."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource
import torch
from skembed.acceleration import keep_freed_memory

torch.set_num_threads(1)

def count_faults():
    def use():  # 48 MiB in all
        tensors = [torch.ones(12 << 18) for _ in range(4)]

    use()
    use()  # the allocator learns from what is freed
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        use()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
print(count_faults())
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc's allocator gives memory back at once"
)
def test_freed_memory_is_used_again():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    # By default 122,560 here, all pages of 4 KiB anew each time (3,072 are one of 40 tensors).
    assert int(done.stdout) < 10_000
