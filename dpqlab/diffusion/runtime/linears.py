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
    belt, late
        Which decodes them, and when: see :meth:`Belt.add`.
    """

    def __init__(self, parts: Sequence[Part], belt: Belt, *, late: bool = False) -> None:
        self.parts = tuple(parts)
        self.bias = joined_bias(parts, belt.dtype, belt.device)
        self.belt, self.place = belt, belt.add(parts, late=late)

    def __call__(self, x: Tensor, gelu: Gelu | None = None) -> Tensor:
        """Multiply."""
        y = product(x, self.belt.take(self.place), self.bias, gelu)
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


def token_linear(
    parts: Sequence[Part], mode: LinearMode, belt: Belt, *, late: bool = False
) -> TokenLinear:
    """Choose how a Linear of the model, or several with the same input, are computed.

    Parameters
    ----------
    parts
        The layers.
    mode
        What packed layers do.
    belt, late
        Through which they are decoded, and when: see :meth:`Belt.add`.
    """
    if mode == "hold" or all(part.dense is not None for part in parts):
        return DenseLinear(parts, belt)
    if mode == "kernel" and all(part.coded is not None for part in parts):
        return KernelLinear(parts, belt)
    return DecodedLinear(parts, belt, late=late)


def block_linears(
    qkv: Sequence[Part], out: Part, up: Part, down: Part, mode: LinearMode, belt: Belt
) -> tuple[TokenLinear, TokenLinear, TokenLinear, TokenLinear]:
    """Choose how the Linears of a block are computed, in the order in which they are used.

    Once q, k, v are made, the block's feed-forward branch is decoded, and with it q, k, v of the
    next block: while attention leaves most of a GPU alone. So a turn of the belt goes from one
    attention to the next.
    """
    first = token_linear(qkv, mode, belt), token_linear([out], mode, belt, late=True)
    belt.turn()
    return *first, token_linear([up], mode, belt), token_linear([down], mode, belt)


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
