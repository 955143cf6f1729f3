"""Decoding and multiplying in plain PyTorch: works everywhere, and says what the others must do."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dpqlab.core import unpack
from dpqlab.kernels.coded import CodedWeight


def entry_indices(weight: CodedWeight) -> Tensor:
    """Return the pool entry of every sub-vector, int64 (out, m)."""
    count = weight.shape[0] * weight.positions
    codes = unpack(weight.codes, weight.code_bits, count).view(-1, weight.positions)
    index = weight.first + torch.minimum(codes, weight.size - 1)
    return index.long() if weight.table is None else weight.table[index].long()


def wide_dtype(pool: Tensor, dtype: torch.dtype) -> torch.dtype:
    """Return what to compute in: float32, or float64 where an operand is."""
    return torch.promote_types(torch.promote_types(dtype, pool.dtype), torch.float32)


def subvectors(weight: CodedWeight, dtype: torch.dtype) -> Tensor:
    """Return the codewords of all codes without the row scale: (out, in), in ``wide_dtype``."""
    wide = weight.pool.to(wide_dtype(weight.pool, dtype))
    return F.embedding(entry_indices(weight), wide).flatten(1)[:, : weight.shape[1]]


def decode(weight: CodedWeight, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    """Return the weight (out, in): codeword times row scale in float32, then rounded once.

    Parameters
    ----------
    weight
        What is stored.
    dtype
        Of the result.
    out
        Contiguous (out, in) tensor of that dtype to write into.
    """
    rows = subvectors(weight, dtype)
    if weight.scale is not None:
        rows = rows * weight.scale.to(rows.dtype)[:, None]
    return rows.to(dtype) if out is None else out.copy_(rows)


def pool_gradient(weight: CodedWeight, gradient: Tensor) -> Tensor:
    """Return the gradient of the pool (P, d) for one of the decoded weight (out, in).

    It sums over all sub-vectors that use an entry.
    """
    wide = wide_dtype(weight.pool, gradient.dtype)
    rows = gradient.to(wide)
    if weight.scale is not None:
        rows = rows * weight.scale.to(wide)[:, None]
    missing = weight.positions * weight.d - weight.shape[1]
    parts = F.pad(rows, (0, missing)).view(-1, weight.d)
    sums = torch.zeros(weight.pool.shape, dtype=wide, device=weight.pool.device)
    return sums.index_add_(0, entry_indices(weight).flatten(), parts).to(weight.pool.dtype)


def scale_gradient(weight: CodedWeight, gradient: Tensor) -> Tensor:
    """Return the gradient of the row scales (out,) for one of the decoded weight (out, in)."""
    assert weight.scale is not None
    rows = subvectors(weight, gradient.dtype)
    return (gradient.to(rows.dtype) * rows).sum(1).to(weight.scale.dtype)
