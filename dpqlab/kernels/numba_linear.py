"""Decoding and multiplying on the CPU with numba. Importing this module needs numba.

:func:`decode` gives the bits that :mod:`dpqlab.kernels.reference` defines, :func:`decoded_linear`
multiplies by them a tile at a time, and :func:`table_linear` computes the same sums in another
order. Threads (``torch.get_num_threads``) take different rows of the weight, which are different
outputs: nothing is added up across threads. So their number changes no bit of what is decoded or
looked up; of a dense product it may, as the BLAS that multiplies gets other tiles.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dpqlab.kernels import regions, team
from dpqlab.kernels.coded import CodedWeight
from dpqlab.kernels.prepared import Prepared, prepare

__all__ = ["decode", "decoded_linear", "prepare", "table_linear"]

TILE_BYTES = 5 << 18  # of decoded weight that a thread has at a time: it stays in its cache
TABLE_BYTES = 1 << 19  # of looked-up sums at a time
MOST_LANES = 16  # rows of x that are looked up together
_LEAST_ROWS = 64  # of a tile: a product with fewer is slow
_ALONE = 1 << 12  # codes that one thread has read before another would have begun

_PLACES = {name: place for place, name in enumerate(regions.TASK.names or ())}
_local = threading.local()


def decode(weight: CodedWeight, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    """Return the weight (out, in), as :func:`dpqlab.kernels.reference.decode` does, bit for bit.

    Parameters
    ----------
    weight
        What is stored, on the CPU; no tensor of it is float64.
    dtype
        Of the result.
    out
        (out, in) tensor of that dtype to write into.
    """
    result = torch.empty(weight.shape, dtype=dtype) if out is None else out
    ready, flat = prepare(weight), result.detach()
    if dtype == torch.float32 and flat.is_contiguous():
        _decode_rows(ready, 0, flat)
        return result
    height = _tile_height(*weight.shape)
    scratch = _scratch(height, weight.shape[1])
    for start in range(0, len(flat), height):
        part = flat[start : start + height]
        part.copy_(_decode_rows(ready, start, scratch[: len(part)]))
    return result


def decoded_linear(x: Tensor, weight: CodedWeight, bias: Tensor | None) -> Tensor:
    """Return ``x @ W.T + bias`` (M, out): some outputs at a time, so that W never is whole.

    Parameters
    ----------
    x
        (M, in), float.
    weight
        What is stored, on the CPU.
    bias
        (out,) or None; it is cast to the dtype of ``x``.
    """
    ready, (out, columns) = prepare(weight), weight.shape
    result = x.new_empty(len(x), out)
    bias = None if bias is None else bias.detach().to(x.dtype).contiguous()
    if not result.numel():
        return result
    if x.dtype == torch.float32 and columns and team.blas_address():
        _decode_and_multiply(x.detach().contiguous(), ready, bias, result)
        return result
    height = _tile_height(out, columns)
    scratch = _scratch(height, columns)
    for start in range(0, out, height):
        tile = scratch[: min(height, out - start)]
        right = _decode_rows(ready, start, tile).to(x.dtype).T
        part = result[:, start : start + height]
        if bias is None:
            torch.mm(x, right, out=part)
        else:
            torch.addmm(bias[start : start + height], x, right, out=part)
    return result


def table_linear(x: Tensor, weight: CodedWeight, bias: Tensor | None) -> Tensor:
    """Return ``x @ W.T + bias`` (M, out) for few rows of x, without decoding.

    The products of x with all codewords are computed, then one is looked up for each code. All is
    float32, whatever ``x`` is: the weight is not rounded to the dtype of ``x`` as the reference
    does. The result is off by less than 2e-6 of ``sum |x W| + |bias|``, and by its own rounding.

    Parameters
    ----------
    x
        (M, in), float. Up to sixteen rows are done together.
    weight
        What is stored, on the CPU.
    bias
        (out,) or None.
    """
    ready = prepare(weight)
    result = torch.empty(len(x), weight.shape[0])
    for start in range(0, len(x), MOST_LANES):
        rows = slice(start, start + MOST_LANES)
        result[rows] = _look_up(x[rows], ready)
    if len(ready.scale):
        result *= torch.from_numpy(ready.scale)
    if bias is not None:
        result += bias
    return result.to(x.dtype)


def _decode_rows(ready: Prepared, start: int, out: Tensor) -> Tensor:
    """Decode rows from ``start`` on into ``out``, float32 and contiguous."""
    threads = _threads(ready, len(out))
    run = -(-len(out) // threads)
    fields = {"start": start, "rows": len(out), "run": run, "out": out.data_ptr()}
    team.run(regions.decode_region(ready.axes), _task(ready, fields), threads)
    return out


def _decode_and_multiply(x: Tensor, ready: Prepared, bias: Tensor | None, result: Tensor) -> None:
    """Set ``result`` to ``x @ W.T + bias``; each thread multiplies by what it has just decoded."""
    out, columns = ready.shape
    threads = _threads(ready, out)
    run = _tile_height(-(-out // threads), columns)
    scratch = _scratch(threads * run, columns)
    fields = {
        "rows": out,
        "run": run,
        "out": result.data_ptr(),
        "stride": out,
        "x": x.data_ptr(),
        "height": len(x),
        "bias": 0 if bias is None else bias.data_ptr(),
        "scratch": scratch.data_ptr(),
        "sgemm": team.blas_address(),
    }
    team.run(regions.product_region(ready.axes), _task(ready, fields), threads)


def _look_up(x: Tensor, ready: Prepared) -> Tensor:
    """Return ``x @ W.T`` without row scales, float32 (M, out), for as many rows as lanes."""
    out, columns = ready.shape
    width = 1 << (len(x) - 1).bit_length()
    inputs = torch.zeros(len(ready.size) * ready.words.shape[1], width)
    inputs[:columns, : len(x)] = x.T
    block = TABLE_BYTES // (4 * width * max(ready.most, 1))
    block = max(block & ~7, 8)  # codes are unpacked by eight
    total, threads = torch.empty(out, width), _threads(ready, out)
    fields = {
        "rows": out,
        "run": -(-out // threads),
        "out": total.data_ptr(),
        "x": inputs.data_ptr(),
        "block": block,
    }
    region = regions.table_region(ready.axes, (0,) * width)
    team.run(region, _task(ready, fields), threads)
    return total[:, : len(x)].T


def _task(ready: Prepared, fields: dict[str, int]) -> np.ndarray[Any, Any]:
    """Return a copy of a weight's task with further fields set."""
    task = ready.task.view(np.int64).copy()
    for name, value in fields.items():
        task[_PLACES[name]] = value  # ten times as fast as by the name
    return task


def _threads(ready: Prepared, rows: int) -> int:
    """Return how many threads some rows are worth."""
    return torch.get_num_threads() if rows * len(ready.size) > _ALONE else 1


def _tile_height(out: int, columns: int) -> int:
    """Return the rows that are decoded together: equal tiles, each about within TILE_BYTES."""
    most = max(TILE_BYTES // (4 * max(columns, 1)), _LEAST_ROWS)
    tiles = max(-(-out // most), 1)
    return max(-(-out // tiles), 1)


def _scratch(rows: int, columns: int) -> Tensor:
    """Return float32 memory that is this thread's own and stays: a fresh one costs page faults."""
    held = getattr(_local, "scratch", None)
    if held is None or len(held) < rows * columns:
        held = _local.scratch = np.empty(rows * columns, np.float32)
    return torch.from_numpy(held[: rows * columns].reshape(rows, columns))
