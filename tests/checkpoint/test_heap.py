"""Freed blocks go back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys
import torch
from dpqlab.checkpoint.heap import return_large_blocks

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

if sys.argv[1] == "returned" and not return_large_blocks():
    raise SystemExit(3)
warm = torch.ones(2**23)  # glibc raises its limit to the 32 MB that are freed here
del warm
pins = []
before = resident()
for _ in range(20):
    block = torch.ones(2**22)
    pins.append(bytearray(2**16))  # lies behind the block, which the heap cannot shrink over
    del block
    pins.append(torch.ones(2**18))
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_gaps_between_blocks_are_returned() -> None:
    held = _grown("returned")
    pinned = 20 * (2**16 + 2**20)
    assert held < pinned + 4e6


def _grown(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True)
    if done.returncode == 3:
        pytest.skip("another C library than glibc")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)
