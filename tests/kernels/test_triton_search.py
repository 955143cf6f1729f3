"""The search on a GPU, in Triton's interpreter where there is none."""

from __future__ import annotations

import pytest
import torch

from dpqlab.core import nearest
from tests.kernels.triton_cases import run_interpreted

pytest.importorskip("triton", reason="Triton comes with PyTorch's CUDA builds")

SHAPES = [(1, 300, 70, 8), (5, 130, 16, 6), (3, 64, 64, 4), (1, 10, 3, 1), (2, 129, 256, 8)]
CHECK = """
import torch
from dpqlab.core import nearest
from dpqlab.kernels import triton_search
torch.manual_seed(0)
for b, n, k, d in {shapes}:
    points, words = torch.randn(b, n, d), torch.randn(b, k, d)
    square = words.square().sum(-1)[:, None]
    square[:, :, k // 2] = float("inf") if k > 3 else square[:, :, k // 2]
    found = triton_search.nearest(points, words, square)
    assert torch.equal(found, nearest(points, words, square)), (b, n, k, d)
words = torch.zeros(1, 40, 4)
assert not triton_search.nearest(torch.randn(1, 9, 4), words, torch.zeros(1, 1, 40)).any()
"""


def test_it_finds_what_the_reference_finds() -> None:
    run_interpreted(CHECK.format(shapes=SHAPES))


@pytest.mark.gpu
@pytest.mark.parametrize(("b", "n", "k", "d"), [*SHAPES, (1, 100_000, 512, 8)])
def test_on_a_gpu_no_other_codeword_is_nearer(b: int, n: int, k: int, d: int) -> None:
    from dpqlab.kernels import triton_search

    generator = torch.Generator("cuda").manual_seed(0)
    points = torch.randn(b, n, d, device="cuda", generator=generator)
    words = torch.randn(b, k, d, device="cuda", generator=generator)
    square = words.square().sum(-1)[:, None]
    found = triton_search.nearest(points, words, square)
    exact = torch.cdist(points.double(), words.double()).square()
    excess = exact.gather(2, found[..., None])[..., 0] - exact.amin(2)
    assert float(excess.max()) < 1e-4
    assert torch.equal(found.cpu(), nearest(points, words, square).cpu()) or n > 1000
