"""Freed memory is used again: page faults are counted, not seconds."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource
import torch
from skembed.engine import keep_freed_memory

torch.set_num_threads(1)

def count_faults():
    for _ in range(3):  # the allocator learns from what is freed
        torch.ones(20 << 18)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        a, b = torch.ones(20 << 18), torch.ones(20 << 18)  # 20 MiB each
        del a, b
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(count_faults())
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
    by_default, kept = map(int, done.stdout.split())
    assert by_default > 10 * 5000  # 5,120 pages of 4 KiB for one of the two, each time
    assert kept < 0.2 * by_default
