from __future__ import annotations

import numpy as np
import pytest
import torch

from dpqlab.errors import ShapeError
from dpqlab.tracing.compare import BINS, EDGES, compare


def test_sums_and_counts_by_hand():
    theirs = torch.tensor([[[3.0, 4.0], [1.0, 0.0]], [[0.0, 2.0], [0.0, 0.0]]])
    mine = theirs.clone()
    mine[0, 0, 0] += 0.5  # a token of squared norm 25: 0.01 of it
    mine[1, 1, 1] += 1.0  # a token of nothing: an error without end
    found = compare([mine], [theirs], 2)
    assert found.energy.tolist() == [[0.25], [1.0]]
    assert found.norm.tolist() == [[26.0], [4.0]]
    assert found.counts.sum(1).tolist() == [2, 2]
    place = int(np.searchsorted(EDGES, 0.25 / 25, side="right"))
    assert found.counts[0, place] == 1
    assert found.counts[0, 0] == found.counts[1, 0] == 1, "exact tokens"
    assert found.counts[1, BINS - 1] == 1
    assert EDGES[place - 1] <= 0.01 < EDGES[place]


def test_several_tensors_count_together():
    a, b = torch.randn(4, 3, 5), torch.randn(4, 2, 5)
    both = compare([a, b], [a + 1, b - 1], 2)
    apart = [compare([x], [y], 2) for x, y in ((a, a + 1), (b, b - 1))]
    assert np.array_equal(both.counts, apart[0].counts + apart[1].counts)
    np.testing.assert_allclose(both.energy, apart[0].energy + apart[1].energy)


@pytest.mark.parametrize(
    ("mine", "theirs", "branches"),
    [((2, 3, 4), (2, 3, 5), 1), ((3, 3, 4), (3, 3, 4), 2), ((4,), (4,), 1)],
)
def test_shapes_that_do_not_fit(mine, theirs, branches):
    with pytest.raises(ShapeError):
        compare([torch.zeros(mine)], [torch.zeros(theirs)], branches)


def test_nothing_to_compare():
    with pytest.raises(ShapeError):
        compare([], [], 1)
