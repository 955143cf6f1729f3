"""Several Linears with one small input in as few products as their weights allow."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from dpqlab.diffusion.runtime.belt import Belt
from dpqlab.diffusion.runtime.config import Held
from dpqlab.diffusion.runtime.linears import kernel_product
from dpqlab.diffusion.runtime.parts import Part, held_weight, joined_bias
from dpqlab.kernels.dispatch import VARIABLE


class Run(Protocol):
    """Neighbouring layers, their outputs side by side."""

    def __call__(self, x: Tensor) -> Tensor:
        """Apply them to (M, in), giving (M, sum of out)."""
        ...

    def held(self) -> Iterator[Held]:
        """Yield the tensors kept."""
        ...


class DenseRun:
    """Dense layers as one weight."""

    def __init__(self, parts: Sequence[Part], belt: Belt) -> None:
        self.weight = held_weight(parts, belt.dtype, belt.device)
        self.bias = joined_bias(parts, belt.dtype, belt.device)

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply."""
        return F.linear(x, self.weight, self.bias)

    def held(self) -> Iterator[Held]:
        """Yield the tensors kept."""
        yield "dense", self.weight
        if self.bias is not None:
            yield "biases", self.bias


class TableRun:
    """Coded layers on CUDA: one launch looks up the products of x with all codewords.

    The kernel has a layout of its own for the codes; it is kept instead of theirs.
    """

    def __init__(self, parts: Sequence[Part], rows: int) -> None:
        from dpqlab.kernels.table_layout import prepare

        weights = [part.coded for part in parts if part.coded is not None]
        self.prepared = prepare(weights, [part.bias for part in parts])
        self.rows = rows

    def __call__(self, x: Tensor) -> Tensor:
        """Look up, as many rows of x at a time as the kernel takes."""
        from dpqlab.kernels.cuda_table import run

        pieces = [run(self.prepared, rows) for rows in x.split(self.rows)]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def held(self) -> Iterator[Held]:
        """Yield the tensors kept."""
        prepared: Any = self.prepared
        fields = {
            "words": "codes",
            "pool": "pools",
            "first": "scopes",
            "size": "scopes",
            "indices": "tables",
            "scale": "scales",
            "bias": "biases",
        }
        for name, part in fields.items():
            tensor = getattr(prepared, name)
            if tensor is not None:
                yield part, tensor


class PackedRun:
    """Packed layers one after the other: on the CPU a kernel each, else decoded and multiplied."""

    def __init__(self, parts: Sequence[Part], belt: Belt) -> None:
        self.parts, self.belt = tuple(parts), belt
        self.biases = [joined_bias([part], belt.dtype, belt.device) for part in parts]
        for part in parts:
            if not self._by_kernel(part):
                belt.reserve([part])

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply."""
        pairs = zip(self.parts, self.biases, strict=True)
        return torch.cat([self._one(x, part, bias) for part, bias in pairs], dim=1)

    def _by_kernel(self, part: Part) -> bool:
        return part.coded is not None and self.belt.device.type == "cpu"

    def _one(self, x: Tensor, part: Part, bias: Tensor | None) -> Tensor:
        if self._by_kernel(part):
            return kernel_product(x, part, bias)
        return F.linear(x, self.belt.decoded([part]), bias)

    def held(self) -> Iterator[Held]:
        """Yield the tensors kept."""
        for part, bias in zip(self.parts, self.biases, strict=True):
            yield from part.held()
            if bias is not None:
                yield "biases", bias


def runs_of(parts: Sequence[Part], belt: Belt) -> list[Run]:
    """Cut layers, in their order, into runs of one kind."""
    runs: list[list[Part]] = []
    for part in parts:
        if runs and _kind(runs[-1][0]) == _kind(part):
            runs[-1].append(part)
        else:
            runs.append([part])
    return [_run(run, belt) for run in runs]


def _run(parts: Sequence[Part], belt: Belt) -> Run:
    if parts[0].dense is not None:
        return DenseRun(parts, belt)
    rows = _table_rows(parts, belt.device)
    return TableRun(parts, rows) if rows else PackedRun(parts, belt)


def _kind(part: Part) -> tuple[bool, int | None]:
    """Return what neighbours in a run have in common: codes of equally long sub-vectors, say."""
    return part.dense is None, None if part.coded is None else part.coded.d


def _table_rows(parts: Sequence[Part], device: torch.device) -> int:
    """Return how many rows of x the table kernel takes at once here; 0 if it cannot be used."""
    coded = [part.coded for part in parts if part.coded is not None]
    if device.type != "cuda" or len(coded) < len(parts):
        return 0
    if (os.environ.get(VARIABLE) or "cuda") != "cuda":
        return 0
    from dpqlab.kernels import nvrtc, table_plan

    if nvrtc.trouble() is not None:
        return 0
    bits = max(weight.code_bits for weight in coded)
    fitting = (n for n in range(table_plan.MAX_ROWS, 0, -1) if not table_plan.refusal(n, bits))
    return next(fitting, 0)
