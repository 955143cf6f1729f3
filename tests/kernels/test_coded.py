"""A coded weight as a whole: it moves with all that it has."""

from __future__ import annotations

import pytest

from tests.kernels.random_weights import random_weight


@pytest.mark.parametrize("extras", [(), ("table", "scale")])
def test_it_moves_with_all_that_it_has(extras: tuple[str, ...]) -> None:
    weight = random_weight((5, 24), 8, 37, extras=extras)
    moved = weight.to("meta")
    for before, after in zip(weight.tensors, moved.tensors, strict=True):
        assert (before is None) == (after is None)
        assert after is None or after.device.type == "meta"
    assert (moved.shape, moved.code_bits) == (weight.shape, weight.code_bits)
