"""Linear layers for one to eight rows of x by looking products up, many layers in one launch.

For every position, all products of x with the codewords are computed once; then a weight row costs
one look-up in shared memory for each code, whatever d is (as in CodeGEMM, arXiv 2512.17970, and the
distance tables of product quantization). Rows of x share a word of the table, so a few rows cost
little more than one.

Products of two or more rows of x are rounded to float16 (scaled to its range), and added up four at
a time in float16, beyond that in float32: the error of y is below 1e-3 of its norm, about 3e-4 for
random input. With one row of x all is float32.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache

import torch
from torch import Tensor

from dpqlab.errors import BackendError, ShapeError
from dpqlab.kernels import nvrtc
from dpqlab.kernels.table_layout import Group, Prepared
from dpqlab.kernels.table_plan import Machine, Plan, entry_words, make_plan, segments_of

_HEADERS = ("ptx.cuh",)
_TYPES = {None: 0, torch.float32: 1, torch.float16: 2, torch.bfloat16: 3}
_BUILD_THREADS = 256


def run(
    prepared: Prepared, x: Tensor, *, overlap: bool = True, machine: Machine | None = None
) -> Tensor:
    """Return ``x @ weight.T + bias`` of all layers, side by side.

    The first call for a shape compiles; call once before capturing a CUDA graph.

    Parameters
    ----------
    prepared
        From :func:`dpqlab.kernels.table_layout.prepare`, on a CUDA device.
    x
        (M, in), M from 1 to 8; float32, float16 or bfloat16.
    overlap
        Whether the second kernel may start, and fetch codes, while the first builds the table.
    machine
        What to use of the GPU; None: all of it.

    Returns
    -------
    Tensor
        (M, total) in the dtype of ``x``.

    Raises
    ------
    ShapeError, BackendError
        If the input does not fit, or there is no kernel for it.
    """
    total, columns = prepared.shape
    if x.ndim != 2 or x.shape[1] != columns or x.dtype not in _TYPES:
        raise ShapeError(
            f"x must be (M, {columns}) of float32, float16 or bfloat16: got {tuple(x.shape)} of "
            f"{x.dtype}"
        )
    if not x.is_cuda or x.device != prepared.words.device:
        raise BackendError(
            f"x must be on the CUDA device of the codes, {prepared.words.device}: got {x.device}"
        )
    x, machine = x.contiguous(), machine or machine_of(x.device)
    plan = _plan(prepared.groups, prepared.positions, prepared.code_bits, len(x), machine)
    tables, undo = _build(prepared, x, plan, machine)
    y = x.new_empty(len(x), total)
    segments, starts = _segments(prepared.groups, plan, x.device)
    source = lookup_source(prepared, len(x), x.dtype, plan, machine)
    nvrtc.launch(
        nvrtc.load_kernel(source, "table_linear", x.device, plan.shared),
        (plan.blocks, 1),
        _threads(plan, machine),
        [
            *(prepared.words, segments, starts, tables, undo, prepared.scale, prepared.bias, y),
            ctypes.c_longlong(prepared.words.shape[1]),
            ctypes.c_int(total),
        ],
        shared=plan.shared,
        overlap=overlap and machine.bulk,
    )
    return y


def build_source(
    prepared: Prepared, rows: int, vectors: tuple[int, int], dtype: torch.dtype, machine: Machine
) -> nvrtc.Source:
    """Return the kernel that builds the table; ``vectors``: bytes of a load of x, of the pool."""
    return nvrtc.package_source(
        "table_build.cu",
        _HEADERS,
        {
            "LENGTH": max(4, 1 << prepared.code_bits),
            "POSITIONS": prepared.positions,
            "D": prepared.pool.shape[1],
            "COLUMNS": prepared.shape[1],
            "ROWS": rows,
            "WORDS": entry_words(rows),
            "X_TYPE": _TYPES[dtype],
            "POOL_TYPE": _TYPES[prepared.pool.dtype],
            "X_VECTOR": vectors[0],
            "POOL_VECTOR": vectors[1],
            "INDEXED": int(prepared.indices is not None),
            "BULK": int(machine.bulk),
        },
    )


def lookup_source(
    prepared: Prepared, rows: int, dtype: torch.dtype, plan: Plan, machine: Machine
) -> nvrtc.Source:
    """Return the kernel that looks up."""
    scale, bias = prepared.scale, prepared.bias
    return nvrtc.package_source(
        "table_linear.cu",
        _HEADERS,
        {
            "BITS": prepared.code_bits,
            "LENGTH": plan.length,
            "POSITIONS": prepared.positions,
            "ROWS": rows,
            "WORDS": plan.words,
            "SPAN": plan.span,
            "BUFFERS": plan.buffers,
            "UNITS": plan.units,
            "AHEAD": plan.ahead,
            "THREADS": _threads(plan, machine),
            "Y_TYPE": _TYPES[dtype],
            "SCALE_TYPE": 0 if scale is None else _TYPES[scale.dtype],
            "BIAS_TYPE": 0 if bias is None else _TYPES[bias.dtype],
            "BULK": int(machine.bulk),
        },
    )


def _build(prepared: Prepared, x: Tensor, plan: Plan, machine: Machine) -> tuple[Tensor, Tensor]:
    """Launch the first kernel: returns tables (T, m, length, words) and ``undo`` (M,)."""
    count = len(prepared.first)
    shape = (count, prepared.positions, plan.length, plan.words)
    tables = torch.empty(shape, dtype=torch.int32, device=x.device)
    undo = torch.empty(len(x), device=x.device)
    d, columns = prepared.pool.shape[1], prepared.shape[1]
    vectors = (
        _vector(x, d * x.element_size(), columns * x.element_size()),
        _vector(prepared.pool, d * prepared.pool.element_size()),
    )
    source = build_source(prepared, len(x), vectors, x.dtype, machine)
    needed = -(-prepared.positions * plan.length // _BUILD_THREADS)
    nvrtc.launch(
        nvrtc.load_kernel(source, "build_tables", x.device),
        (max(1, min(needed, 8 * machine.blocks // count)), count),
        _BUILD_THREADS,
        [
            *(x, prepared.pool, prepared.first, prepared.size, prepared.indices, tables, undo),
            ctypes.c_int(prepared.exponent),
        ],
    )
    return tables, undo


def _vector(tensor: Tensor, *strides: int) -> int:
    """Return the bytes of the widest load that is aligned at all multiples of ``strides``."""
    sizes = (16, 8, 4)
    aligned = (s for s in sizes if all(value % s == 0 for value in (tensor.data_ptr(), *strides)))
    return next(aligned, tensor.element_size())


def _threads(plan: Plan, machine: Machine) -> int:
    return 32 * (plan.warps + int(machine.bulk))


@lru_cache(maxsize=64)
def machine_of(device: torch.device) -> Machine:
    """Return what a CUDA device has."""
    properties = torch.cuda.get_device_properties(device)
    return Machine(
        blocks=properties.multi_processor_count,
        shared=properties.shared_memory_per_block_optin,
        bulk=properties.major >= 9,
    )


@lru_cache(maxsize=64)
def _plan(
    groups: tuple[Group, ...], positions: int, code_bits: int, rows: int, machine: Machine
) -> Plan:
    return make_plan(groups, positions, code_bits, rows, machine)


@lru_cache(maxsize=64)
def _segments(groups: tuple[Group, ...], plan: Plan, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return segments, int32 (S, 4), and where each block's start, int32 (blocks + 1,)."""
    segments, starts = segments_of(groups, plan)
    rows = [(s.table, s.row, s.rows, s.out) for s in segments]
    return (
        torch.tensor(rows, dtype=torch.int32, device=device),
        torch.tensor(starts, dtype=torch.int32, device=device),
    )
