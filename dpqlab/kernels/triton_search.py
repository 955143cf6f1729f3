"""The nearest codeword of many points on a GPU, without writing their distances to memory.

In PyTorch the distances of all points to all codewords are a matrix of N x k floats, written once
and read once: gigabytes at every step of a calibration with latents. Here a block of points stays
in registers while the codewords pass by.
"""

# triton's language is untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportUntypedFunctionDecorator=false, reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false, reportMissingImports=false, reportIndexIssue=false
# pyright: reportArgumentType=false

from __future__ import annotations

import torch
import triton
import triton.language as tl

from dpqlab.kernels.caches import keep_compilers_private

keep_compilers_private()

BLOCK_POINTS = 128
BLOCK_WORDS = 64
SMALLEST_DOT = 16  # of the inner dimension of a product on tensor cores


@triton.jit
def _nearest_kernel(
    points,
    words,
    square,
    codes,
    count,
    K: tl.constexpr,
    D: tl.constexpr,
    PADDED: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    problem = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    dims = tl.arange(0, PADDED)
    inside = rows < count
    mine = points + (problem * count + rows)[:, None] * D + dims[None, :]
    p = tl.load(mine, mask=inside[:, None] & (dims < D)[None, :], other=0.0)
    best = tl.full((BN,), float("inf"), tl.float32)
    at = tl.zeros((BN,), tl.int32)
    for start in range(0, K, BK):
        columns = start + tl.arange(0, BK)
        there = columns < K
        theirs = words + (problem * K + columns)[None, :] * D + dims[:, None]
        w = tl.load(theirs, mask=there[None, :] & (dims < D)[:, None], other=0.0)
        length = tl.load(square + problem * K + columns, mask=there, other=float("inf"))
        # three TF32 products come near to float32
        distance = length[None, :] - 2.0 * tl.dot(p, w, input_precision="tf32x3")
        lowest, where = tl.min(distance, axis=1, return_indices=True)
        better = lowest < best
        best = tl.where(better, lowest, best)
        at = tl.where(better, start + where, at)
    tl.store(codes + problem * count + rows, at.to(tl.int64), mask=inside)


def nearest(points: torch.Tensor, words: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
    """Find the nearest codeword of every point: see :func:`dpqlab.core.search.nearest`.

    The lowest index wins among equal codewords. No scratch memory.
    """
    problems, count, d = points.shape
    codes = torch.empty(problems, count, dtype=torch.int64, device=points.device)
    grid = (triton.cdiv(count, BLOCK_POINTS), problems)
    _nearest_kernel[grid](
        points.contiguous(),
        words.contiguous(),
        square.contiguous(),
        codes,
        count,
        K=words.shape[1],
        D=d,
        PADDED=max(SMALLEST_DOT, triton.next_power_of_2(d)),
        BN=BLOCK_POINTS,
        BK=BLOCK_WORDS,
    )
    return codes
