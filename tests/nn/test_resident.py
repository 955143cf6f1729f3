from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from dpqlab.nn.resident import PeakMemory, most_resident_bytes, resident_bytes

SIZE = 300_000_000


def test_what_was_there_for_a_moment_is_seen() -> None:
    with PeakMemory() as memory:
        block = torch.ones(SIZE, dtype=torch.uint8)
        for _ in range(3):  # a few milliseconds
            block += 1
        del block
    assert 0.9 * SIZE < memory.peak - memory.before < 1.5 * SIZE
    assert memory.before > 50e6
    assert resident_bytes() < memory.peak - SIZE / 2


def test_an_error_ends_the_watch() -> None:
    memory = PeakMemory()
    with pytest.raises(KeyError), memory:
        raise KeyError("over")
    assert memory.peak >= memory.before > 0


def test_the_most_is_a_programs_own() -> None:
    """However much the process had that started it."""
    ballast = torch.ones(500_000_000, dtype=torch.uint8)
    script = "from dpqlab.nn.resident import most_resident_bytes; print(most_resident_bytes())"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    mine = most_resident_bytes()
    assert mine >= resident_bytes() >= ballast.nbytes
    assert 10e6 < int(done.stdout) < mine - 0.8 * ballast.nbytes
