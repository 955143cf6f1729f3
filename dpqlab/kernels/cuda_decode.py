"""Weights written out on a GPU from their codes through shared memory: the fastest way for d 4, 8.

Anything else (other ``d``, float32 results, pools that are not float16, codebooks of more than
1,024) is Triton's: see :mod:`dpqlab.kernels.triton_decode`, which computes the same, bit for bit.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dpqlab.errors import BackendError, ShapeError
from dpqlab.kernels import nvrtc
from dpqlab.kernels.coded import CodedWeight

LENGTHS = (4, 8)
"""Values of a codeword: 8 or 16 bytes, one load and one store."""
MAX_BITS = 10
OUT_TYPES = {torch.float16: 2, torch.bfloat16: 3}
WHOLE_BYTES = 32 << 10
"""A pool (or table) up to this size is copied into shared memory in whole."""
CODEBOOK_BYTES = 64 << 10
"""Most shared memory for the codebooks of a tile's positions."""
WHOLE_TILE = (512, 12, 384)
"""Threads, rows that each asks for at once, and rows, of a tile with all codewords."""
TALL_TILE = (1024, 5, 640)
"""The same of one that copies codebooks for each position: tall, to be worth it."""
LAYERS = 4
"""Most layers of a launch: their addresses are passed by value."""
_FIELDS = 10
_Descriptors = ctypes.c_longlong * (LAYERS * _FIELDS)


@dataclass(frozen=True, kw_only=True)
class DecodeForm:
    """What a kernel is compiled for.

    Attributes
    ----------
    d, bits
        Values of a codeword, bits of a code.
    whole
        Whether shared memory holds all codewords, or those of the tile's positions.
    positions, stride
        Of a row: codes, and values from one to the next in the result.
    across, threads, unroll, loops
        Of a tile: positions across, threads, rows that each of them asks for at once, and how many
        times it does.
    scaled
        Whether rows have a scale.
    dtype
        Of the result.
    """

    d: int
    bits: int
    whole: bool
    positions: int
    stride: int
    across: int
    threads: int
    unroll: int
    loops: int
    scaled: bool
    dtype: torch.dtype

    @property
    def rows(self) -> int:
        """Rows of a tile."""
        return self.threads // self.across * self.unroll * self.loops

    @property
    def loads(self) -> int:
        """Bytes that a code may lie in: it starts at a multiple of ``gcd(bits, 8)`` in a byte."""
        return (8 - math.gcd(self.bits, 8) + self.bits + 7) // 8

    def source(self) -> nvrtc.Source:
        """Return what is compiled."""
        options = {
            "D": self.d,
            "BITS": self.bits,
            "WHOLE": int(self.whole),
            "G": self.across,
            "POSITIONS": self.positions,
            "STRIDE": self.stride,
            "SCALED": int(self.scaled),
            "OUT_TYPE": OUT_TYPES[self.dtype],
            "LOADS": self.loads,
            "THREADS": self.threads,
            "UNROLL": self.unroll,
            "LOOPS": self.loops,
            "LAYERS": LAYERS,
            "BULK": 0,
        }
        return nvrtc.package_source("decode.cu", ("ptx.cuh",), options)


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodeGroup:
    """Layers of one form, and where they are to be written: one launch.

    Attributes
    ----------
    form
        What the kernel is compiled for.
    layers, count
        Addresses and sizes of up to four layers, and how many there are.
    kept
        Everything that those addresses point into.
    blocks, shared
        Of the launch: blocks, bytes of shared memory.
    """

    form: DecodeForm
    layers: Any
    count: int
    kept: tuple[Tensor | None, ...]
    blocks: int
    shared: int


def refusal(weight: CodedWeight, dtype: torch.dtype) -> str | None:
    """Return why a weight cannot be decoded here, or None if it can."""
    if weight.d not in LENGTHS or weight.shape[1] % weight.d:
        return f"d is {weight.d} of {weight.shape[1]} columns: expected 4 or 8, dividing them"
    if weight.shape[1] % 8:
        return f"rows have {weight.shape[1]} values: expected a multiple of 8"
    if weight.code_bits > MAX_BITS:
        return f"codes have {weight.code_bits} bits: expected at most {MAX_BITS}"
    if dtype not in OUT_TYPES or weight.pool.dtype != torch.float16:
        return f"{weight.pool.dtype} to {dtype}: expected float16 to float16 or bfloat16"
    if weight.scale is not None and weight.scale.dtype != torch.float16:
        return f"scales are {weight.scale.dtype}: expected float16"
    return None


def form_of(weight: CodedWeight, dtype: torch.dtype, stride: int | None = None) -> DecodeForm:
    """Return what decodes a weight.

    Parameters
    ----------
    weight, dtype
        What is decoded, and to what.
    stride
        Values from row to row of the result; None: those of a row.

    Raises
    ------
    BackendError
        If nothing does: see :func:`refusal`.
    """
    if (why := refusal(weight, dtype)) is not None:
        raise BackendError(f"no CUDA decoder for this weight: {why}; Triton has one")
    rows = len(weight.pool if weight.table is None else weight.table)
    word = 2 * weight.d
    whole = rows * word <= WHOLE_BYTES
    # 128 bytes a row where codebooks are copied for each position, 256 where they are not
    across = (256 if whole else 128) // word
    if not whole:
        across = max(1, min(across, CODEBOOK_BYTES // (word << weight.code_bits)))
    threads, unroll, height = WHOLE_TILE if whole else TALL_TILE
    return DecodeForm(
        d=weight.d,
        bits=weight.code_bits,
        whole=whole,
        positions=weight.positions,
        stride=weight.shape[1] if stride is None else stride,
        across=across,
        threads=threads,
        unroll=unroll,
        loops=max(1, height // (threads // across * unroll)),
        scaled=weight.scale is not None,
        dtype=dtype,
    )


def group_decodes(weights: Sequence[CodedWeight], outs: Sequence[Tensor]) -> list[DecodeGroup]:
    """Prepare to write weights into buffers that stay where they are.

    Parameters
    ----------
    weights
        On one CUDA device.
    outs
        (out, in) each, of one dtype, their columns contiguous.

    Raises
    ------
    BackendError, ShapeError
        If a weight has no decoder here, or a buffer does not fit.
    """
    by_form: dict[DecodeForm, list[tuple[CodedWeight, Tensor]]] = {}
    for weight, out in zip(weights, outs, strict=True):
        _check(weight, out)
        form = form_of(weight, out.dtype, out.stride(0))
        by_form.setdefault(form, []).append((weight, out))
    return [
        _group(form, pairs[start : start + LAYERS])
        for form, pairs in by_form.items()
        for start in range(0, len(pairs), LAYERS)
    ]


def decode_many(groups: Sequence[DecodeGroup]) -> None:
    """Write the weights of some groups, one launch each."""
    for group in groups:
        codes = group.kept[0]
        assert codes is not None
        kernel = nvrtc.load_kernel(
            group.form.source(), "decode_layers", codes.device, CODEBOOK_BYTES
        )
        nvrtc.launch(
            kernel,
            (group.blocks, 1),
            group.form.threads,
            [group.layers, ctypes.c_int(group.count)],
            shared=group.shared,
        )


def decode(weight: CodedWeight, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    """Write one weight out: ``scale * codeword`` in float32, rounded once to ``dtype``.

    Parameters
    ----------
    weight
        On a CUDA device.
    dtype
        float16 or bfloat16.
    out
        Buffer (out, in) of that dtype, its columns contiguous; or None for a new one.
    """
    if out is None:
        out = torch.empty(weight.shape, dtype=dtype, device=weight.codes.device)
    decode_many(group_decodes([weight], [out]))
    return out


def _group(form: DecodeForm, pairs: Sequence[tuple[CodedWeight, Tensor]]) -> DecodeGroup:
    fields: list[int] = []
    kept: list[Tensor | None] = []
    blocks = most = 0
    for weight, out in pairs:
        entries = len(weight.pool if weight.table is None else weight.table)
        tensors = (*weight.tensors, out)
        kept += tensors
        fields += [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
        fields += [weight.shape[0], entries, blocks]
        blocks += -(-form.positions // form.across) * -(-weight.shape[0] // form.rows)
        most = max(most, entries)
    copied = most if form.whole else form.across << form.bits
    return DecodeGroup(
        form=form,
        layers=_Descriptors(*fields),
        count=len(pairs),
        kept=tuple(kept),
        blocks=blocks,
        shared=copied * 2 * form.d,
    )


def _check(weight: CodedWeight, out: Tensor) -> None:
    if tuple(out.shape) != weight.shape or out.stride(1) != 1 or out.stride(0) % 8:
        raise ShapeError(
            f"the buffer of a weight {weight.shape} has shape {tuple(out.shape)} and strides "
            f"{out.stride()}: expected that shape, contiguous columns, rows a multiple of 8 apart"
        )
    if out.data_ptr() % 16 or weight.pool.data_ptr() % 16:
        raise ShapeError("buffer and pool must start at a multiple of 16 bytes: copy them")
