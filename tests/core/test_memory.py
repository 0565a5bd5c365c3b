"""Memory that a step frees is there for the next one."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from treadle.core.runtime import choose_runtime
{choose}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(16_000_000)  # 64 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def faults(choose: str) -> int:
    """Pages that the kernel had to bring while 64 MB were taken and freed twenty times, in a process of its own."""
    found = subprocess.run([sys.executable, "-c", PROGRAM.format(choose=choose)], capture_output=True, text=True, check=True)
    return int(found.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is of glibc")
def test_freed_memory_is_not_fetched_from_the_kernel_anew():
    pages = 20 * 64_000_000 // resource.getpagesize()
    assert faults("") > pages / 2
    assert faults("choose_runtime('float32', 1)") < pages / 100
