"""Memory that work frees stays for the next step, and goes back to the system when the work is over."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import numpy as np
from goskill.training.memory import kept_memory

def pages_of_an_array():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(100 << 20, np.uint8).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

np.ones(1).fill(1)
with kept_memory():
    first = pages_of_an_array()
    with kept_memory():
        pages_of_an_array()
    again = pages_of_an_array()
    kept = resident()
try:
    with kept_memory():
        raise KeyError
except KeyError:
    pass
print(first, again, kept - resident(), pages_of_an_array())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="keeps memory with glibc's allocator alone")
def test_freed_arrays_are_reused_until_the_outermost_use_ends() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, timeout=100
    )
    first, again, returned, after = map(int, ran.stdout.split())
    assert again < first / 10, "the second array of the same size took new pages"
    assert returned > 90 << 20, "the memory stayed with the process"
    assert after > first / 10, "large arrays are kept after the end"
