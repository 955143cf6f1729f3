"""The compiled search on the CPU finds what the reference finds."""

from __future__ import annotations

import pytest
import torch

from dpqlab.core import nearest

numba_search = pytest.importorskip("dpqlab.kernels.numba_search", exc_type=ImportError)

SHAPES = [(1, 300, 70, 8), (5, 130, 16, 6), (3, 64, 64, 4), (1, 10, 3, 1), (2, 40, 9, 24)]


@pytest.mark.parametrize(("b", "n", "k", "d"), SHAPES)
def test_it_finds_what_the_reference_finds(b: int, n: int, k: int, d: int) -> None:
    generator = torch.Generator().manual_seed(b * n)
    points = torch.randn(b, n, d, generator=generator)
    words = torch.randn(b, k, d, generator=generator)
    square = words.square().sum(-1)[:, None]
    square[:, :, k // 2] = torch.inf
    found = numba_search.nearest(points, words, square)
    assert torch.equal(found, nearest(points, words, square))
    assert found.dtype == torch.int64
    assert not (found == k // 2).any()
