"""What a layer with codes into a pool stores, and whether it fits together."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from dpqlab.core import (
    CodebookCodec,
    Encoded,
    code_bits,
    pack,
    packed_size,
    position_count,
    scope_of_positions,
)
from dpqlab.errors import ShapeError


@dataclass(frozen=True, kw_only=True)
class CodebookTensors:
    """What a :class:`dpqlab.nn.linear.CompressedLinear` stores.

    Attributes
    ----------
    codes
        uint8 (bytes,), packed.
    pool
        float16 (P, d), the distinct codewords.
    base
        int64 (S + 1,): scope s has ``base[s + 1] - base[s]`` codes.
    table
        int64 (T,), T = base[-1]: code c of scope s stands for pool entry ``table[base[s] + c]``;
        None where it is entry ``base[s] + c``, and P = T.
    scale
        float16 (out,), or None.
    bias
        (out,) in its storage dtype, or None.
    """

    codes: Tensor
    pool: Tensor
    base: Tensor
    table: Tensor | None = None
    scale: Tensor | None = None
    bias: Tensor | None = None

    @classmethod
    def from_encoded(
        cls, encoded: Encoded, *, bias: Tensor | None, pool_parameter: nn.Parameter | None
    ) -> CodebookTensors:
        """Pack an encoded weight; ``pool_parameter``, if given, stands in for its codewords."""
        pool = encoded.pool
        return cls(
            codes=pack(encoded.codes.flatten(), pool.code_bits),
            pool=pool.entries if pool_parameter is None else pool_parameter,
            base=pool.base,
            table=pool.table,
            scale=encoded.scale,
            bias=bias,
        )

    def check(self, codec: CodebookCodec, shape: tuple[int, int]) -> None:
        """Raise :class:`ShapeError` if these are no tensors of a ``codec`` layer (out, in)."""
        out, columns = shape
        m = position_count(columns, codec.d)
        scopes = int(scope_of_positions(codec.scope, m, codec.group)[-1]) + 1
        rows = int(self.base[-1])
        expected = {
            "codes": (self.codes, (packed_size(out * m, code_bits_of(self.base)),)),
            "pool": (self.pool, (rows if self.table is None else len(self.pool), codec.d)),
            "base": (self.base, (scopes + 1,)),
            "table": (self.table, (rows,)),
            "scale": (self.scale, (out,)),
            "bias": (self.bias, (out,)),
        }
        for name, (tensor, size) in expected.items():
            if tensor is not None and tuple(tensor.shape) != size:
                raise ShapeError(
                    f"{name} of a {codec.describe()} layer {shape} has shape "
                    f"{tuple(tensor.shape)}: expected {size}"
                )
        if self.table is not None and not 0 <= int(self.table.min()) <= int(self.table.max()) < len(
            self.pool
        ):
            raise ShapeError(
                f"the table of a {codec.describe()} layer {shape} has entries from "
                f"{int(self.table.min())} to {int(self.table.max())}: expected 0 to "
                f"{len(self.pool) - 1}, the rows of its pool"
            )


def code_bits_of(base: Tensor) -> int:
    """Return the bits of one code for the largest run of ``base`` (S + 1,): at least 1."""
    return code_bits(int(base.diff().max()))


def codes_beyond(codes: Tensor, base: Tensor, scope_of: Tensor) -> int:
    """Count codes (out, m) that are negative or not below the size of their scope's codebook."""
    return int(((codes < 0) | (codes >= base.diff()[scope_of])).sum())
