"""Products with a coded weight for tens to hundreds of rows, decoded on the way to tensor cores.

No weight is written to memory: a program decodes the tile of the weight that it multiplies. As each
tile of rows decodes anew, one tile takes up to 256 rows; where that leaves multiprocessors idle,
the inner dimension is cut as well, and a second small kernel adds the parts in a fixed order.

The scale belongs to a row of the weight, an output, so it multiplies the sum. The result therefore
differs from decode-then-multiply by the rounding of the weights: at most 2**-8 (bfloat16) or 2**-11
(float16) of ``|x| @ |W|.T``, beside the rounding of the result. The order of additions is fixed:
equal calls give equal bits.
"""

# triton's language is untyped, or takes its own types for numbers
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportUntypedFunctionDecorator=false, reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false, reportMissingImports=false, reportIndexIssue=false
# pyright: reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false

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

MULTIPROCESSORS = 132  # of an H100: what a grid should fill
_LEAST_STEPS = 2  # of the inner loop; fewer are not worth the parts they leave to add


@dataclass(frozen=True, kw_only=True)
class LinearConfig:
    """Tiles of the product and how it is spread.

    Attributes
    ----------
    rows, outputs, inner
        The tile of a program: rows of x, outputs, columns at a time; powers of two from 16.
    splits
        Parts of the inner dimension.
    warps, stages
        Warps of a program; steps of the loop that are in flight.
    """

    rows: int
    outputs: int = 64
    inner: int = 64
    splits: int = 1
    warps: int = 4
    stages: int = 3


def choose_linear_config(
    rows: int, shape: tuple[int, int], d: int, itemsize: int = 2
) -> LinearConfig:
    """Return the tiles for a product: a pure function of its sizes.

    Parameters
    ----------
    rows
        Rows of x.
    shape
        (out, in) of the weight.
    d
        Values of a codeword.
    itemsize
        Bytes of a value of x. Four mean three products in TF32, and their parts in registers.
    """
    most = 256 if itemsize <= 2 else 64
    tall = min(most, max(16, triton.next_power_of_2(rows)))
    inner = 64 if d % 4 == 0 and itemsize <= 2 else 32  # short units take many registers
    outputs = 64 if tall >= 64 else 32
    tiles = triton.cdiv(rows, tall) * triton.cdiv(shape[0], outputs)
    steps = triton.cdiv(shape[1], inner)
    wanted = min(max(1, MULTIPROCESSORS // tiles), max(1, steps // _LEAST_STEPS))
    splits = triton.cdiv(steps, triton.cdiv(steps, wanted))  # none of them empty
    warps = 8 if tall == 256 else 4
    return LinearConfig(rows=tall, outputs=outputs, inner=inner, splits=splits, warps=warps)


@triton.jit
def _fused_kernel(
    x,
    codes,
    pool,
    first,
    size,
    table,
    scale,
    bias,
    out,
    rows,
    outputs,
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
    BIASED: tl.constexpr,
    PARTIAL: tl.constexpr,
    STEPS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    r = tl.program_id(1) * BM + tl.arange(0, BM)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    part = tl.program_id(2)
    in_rows = r < rows
    in_outputs = n < outputs
    lines = x + (r.to(tl.int64) * stride)[:, None]
    total = tl.zeros((BM, BN), tl.float32)
    for i in range(STEPS):
        step = part * STEPS + i
        k = step * BK + tl.arange(0, BK)
        units = step * (BK // UNIT) + tl.arange(0, BK // UNIT)
        position = units // (D // UNIT)
        there = position < positions
        begin = tl.load(first + position, mask=there, other=0)
        last = tl.load(size + position, mask=there, other=1) - 1
        inside = in_outputs[:, None] & there[None, :]
        v = read_codes(codes, nbytes, row_bits, n, position, inside, BITS, EVEN, WIDE)
        offsets = pool_offsets(v, begin, last, table, inside, units, D, UNIT, INDEXED, WIDE)
        in_columns = (k < columns)[None, :]
        w = tl.load(pool + offsets, mask=in_outputs[:, None] & in_columns, other=0.0)
        a = tl.load(lines + k[None, :], mask=in_rows[:, None] & in_columns, other=0.0)
        # TF32 is only used for float32, where three products come near to it
        total = tl.dot(a, tl.trans(w.to(a.dtype)), total, input_precision="tf32x3")
    place = (r.to(tl.int64) * outputs)[:, None] + n[None, :]
    keep = in_rows[:, None] & in_outputs[None, :]
    if PARTIAL:
        tl.store(out + part.to(tl.int64) * rows * outputs + place, total, mask=keep)
    else:
        total = _finished(total, scale, bias, n, in_outputs, SCALED, BIASED)
        tl.store(out + place, total.to(out.dtype.element_ty), mask=keep)


@triton.jit
def _finished(total, scale, bias, n, there, SCALED: tl.constexpr, BIASED: tl.constexpr):
    """Multiply sums by the scales of their outputs and add the bias."""
    if SCALED:
        total *= tl.load(scale + n, mask=there, other=0.0).to(tl.float32)[None, :]
    if BIASED:
        total += tl.load(bias + n, mask=there, other=0.0).to(tl.float32)[None, :]
    return total


@triton.jit
def _sum_kernel(
    parts,
    scale,
    bias,
    out,
    rows,
    outputs,
    SPLITS: tl.constexpr,
    SCALED: tl.constexpr,
    BIASED: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    r = tl.program_id(1) * BM + tl.arange(0, BM)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    there = n < outputs
    keep = (r < rows)[:, None] & there[None, :]
    place = (r.to(tl.int64) * outputs)[:, None] + n[None, :]
    total = tl.load(parts + place, mask=keep, other=0.0)
    for part in tl.static_range(1, SPLITS):
        skipped = tl.cast(rows, tl.int64) * outputs * part
        total += tl.load(parts + skipped + place, mask=keep, other=0.0)
    total = _finished(total, scale, bias, n, there, SCALED, BIASED)
    tl.store(out + place, total.to(out.dtype.element_ty), mask=keep)


def fused_linear(
    x: Tensor, weight: CodedWeight, bias: Tensor | None, config: LinearConfig | None = None
) -> Tensor:
    """Return ``x @ W.T + bias`` without writing W; float32 inside.

    Parameters
    ----------
    x
        (M, in) of float32, float16 or bfloat16 on a CUDA device. A pool of the same dtype is
        copied to shared memory as it is; one of another passes through registers.
    weight
        On that device.
    bias
        (out,) or None.
    config
        Tiles, chosen by :func:`choose_linear_config` where it is None.

    Returns
    -------
    Tensor
        (M, out), new, of the dtype of x.

    Raises
    ------
    ShapeError
        If x does not fit, or a tensor of ``weight`` is not contiguous.
    """
    check_contiguous(weight)
    outputs, columns = weight.shape
    if x.ndim != 2 or x.shape[1] != columns:
        raise ShapeError(
            f"x must have shape (rows, {columns}) for a weight of shape {weight.shape}: "
            f"got {tuple(x.shape)}; flatten what comes before the last dimension"
        )
    x = x if x.stride(1) == 1 else x.contiguous()
    rows = x.shape[0]
    out = torch.empty(rows, outputs, dtype=x.dtype, device=x.device)
    if rows == 0:
        return out
    config = config or choose_linear_config(rows, weight.shape, weight.d, x.element_size())
    if config.splits == 1:
        _multiply(x, weight, bias, out, config)
        return out
    parts = torch.empty(config.splits, rows, outputs, dtype=torch.float32, device=x.device)
    _multiply(x, weight, None, parts, config)
    grid = (triton.cdiv(outputs, 128), triton.cdiv(rows, 8))
    with torch.cuda.device(x.device if x.is_cuda else -1):
        _sum_kernel[grid](
            parts, _given(weight.scale, parts), _given(bias, parts), out, rows, outputs,
            SPLITS=config.splits, SCALED=weight.scale is not None, BIASED=bias is not None,
            BM=8, BN=128, num_warps=4,
        )  # fmt: skip
    return out


def tune(
    x: Tensor, weight: CodedWeight, bias: Tensor | None, configs: Sequence[LinearConfig]
) -> list[tuple[float, LinearConfig]]:
    """Time configurations on this GPU, each in a CUDA graph of 20 calls, and sort them.

    Returns
    -------
    list of (float, LinearConfig)
        Microseconds a call, the fastest first; what does not compile or fit is left out. The weight
        stays in the L2 cache: a model with many layers takes longer.
    """
    timed: list[tuple[float, LinearConfig]] = []
    for config in configs:
        try:
            timed.append((_microseconds(x, weight, bias, config), config))
        except (triton.CompilationError, triton.OutOfResources):
            continue
    return sorted(timed, key=lambda pair: pair[0])


def _microseconds(
    x: Tensor, weight: CodedWeight, bias: Tensor | None, config: LinearConfig
) -> float:
    calls, repeats = 20, 30
    fused_linear(x, weight, bias, config)  # compiles, which a capture must not
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            fused_linear(x, weight, bias, config)
    taken: list[float] = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        taken.append(1e3 * start.elapsed_time(end) / calls)
    return sorted(taken)[repeats // 2]


def _multiply(
    x: Tensor, weight: CodedWeight, bias: Tensor | None, out: Tensor, config: LinearConfig
) -> None:
    """Launch the product: into the result, or its parts where ``out`` has three dimensions."""
    partial = out.ndim == 3
    rows, (outputs, columns) = x.shape[0], weight.shape
    steps = triton.cdiv(triton.cdiv(columns, config.inner), config.splits)
    grid = (triton.cdiv(outputs, config.outputs), triton.cdiv(rows, config.rows), config.splits)
    with torch.cuda.device(x.device if x.is_cuda else -1):
        _fused_kernel[grid](
            x, weight.codes, weight.pool, weight.first, weight.size,
            _given(weight.table, weight.first), _given(weight.scale, x), _given(bias, x), out,
            rows, outputs, columns, weight.positions, weight.positions * weight.code_bits,
            weight.codes.numel(), x.stride(0),
            **constants_of(weight), BIASED=bias is not None, PARTIAL=partial, STEPS=steps,
            BM=config.rows, BN=config.outputs, BK=config.inner,
            num_warps=config.warps, num_stages=config.stages,
        )  # fmt: skip


def _given(tensor: Tensor | None, otherwise: Tensor) -> Tensor:
    """Return what stands for an absent tensor in a launch; no kernel reads it."""
    return otherwise if tensor is None else tensor
