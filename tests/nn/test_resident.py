from __future__ import annotations

import pytest
import torch

from dpqlab.nn.resident import PeakMemory, resident_bytes

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
