"""Coded weights with random codewords and random bytes as codes."""

from __future__ import annotations

import torch
from torch import Tensor

from dpqlab.core import packed_size
from dpqlab.core.packing import code_bits
from dpqlab.kernels.coded import CodedWeight, runs_of_positions


def random_weight(
    shape: tuple[int, int],
    d: int,
    k: int,
    *,
    scopes: str = "position",
    pool: Tensor | None = None,
    extras: tuple[str, ...] = (),
) -> CodedWeight:
    """Draw a weight from torch's global generator.

    Parameters
    ----------
    shape
        (out, in).
    d, k
        Length of a sub-vector; codewords of the largest codebook. Others are smaller.
    scopes
        ``"position"``: a codebook each; ``"layer"``: one for all.
    pool
        Codewords to use; default: drawn, float16.
    extras
        ``"scale"``, ``"table"``.
    """
    out, columns = shape
    m = -(-columns // d)
    if scopes == "position":
        sizes = torch.randint(max(1, k - 3), k + 1, (m,))
        sizes[0] = k
        base = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        first, size = runs_of_positions(base, torch.arange(m))
    else:
        first, size = runs_of_positions(torch.tensor([0, k]), torch.zeros(m, dtype=torch.int64))
    entries = int((first + size).max())
    table = None
    if "table" in extras:
        table = torch.randint(entries // 2 + 1, (entries,), dtype=torch.int32)
        entries = entries // 2 + 1
    if pool is None:
        pool = (0.05 * torch.randn(entries, d)).half()
    bits = code_bits(k)
    return CodedWeight(
        codes=torch.randint(256, (packed_size(out * m, bits),), dtype=torch.uint8),
        pool=pool,
        first=first,
        size=size,
        table=table,
        scale=(0.5 + torch.rand(out)).half() if "scale" in extras else None,
        shape=shape,
        code_bits=bits,
    )
