"""Weights written out on a GPU from their codes: one layer, or all of a block in one launch.

Each program writes a tile of rows x 64 columns, 128 bytes a row in bfloat16, and reads straight
from the packed stream. The codewords of its 64 columns come through the L1 cache, whether one
codebook serves the layer or each position has its own.
"""

# triton's language is untyped, or takes its own types for numbers
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportUntypedFunctionDecorator=false, reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false, reportMissingImports=false, reportIndexIssue=false
# pyright: reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportOperatorIssue=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from dpqlab.errors import ShapeError
from dpqlab.kernels.coded import CodedWeight
from dpqlab.kernels.triton_codes import check_contiguous, constants_of, pool_offsets, read_codes

BLOCK_COLUMNS = 64
_ALIGNMENT = 16  # bytes


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """The tile of a program.

    Attributes
    ----------
    rows
        Rows that it decodes at once; a power of two.
    steps
        How many times it does so, downwards: the codebooks of its columns stay in L1.
    warps
        Warps of 32 threads.
    """

    rows: int = 64
    steps: int = 1
    warps: int = 4


def choose_decode_config(pool_bytes: int) -> DecodeConfig:
    """Return the tile for a pool: taller where the codebooks of a layer do not fit into L1."""
    if pool_bytes > 64 << 10:
        return DecodeConfig(rows=128, steps=2, warps=8)
    return DecodeConfig()


@triton.jit
def _decode_tile(
    codes,
    pool,
    first,
    size,
    table,
    scale,
    out,
    rows,
    columns,
    positions,
    row_bits,
    nbytes,
    stride,
    row_block,
    column_block,
    D: tl.constexpr,
    UNIT: tl.constexpr,
    BITS: tl.constexpr,
    EVEN: tl.constexpr,
    INDEXED: tl.constexpr,
    SCALED: tl.constexpr,
    WIDE: tl.constexpr,
    BR: tl.constexpr,
    BC: tl.constexpr,
    STEPS: tl.constexpr,
):
    units = column_block * (BC // UNIT) + tl.arange(0, BC // UNIT)
    at = column_block * BC + tl.arange(0, BC)
    position = units // (D // UNIT)
    there = position < positions
    begin = tl.load(first + position, mask=there, other=0)
    last = tl.load(size + position, mask=there, other=1) - 1
    for step in range(STEPS):
        r = (row_block * STEPS + step) * BR + tl.arange(0, BR)
        mine = r < rows
        inside = mine[:, None] & there[None, :]
        v = read_codes(codes, nbytes, row_bits, r, position, inside, BITS, EVEN, WIDE)
        offsets = pool_offsets(v, begin, last, table, inside, units, D, UNIT, INDEXED, WIDE)
        keep = mine[:, None] & (at < columns)[None, :]
        w = tl.load(pool + offsets, mask=keep, other=0.0)
        if SCALED:
            s = tl.load(scale + r, mask=mine, other=0.0).to(tl.float32)
            w = w.to(tl.float32) * s[:, None]
        line = r.to(tl.int64) if WIDE else r
        # no wider than a unit, or the values would move between threads before they are stored
        place = tl.max_contiguous(line[:, None] * stride + at[None, :], [1, UNIT])
        tl.store(out + place, w.to(out.dtype.element_ty), mask=keep)


@triton.jit
def _decode_kernel(
    codes,
    pool,
    first,
    size,
    table,
    scale,
    out,
    rows,
    columns,
    positions,
    row_bits,
    nbytes,
    stride,
    D: tl.constexpr,
    UNIT: tl.constexpr,
    BITS: tl.constexpr,
    EVEN: tl.constexpr,
    INDEXED: tl.constexpr,
    SCALED: tl.constexpr,
    WIDE: tl.constexpr,
    BR: tl.constexpr,
    BC: tl.constexpr,
    STEPS: tl.constexpr,
):
    _decode_tile(
        codes, pool, first, size, table, scale, out,
        rows, columns, positions, row_bits, nbytes, stride,
        tl.program_id(0), tl.program_id(1),
        D, UNIT, BITS, EVEN, INDEXED, SCALED, WIDE, BR, BC, STEPS,
    )  # fmt: skip


@triton.jit
def _decode_group_kernel(
    layers,
    layer_of,
    pool_like,
    scale_like,
    out_like,
    D: tl.constexpr,
    UNIT: tl.constexpr,
    BITS: tl.constexpr,
    EVEN: tl.constexpr,
    INDEXED: tl.constexpr,
    SCALED: tl.constexpr,
    WIDE: tl.constexpr,
    BR: tl.constexpr,
    BC: tl.constexpr,
    STEPS: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """As above for the layer that a program falls into; ``*_like`` only lend their types."""
    FIELDS: tl.constexpr = 12
    layer = layers + tl.load(layer_of + tl.program_id(0)) * FIELDS
    codes = tl.load(layer).to(tl.pointer_type(tl.uint8))
    pool = tl.load(layer + 1).to(pool_like.dtype)
    first = tl.load(layer + 2).to(tl.pointer_type(tl.int32))
    size = tl.load(layer + 3).to(tl.pointer_type(tl.int32))
    table = tl.load(layer + 4).to(tl.pointer_type(tl.int32))
    scale = tl.load(layer + 5).to(scale_like.dtype)
    out = tl.load(layer + 6).to(out_like.dtype)
    rows = tl.load(layer + 7).to(tl.int32)
    columns = tl.load(layer + 8).to(tl.int32)
    row_bits = tl.load(layer + 9).to(tl.int32)
    stride = tl.load(layer + 10).to(tl.int32)
    tile = tl.program_id(0) - tl.load(layer + 11).to(tl.int32)
    if ALIGNED:
        pool = tl.multiple_of(pool, 16)
        out = tl.multiple_of(out, 16)
        columns = tl.multiple_of(columns, 16)
        stride = tl.multiple_of(stride, 16)
    down = tl.cdiv(rows, BR * STEPS)
    nbytes = (rows.to(tl.int64) * row_bits + 7) // 8
    _decode_tile(
        codes, pool, first, size, table, scale, out,
        rows, columns, tl.cdiv(columns, D), row_bits, nbytes if WIDE else nbytes.to(tl.int32),
        stride, tile % down, tile // down,
        D, UNIT, BITS, EVEN, INDEXED, SCALED, WIDE, BR, BC, STEPS,
    )  # fmt: skip


def decode(
    weight: CodedWeight,
    dtype: torch.dtype,
    out: Tensor | None = None,
    config: DecodeConfig | None = None,
) -> Tensor:
    """Write a weight out: ``scale * codeword`` in float32, rounded once to ``dtype``.

    Parameters
    ----------
    weight
        On a CUDA device.
    dtype
        Of the result.
    out
        Buffer (out, in) of that dtype, its columns contiguous, such as some rows of a larger one;
        or None for a new one.
    config
        Tile of a program, chosen by :func:`choose_decode_config` where it is None.

    Returns
    -------
    Tensor
        (out, in): ``out``, or a new one.

    Raises
    ------
    ShapeError
        If ``out`` does not fit, or a tensor of ``weight`` is not contiguous.
    """
    out = _prepared(weight, dtype, out)
    config = config or choose_decode_config(_pool_bytes(weight))
    rows, columns = weight.shape
    grid = _tiles(weight, config)
    # An absent table or scale is never read; any pointer will do.
    table = weight.first if weight.table is None else weight.table
    scale = weight.pool if weight.scale is None else weight.scale
    with _on(out):
        _decode_kernel[grid](
            weight.codes, weight.pool, weight.first, weight.size, table, scale, out,
            rows, columns, weight.positions, weight.positions * weight.code_bits,
            weight.codes.numel(), out.stride(0),
            **constants_of(weight, out.stride(0)), BR=config.rows, BC=BLOCK_COLUMNS,
            STEPS=config.steps, num_warps=config.warps,
        )  # fmt: skip
    return out


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodeGroup:
    """Layers of one kind of codec that one launch decodes, made by :func:`group_decodes`.

    Attributes
    ----------
    layers
        int64 (L, 12) on the device: addresses and sizes of each layer.
    layer_of
        int32 (programs,): the layer of each program.
    weights, outs
        The tensors behind these addresses, kept alive.
    constants
        What the kernel is compiled for.
    config
        Tile of a program.
    """

    layers: Tensor
    layer_of: Tensor
    weights: tuple[CodedWeight, ...]
    outs: tuple[Tensor, ...]
    constants: dict[str, int | bool]
    config: DecodeConfig


def group_decodes(
    weights: Sequence[CodedWeight], outs: Sequence[Tensor], config: DecodeConfig | None = None
) -> list[DecodeGroup]:
    """Prepare the decoding of several layers into fixed buffers in as few launches as can be.

    Layers share a launch where ``d``, the bits of a code, the dtypes, and whether there is a table
    and a scale agree; shapes may differ. Copies to the device, so call it before a graph is
    captured, not within.

    Parameters
    ----------
    weights, outs
        As many buffers as weights, each as ``out`` in :func:`decode`.
    config
        Tile of a program, chosen by :func:`choose_decode_config` where it is None.

    Returns
    -------
    list of DecodeGroup
        What :func:`decode_many` takes, in the order of their first layers.
    """
    members: dict[tuple[object, ...], list[tuple[CodedWeight, Tensor]]] = {}
    for weight, out in zip(weights, outs, strict=True):
        _prepared(weight, out.dtype, out)
        scale = None if weight.scale is None else weight.scale.dtype
        constants = constants_of(weight, out.stride(0)) | {"ALIGNED": _aligned(weight, out)}
        key = (*constants.items(), weight.pool.dtype, scale, out.dtype, out.device)
        members.setdefault(key, []).append((weight, out))
    return [_group(pairs, config) for pairs in members.values()]


def decode_many(groups: Sequence[DecodeGroup]) -> None:
    """Fill the buffers of the groups: one launch a group, nothing allocated."""
    for group in groups:
        weight, out = group.weights[0], group.outs[0]
        scale = weight.pool if weight.scale is None else weight.scale
        with _on(out):
            _decode_group_kernel[(group.layer_of.numel(),)](
                group.layers, group.layer_of, weight.pool, scale, out,
                **group.constants, BR=group.config.rows, BC=BLOCK_COLUMNS,
                STEPS=group.config.steps, num_warps=group.config.warps,
            )  # fmt: skip


def _group(pairs: Sequence[tuple[CodedWeight, Tensor]], config: DecodeConfig | None) -> DecodeGroup:
    weight, out = pairs[0]
    chosen = config or choose_decode_config(max(_pool_bytes(w) for w, _ in pairs))
    fields: list[list[int]] = []
    counts: list[int] = []
    for w, o in pairs:
        tensors = (w.codes, w.pool, w.first, w.size, w.table, w.scale, o)
        addresses = [0 if t is None else t.data_ptr() for t in tensors]
        row_bits = w.positions * w.code_bits
        fields.append([*addresses, *w.shape, row_bits, o.stride(0), sum(counts)])
        down, across = _tiles(w, chosen)
        counts.append(down * across)
    layer_of = torch.arange(len(pairs), dtype=torch.int32).repeat_interleave(torch.tensor(counts))
    return DecodeGroup(
        layers=torch.tensor(fields, dtype=torch.int64).to(out.device),
        layer_of=layer_of.to(out.device),
        weights=tuple(w for w, _ in pairs),
        outs=tuple(o for _, o in pairs),
        constants=constants_of(weight, out.stride(0)) | {"ALIGNED": _aligned(weight, out)},
        config=chosen,
    )


def _prepared(weight: CodedWeight, dtype: torch.dtype, out: Tensor | None) -> Tensor:
    """Return the buffer to fill, checked or new."""
    check_contiguous(weight)
    if out is None:
        return torch.empty(weight.shape, dtype=dtype, device=weight.codes.device)
    if out.shape != weight.shape or out.dtype != dtype or out.stride(1) != 1:
        raise ShapeError(
            f"out must be {dtype} of shape {weight.shape} with contiguous columns: got "
            f"{out.dtype} of shape {tuple(out.shape)} with strides {out.stride()}"
        )
    return out


def _tiles(weight: CodedWeight, config: DecodeConfig) -> tuple[int, int]:
    rows, columns = weight.shape
    return triton.cdiv(rows, config.rows * config.steps), triton.cdiv(columns, BLOCK_COLUMNS)


def _aligned(weight: CodedWeight, out: Tensor) -> bool:
    """Whether vectors of 16 bytes start at 16 bytes everywhere, as Triton finds out by itself."""
    steps = (weight.pool.data_ptr(), out.data_ptr(), weight.shape[1], out.stride(0))
    return all(step % _ALIGNMENT == 0 for step in steps)


def _pool_bytes(weight: CodedWeight) -> int:
    return weight.pool.numel() * weight.pool.element_size()


def _on(tensor: Tensor) -> torch.cuda.device:
    """The device of a tensor as the current one, where it is a GPU."""
    return torch.cuda.device(tensor.device if tensor.is_cuda else -1)
