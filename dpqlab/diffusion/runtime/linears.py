"""Linears of a runtime: dense, decoded through a belt of two buffers, or in one kernel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from dpqlab.diffusion.runtime.belt import Belt
from dpqlab.diffusion.runtime.config import Held, LinearMode
from dpqlab.diffusion.runtime.parts import Part, held_weight, joined_bias

Gelu = Literal["none", "tanh"]
"""GELU as it is, or its tanh approximation: the names of ``torch.nn.functional.gelu``."""


class TokenLinear(Protocol):
    """One or several Linears of the model with the same input, their outputs side by side."""

    def __call__(self, x: Tensor, gelu: Gelu | None = None) -> Tensor:
        """Apply them to (..., in), giving (..., out), and GELU to that if asked."""
        ...

    def held(self) -> Iterator[Held]:
        """Yield the tensors kept."""
        ...


class DenseLinear:
    """A dense weight, in the dtype computed in: the model's own where it is one layer of it."""

    def __init__(self, parts: Sequence[Part], belt: Belt) -> None:
        self.weight = held_weight(parts, belt.dtype, belt.device)
        self.bias = joined_bias(parts, belt.dtype, belt.device)

    def __call__(self, x: Tensor, gelu: Gelu | None = None) -> Tensor:
        """Multiply."""
        return product(x, self.weight, self.bias, gelu)

    def held(self) -> Iterator[Held]:
        """Yield the tensors kept."""
        yield "dense", self.weight
        yield from _bias(self.bias)


class DecodedLinear:
    """Packed weights, decoded anew for every pass through the belt.

    Parameters
    ----------
    parts
        Layers below each other.
    belt, place
        Which decodes them, and where in its order.
    rows
        Where they are among what is decoded there.
    """

    def __init__(self, parts: Sequence[Part], belt: Belt, place: int, rows: slice) -> None:
        self.parts = tuple(parts)
        self.bias = joined_bias(parts, belt.dtype, belt.device)
        self.belt, self.place, self.rows = belt, place, rows

    def __call__(self, x: Tensor, gelu: Gelu | None = None) -> Tensor:
        """Multiply; the last of those that were decoded together gives the buffer free."""
        weight = self.belt.take(self.place, first=self.rows.start == 0)
        y = product(x, weight[self.rows], self.bias, gelu)
        if self.rows.stop == len(weight):
            self.belt.release(self.place)
        return y

    def held(self) -> Iterator[Held]:
        """Yield the tensors kept; the buffers are the belt's."""
        for part in self.parts:
            yield from part.held()
        yield from _bias(self.bias)


class KernelLinear:
    """Coded weights and the kernel that suits the number of rows: nothing is decoded in advance."""

    def __init__(self, parts: Sequence[Part], belt: Belt) -> None:
        self.parts = tuple(parts)
        self.biases = tuple(joined_bias([part], belt.dtype, belt.device) for part in parts)

    def __call__(self, x: Tensor, gelu: Gelu | None = None) -> Tensor:
        """Multiply, one launch a layer."""
        flat = x.reshape(-1, x.shape[-1])
        pairs = zip(self.parts, self.biases, strict=True)
        results = [kernel_product(flat, part, bias) for part, bias in pairs]
        y = results[0] if len(results) == 1 else torch.cat(results, dim=1)
        y = y.view(*x.shape[:-1], -1)
        return y if gelu is None else F.gelu(y, approximate=gelu)

    def held(self) -> Iterator[Held]:
        """Yield the tensors kept."""
        for part, bias in zip(self.parts, self.biases, strict=True):
            yield from part.held()
            yield from _bias(bias)


def token_linears(
    groups: Sequence[Sequence[Part]], mode: LinearMode, belt: Belt
) -> tuple[TokenLinear, ...]:
    """Choose how Linears that are used one after the other are computed.

    Parameters
    ----------
    groups
        Layers with the same input, for each of the Linears; all with inputs of the same length.
        Those that are decoded are decoded together: fewer and larger launches.
    mode
        What packed layers do.
    belt
        Through which they are decoded.
    """
    layers = [part for parts in groups for part in parts]
    if mode == "hold" or all(part.dense is not None for part in layers):
        return tuple(DenseLinear(parts, belt) for parts in groups)
    if mode == "kernel" and all(part.coded is not None for part in layers):
        return tuple(KernelLinear(parts, belt) for parts in groups)
    place, linears, row = belt.add(layers), list[TokenLinear](), 0
    for parts in groups:
        rows = slice(row, row + sum(part.shape[0] for part in parts))
        linears.append(DecodedLinear(parts, belt, place, rows))
        row = rows.stop
    return tuple(linears)


def token_linear(parts: Sequence[Part], mode: LinearMode, belt: Belt) -> TokenLinear:
    """Choose how a Linear of the model, or several with the same input, are computed."""
    return token_linears([parts], mode, belt)[0]


def product(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: Gelu | None) -> Tensor:
    """Return ``x @ weight.T + bias`` of shape (..., out), and GELU of it if asked."""
    if gelu == "tanh" and bias is not None and x.is_cuda:
        # cuBLASLt adds the bias and applies GELU (this approximation) before it writes; the CPU's
        # version of the operator uses the exact one
        flat = x.reshape(-1, x.shape[-1])
        y = torch.ops.aten._addmm_activation(bias, flat, weight.T, use_gelu=True)
        return y.view(*x.shape[:-1], -1)
    y = F.linear(x, weight, bias)
    return y if gelu is None else F.gelu(y, approximate=gelu)


def kernel_product(x: Tensor, part: Part, bias: Tensor | None) -> Tensor:
    """Return ``x @ W.T + bias`` of a coded layer for x (M, in) by the kernel for its M."""
    from dpqlab.kernels.linears import chosen_linear

    assert part.coded is not None
    return chosen_linear(x, part.coded, bias)


def _bias(bias: Tensor | None) -> Iterator[Held]:
    if bias is not None:
        yield "biases", bias
