"""A coded weight's tensors as the loops on the CPU take them, kept as long as they live."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from dpqlab.kernels.coded import CodedWeight
from dpqlab.kernels.regions import TASK

WHOLE_WORDS = (2, 3, 4, 6, 8, 16)
"""Lengths of codewords that loops are specialised for: those of the presets among them."""

Array = np.ndarray[Any, Any]
_Mark = tuple[tuple[Any, int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A weight as arrays; codes stay packed, only pool and scale may be copies.

    Attributes
    ----------
    stream
        uint8: the packed codes, zeros behind them where there are less than eight bytes.
    size, first, table
        As in :class:`~dpqlab.kernels.coded.CodedWeight`; no table has no elements.
    words
        float32 (P, d), the pool.
    scale
        float32 (out,), or no elements.
    shape
        (out, in) of the weight.
    most
        Codewords of the largest codebook.
    axes
        The length of a codeword as the loops want it.
    task
        A :data:`~dpqlab.kernels.regions.TASK` with the addresses of these arrays.
    """

    stream: Array
    size: Array
    first: Array
    table: Array
    words: Array
    scale: Array
    shape: tuple[int, int]
    most: int
    axes: tuple[int, ...]
    task: Array


_prepared: WeakIdKeyDictionary = WeakIdKeyDictionary()  # by codes
_words: WeakIdKeyDictionary = WeakIdKeyDictionary()  # by pool, which layers share


def prepare(weight: CodedWeight) -> Prepared:
    """Return the arrays of a weight on the CPU.

    They are made once for the same tensors, and again when a tensor has changed in place or is
    another one. As in autograd, a change through ``.data`` that keeps the memory goes unseen.
    """
    tensors = (weight.codes, weight.pool, weight.first, weight.size, weight.table, weight.scale)
    kept = _prepared.get(weight.codes)
    if kept is not None and _unchanged(kept[0], tensors):
        return kept[1]
    prepared, mark = _prepare(weight), _mark(tensors)
    if mark is not None:
        _prepared[weight.codes] = mark, prepared
    return prepared


def _prepare(weight: CodedWeight) -> Prepared:
    table, scale, d = weight.table, weight.scale, weight.d
    arrays = {
        "stream": _padded(weight.codes),
        "size": _numpy(weight.size, torch.int32),
        "first": _numpy(weight.first, torch.int32),
        "table": np.empty(0, np.int32) if table is None else _numpy(table, torch.int32),
        "words": _float32(weight.pool),
        "scale": np.empty(0, np.float32) if scale is None else _numpy(scale, torch.float32),
    }
    task = np.zeros(1, TASK)
    lengths = {"stream": "bytes", "table": "entries", "words": "pool", "scale": "scales"}
    for name, array in arrays.items():
        task[name] = array.ctypes.data
        if name in lengths:
            task[lengths[name]] = len(array)
    task["bits"], task["positions"] = weight.code_bits, weight.positions
    task["d"], task["columns"] = d, weight.shape[1]
    return Prepared(
        **arrays,
        shape=weight.shape,
        most=int(weight.size.max()) if weight.positions else 0,
        axes=(0,) * d if d in WHOLE_WORDS else (),
        task=task,
    )


def _numpy(tensor: Tensor, dtype: torch.dtype) -> Array:
    # of an alias, so that the array keeps the memory alive but not the tensor, which is a weak key
    return tensor.detach().to(dtype).contiguous().numpy()


def _padded(codes: Tensor) -> Array:
    stream = _numpy(codes, torch.uint8)
    return stream if len(stream) >= 8 else np.pad(stream, (0, 8))  # loops read eight at once


def _float32(pool: Tensor) -> Array:
    kept = _words.get(pool)
    if kept is not None and _unchanged(kept[0], (pool,)):
        return kept[1]
    words, mark = _numpy(pool, torch.float32), _mark((pool,))
    if mark is not None:
        _words[pool] = mark, words
    return words


def _mark(tensors: tuple[Tensor | None, ...]) -> _Mark | None:
    """Return what tells whether tensors have changed, or None where nothing can."""
    if any(tensor is not None and tensor.is_inference() for tensor in tensors):
        return None
    return tuple(
        (None, 0, 0)
        if tensor is None
        else (weakref.ref(tensor), tensor._version, tensor.data_ptr())
        for tensor in tensors
    )


def _unchanged(mark: _Mark, tensors: tuple[Tensor | None, ...]) -> bool:
    for (held, version, address), tensor in zip(mark, tensors, strict=True):
        if tensor is None or held is None:
            if tensor is not held:
                return False
        elif held() is not tensor or tensor._version != version or tensor.data_ptr() != address:
            return False
    return True
