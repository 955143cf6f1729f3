from __future__ import annotations

import pytest

from dpqlab.core import scope_of_positions
from dpqlab.errors import ConfigError


def test_every_scope() -> None:
    assert scope_of_positions("position", 4).tolist() == [0, 1, 2, 3]
    assert scope_of_positions("group", 5, 3).tolist() == [0, 0, 0, 1, 1]
    assert scope_of_positions("layer", 3).tolist() == [0, 0, 0]


def test_the_ends_of_the_dial() -> None:
    assert scope_of_positions("group", 6, 1).equal(scope_of_positions("position", 6))
    assert scope_of_positions("group", 6, 6).equal(scope_of_positions("layer", 6))


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="unknown scope: got 'row'"):
        scope_of_positions("row", 4)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="at least 1"):
        scope_of_positions("group", 4, 0)
