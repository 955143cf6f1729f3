"""What the Triton kernels share: from the stream of codes to addresses in the pool.

A tile is read in *units*: the largest power of two of values, at most 8, that divides ``d``. One
thread reads the code of a unit once, then its values with one load of 8 or 16 bytes. Triton sees
neither by itself, hence the hints below.
"""

# triton's language is untyped, or takes its own types for numbers
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportUntypedFunctionDecorator=false, reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false, reportMissingImports=false, reportIndexIssue=false
# pyright: reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportOperatorIssue=false

from __future__ import annotations

import math

import triton
import triton.language as tl

from dpqlab.errors import ShapeError
from dpqlab.kernels.caches import keep_compilers_private
from dpqlab.kernels.coded import CodedWeight

keep_compilers_private()

MAX_UNIT = 8  # values: 16 bytes of float16, the widest load of a thread
_NARROW = 1 << 30  # below it, with room for a tile, an index fits an int32


@triton.jit
def _repeat(v, TIMES: tl.constexpr):
    """Repeat every column of (R, C) to (R, C * TIMES), without a move between threads."""
    if TIMES >= 2:
        v = tl.interleave(v, v)
    if TIMES >= 4:
        v = tl.interleave(v, v)
    if TIMES >= 8:
        v = tl.interleave(v, v)
    return v


@triton.jit
def read_codes(
    codes,
    nbytes,
    row_bits,
    rows,
    positions,
    inside,
    BITS: tl.constexpr,
    EVEN: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Read the codes of (rows, positions) from the stream: int32 (R, C), 0 where not inside."""
    r = rows.to(tl.int64) if WIDE else rows
    if EVEN:  # every row starts at a byte
        base = r * (row_bits // 8)
        bit = (positions * BITS)[None, :]
    else:
        start = r * row_bits
        base = start >> 3
        bit = (start & 7).to(tl.int32)[:, None] + (positions * BITS)[None, :]
    at = base[:, None] + (bit >> 3)
    # The greatest shift within a byte is 8 - gcd(BITS, 8).
    GCD: tl.constexpr = 8 if BITS % 8 == 0 else 4 if BITS % 4 == 0 else 2 if BITS % 2 == 0 else 1
    LOADS: tl.constexpr = (8 - GCD + BITS + 7) // 8
    # Triton lays out a load along the axis where addresses are contiguous, and where neither is, as
    # with 9 bits, sends a warp down the rows. Told that two columns are contiguous it goes along
    # them; told also that no address is aligned it joins no two bytes into one load, which is why
    # the first need not be true. The hints must stand here: in a function they would be lost.
    address = tl.multiple_of(tl.max_contiguous(codes + at, [1, 2]), [1, 1])
    v = tl.load(address, mask=inside, other=0).to(tl.int32)
    for i in tl.static_range(1, LOADS):
        address = tl.multiple_of(tl.max_contiguous(codes + (at + i), [1, 2]), [1, 1])
        byte = tl.load(address, mask=inside & (at + i < nbytes), other=0)
        v |= byte.to(tl.int32) << (8 * i)
    if BITS < 8 * LOADS:
        v = (v >> (bit & 7)) & ((1 << BITS) - 1)
    return v


@triton.jit
def pool_offsets(
    v,
    first,
    last,
    table,
    inside,
    units,
    D: tl.constexpr,
    UNIT: tl.constexpr,
    INDEXED: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Turn codes of units (R, C) into offsets of their values in the pool, (R, C * UNIT)."""
    entry = first[None, :] + tl.minimum(v, last[None, :])
    if INDEXED:
        entry = tl.load(table + entry, mask=inside, other=0)
    if WIDE:
        entry = entry.to(tl.int64)
    start = _repeat(entry * D + (units % (D // UNIT) * UNIT)[None, :], UNIT)
    within = tl.arange(0, units.shape[0] * UNIT) % UNIT
    offsets = start + within[None, :]
    return tl.max_contiguous(tl.multiple_of(offsets, [1, UNIT]), [1, UNIT])


def unit_of(d: int) -> int:
    """Return the values of a unit: the largest power of two that divides ``d``, at most 8."""
    return math.gcd(d, MAX_UNIT)


def constants_of(weight: CodedWeight, stride: int = 0) -> dict[str, int | bool]:
    """Return what the kernels are compiled for, by the names of their parameters.

    ``stride`` is the distance of two rows in what is written, where that is more than ``in``.

    ``D`` and ``UNIT`` in values, ``BITS`` of a code, ``EVEN``: every row starts at a byte,
    ``INDEXED``: there is a table, ``SCALED``: there are scales, ``WIDE``: some index of a byte, bit
    or value takes more than 31 bits.
    """
    rows, columns = weight.shape
    row_bits = weight.positions * weight.code_bits
    largest = max(rows * row_bits, rows * max(columns, stride), weight.pool.numel())
    return {
        "D": weight.d,
        "UNIT": unit_of(weight.d),
        "BITS": weight.code_bits,
        "EVEN": row_bits % 8 == 0,
        "INDEXED": weight.table is not None,
        "SCALED": weight.scale is not None,
        "WIDE": largest >= _NARROW,
    }


def check_contiguous(weight: CodedWeight) -> None:
    """Refuse a weight with a tensor that is not contiguous.

    Raises
    ------
    ShapeError
        Naming the tensor: kernels step through its memory.
    """
    for name in ("codes", "pool", "first", "size", "table", "scale"):
        tensor = getattr(weight, name)
        if tensor is not None and not tensor.is_contiguous():
            raise ShapeError(
                f"{name} must be contiguous: got shape {tuple(tensor.shape)} with strides "
                f"{tensor.stride()}; call .contiguous() when the weight is made"
            )
