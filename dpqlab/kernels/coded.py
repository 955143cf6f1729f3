"""One coded weight as kernels see it: flat tensors, and where each position finds its codewords."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class CodedWeight:
    """The tensors of one compressed weight, all on one device.

    ``weight[r, g*d:(g+1)*d] = scale[r] * pool[entry(g, code[r, g])]`` with ``entry(g, c) =
    first[g] + min(c, size[g] - 1)``, or ``table`` of that where there is a table. The minimum does
    nothing to a valid file; it keeps a bad code inside of its codebook on every backend.

    Attributes
    ----------
    codes
        uint8 (ceil(out * m * code_bits / 8),): the packed stream of :mod:`dpqlab.core.packing`,
        row by row.
    pool
        (P, d), float16 as stored, or another float dtype while it is trained.
    first, size
        int32 (m,): the first entry and the number of entries of every position's codebook.
    table
        int32 (T,), each below P; or None.
    scale
        (out,) float, or None.
    shape
        (out, in) of the weight.
    code_bits
        Bits of one code, 1 to 16.
    """

    codes: Tensor
    pool: Tensor
    first: Tensor
    size: Tensor
    table: Tensor | None
    scale: Tensor | None
    shape: tuple[int, int]
    code_bits: int

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
        """All tensors, in the order in which operators and kernels take them."""
        return self.codes, self.pool, self.first, self.size, self.table, self.scale

    @property
    def d(self) -> int:
        """Values in a codeword."""
        return self.pool.shape[1]

    @property
    def positions(self) -> int:
        """``m``, the sub-vectors of a row."""
        return len(self.first)

    def to(self, device: torch.device | str) -> CodedWeight:
        """Return the same weight on a device."""
        return replace(
            self,
            codes=self.codes.to(device),
            pool=self.pool.to(device),
            first=self.first.to(device),
            size=self.size.to(device),
            table=None if self.table is None else self.table.to(device),
            scale=None if self.scale is None else self.scale.to(device),
        )


def runs_of_positions(base: Tensor, scope_of: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``first`` and ``size`` of every position, int32 (m,), contiguous.

    Parameters
    ----------
    base
        int64 (S + 1,): scope s owns entries ``base[s]`` to ``base[s + 1] - 1``.
    scope_of
        int64 (m,): the scope of every position.
    """
    first = base[scope_of].to(torch.int32).contiguous()
    return first, base.diff()[scope_of].to(torch.int32).contiguous()
