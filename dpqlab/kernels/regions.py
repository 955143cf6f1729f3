"""What several threads do at once on the CPU: compiled, from one pointer to a record.

Threads claim runs of rows of the weight until none is left. Nothing here needs the interpreter, so
they may be PyTorch's own (see :mod:`dpqlab.kernels.team`). Importing this module needs numba.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numba
import numpy as np
from numba.core import types
from numba.np.numpy_support import from_dtype

from dpqlab.kernels.coded_loops import Axes, decode_rows, table_rows
from dpqlab.kernels.jit import compiled, compiled_entry
from dpqlab.kernels.vectors import claim, memory, multiply

TASK = np.dtype(
    [
        # changed by the threads: runs that were claimed, threads that came
        *((name, np.int64) for name in ("claimed", "members")),
        # the weight: addresses of arrays, their lengths, and its geometry
        *((name, np.int64) for name in ("stream", "bytes", "bits", "size", "first", "positions")),
        *((name, np.int64) for name in ("table", "entries", "words", "scale", "scales")),
        *((name, np.int64) for name in ("pool", "d", "columns")),
        # what to do: rows from `start` on, in runs of `run`, written to `out` in steps of `stride`
        *((name, np.int64) for name in ("start", "rows", "run", "out", "stride")),
        # a product besides: x is (height, columns), or transposed and padded for tables
        *((name, np.int64) for name in ("x", "height", "bias", "scratch", "sgemm", "block")),
    ]
)
"""One record for all regions; addresses are integers, 0 for none."""

_POINTER = types.CPointer(from_dtype(TASK))
_SIGNATURE = types.void(_POINTER)


@compiled()
def _weight(task: Any) -> Any:
    """Return the arrays of a weight in the order that loops take them."""
    m = task.positions
    return (
        numba.carray(memory(task.stream), task.bytes, np.uint8),
        task.bits,
        numba.carray(memory(task.size), m, np.int32),
        numba.carray(memory(task.first), m, np.int32),
        numba.carray(memory(task.table), task.entries, np.int32),
        numba.carray(memory(task.words), (task.pool, task.d), np.float32),
        numba.carray(memory(task.scale), task.scales, np.float32),
    )


@compiled()
def _decode_run(task: Any, begin: int, out: np.ndarray, axes: Axes) -> None:
    stream, bits, size, first, table, words, scale = _weight(task)
    start = task.start + begin
    decode_rows(stream, bits, size, first, table, words, scale, start, out, axes)


@lru_cache
def decode_region(axes: Axes) -> int:
    """Return the address of the region that decodes into ``out``, float32 (rows, columns)."""

    def region(pointer: Any) -> None:
        task = numba.carray(pointer, 1)[0]
        out = numba.carray(memory(task.out), (task.rows, task.columns), np.float32)
        while True:
            begin = claim(pointer, 0) * task.run
            if begin >= task.rows:
                break
            _decode_run(task, begin, out[begin : min(begin + task.run, task.rows)], axes)

    return compiled_entry(region, _SIGNATURE)


@lru_cache
def product_region(axes: Axes) -> int:
    """Return the address of the region that decodes a run into scratch, then multiplies by it.

    It sets ``out`` (height, stride), and needs ``scratch`` of run * columns float32 for a thread.
    """

    def region(pointer: Any) -> None:
        task = numba.carray(pointer, 1)[0]
        columns, height = task.columns, task.height
        scratch = task.scratch + 4 * claim(pointer, 1) * task.run * columns
        tile = numba.carray(memory(scratch), (task.run, columns), np.float32)
        out = numba.carray(memory(task.out), (height, task.stride), np.float32)
        bias = numba.carray(memory(task.bias), task.rows if task.bias != 0 else 0, np.float32)
        sizes = np.array([0, height, columns, columns, columns, task.stride])
        factors = np.array([1.0, 1.0 if task.bias != 0 else 0.0], np.float32)
        while True:
            begin = claim(pointer, 0) * task.run
            if begin >= task.rows:
                break
            sizes[0] = min(task.run, task.rows - begin)
            _decode_run(task, begin, tile[: sizes[0]], axes)
            if task.bias != 0:
                part = bias[begin : begin + sizes[0]]
                for r in range(height):
                    row = out[r, begin : begin + sizes[0]]
                    for j in range(len(part)):
                        row[j] = part[j]
            target = task.out + 4 * begin
            multiply(task.sgemm, sizes.ctypes.data, factors.ctypes.data, scratch, task.x, target)

    return compiled_entry(region, _SIGNATURE)


@lru_cache
def table_region(axes: Axes, lanes: Axes) -> int:
    """Return the address of the region that looks up sums for ``out``, float32 (rows, lanes)."""

    def region(pointer: Any) -> None:
        task = numba.carray(pointer, 1)[0]
        stream, bits, size, first, table, words, _ = _weight(task)
        x = numba.carray(memory(task.x), (task.positions * task.d, len(lanes)), np.float32)
        out = numba.carray(memory(task.out), (task.rows, len(lanes)), np.float32)
        while True:
            begin = claim(pointer, 0) * task.run
            if begin >= task.rows:
                break
            total = out[begin : min(begin + task.run, task.rows)]
            start = task.start + begin
            table_rows(
                stream, bits, size, first, table, words, x, start, total, task.block, axes, lanes
            )

    return compiled_entry(region, _SIGNATURE)
