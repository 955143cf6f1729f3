from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dpqlab.core import join, position_count, split
from dpqlab.errors import ShapeError


@given(rows=st.integers(1, 5), columns=st.integers(1, 40), d=st.integers(1, 12))
def test_join_undoes_split(rows: int, columns: int, d: int) -> None:
    weight = torch.arange(rows * columns, dtype=torch.float32).reshape(rows, columns) + 1
    sub = split(weight, d)
    assert sub.shape == (rows, position_count(columns, d), d)
    assert torch.equal(join(sub, columns), weight)
    assert int((sub == 0).sum()) == rows * (sub.shape[1] * d - columns)


def test_split_takes_neighbours_of_a_row() -> None:
    weight = torch.randn(3, 8)
    assert torch.equal(split(weight, 4)[2, 1], weight[2, 4:])


@pytest.mark.parametrize("d", [0, -1])
def test_split_refuses_empty_sub_vectors(d: int) -> None:
    with pytest.raises(ShapeError, match="at least 1"):
        split(torch.zeros(2, 4), d)


def test_split_and_join_refuse_other_ranks() -> None:
    with pytest.raises(ShapeError, match=r"\(out, in\)"):
        split(torch.zeros(4), 2)
    with pytest.raises(ShapeError, match=r"\(out, m, d\)"):
        join(torch.zeros(4, 2), 2)


def test_join_refuses_rows_of_another_length() -> None:
    with pytest.raises(ShapeError, match="do not make a row of 9"):
        join(torch.zeros(2, 2, 4), 9)
