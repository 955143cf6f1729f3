"""The functions of :mod:`dpqlab.kernels.norms` on a GPU: each one launch, one pass over memory.

A program has one token; its C values stay in registers between the sums and the result.
"""

# triton's language is untyped, or takes its own types for numbers
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportUntypedFunctionDecorator=false, reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false, reportMissingImports=false, reportIndexIssue=false
# pyright: reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dpqlab.errors import ShapeError
from dpqlab.kernels.caches import keep_compilers_private

keep_compilers_private()

MAX_WIDTH = 4096  # values of a token: 32 registers of each thread


@triton.jit
def _norm_kernel(
    residual,
    y,
    gate,
    shift,
    scale,
    added,
    normed,
    tokens,
    width,
    gate_stride,
    shift_stride,
    scale_stride,
    eps,
    GATED: tl.constexpr,
    NORMED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    image = row // tokens
    c = tl.arange(0, BLOCK)
    there = c < width
    x = tl.load(residual + row * width + c, mask=there, other=0.0).to(tl.float32)
    if GATED:
        g = tl.load(gate + image * gate_stride + c, mask=there, other=0.0).to(tl.float32)
        x += g * tl.load(y + row * width + c, mask=there, other=0.0).to(tl.float32)
        rounded = x.to(added.dtype.element_ty)
        tl.store(added + row * width + c, rounded, mask=there)
        x = rounded.to(tl.float32)  # the norm sees what the next layer will see
    if NORMED:
        a = tl.load(scale + image * scale_stride + c, mask=there, other=0.0).to(tl.float32)
        b = tl.load(shift + image * shift_stride + c, mask=there, other=0.0).to(tl.float32)
        away = tl.where(there, x - tl.sum(x, axis=0) / width, 0.0)
        variance = tl.sum(away * away, axis=0) / width
        result = away * tl.rsqrt(variance + eps) * (1.0 + a) + b
        tl.store(normed + row * width + c, result.to(normed.dtype.element_ty), mask=there)


def norm_modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """As :func:`dpqlab.kernels.norms.norm_modulate`, for C up to 4096.

    Raises
    ------
    ShapeError
        If C is larger or a shape does not fit.
    """
    x = x.contiguous()
    shift, scale = _modulation(shift, x), _modulation(scale, x)
    normed = torch.empty_like(x)
    grid, width, block = _grid(x)
    with torch.cuda.device(x.device if x.is_cuda else -1):
        _norm_kernel[grid](
            x, x, x, shift, scale, x, normed,
            x.shape[1], width, 0, shift.stride(0), scale.stride(0), eps,
            GATED=False, NORMED=True, BLOCK=block, num_warps=_warps(block),
        )  # fmt: skip
    return normed


def gate_add(residual: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """As :func:`dpqlab.kernels.norms.gate_add`, for C up to 4096.

    Raises
    ------
    ShapeError
        If C is larger or a shape does not fit.
    """
    residual, y, gate = _gated(residual, y, gate)
    added = torch.empty_like(residual)
    grid, width, block = _grid(residual)
    with torch.cuda.device(residual.device if residual.is_cuda else -1):
        _norm_kernel[grid](
            residual, y, gate, gate, gate, added, added,
            residual.shape[1], width, gate.stride(0), 0, 0, 0.0,
            GATED=True, NORMED=False, BLOCK=block, num_warps=_warps(block),
        )  # fmt: skip
    return added


def gate_add_norm_modulate(
    residual: Tensor, y: Tensor, gate: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """As :func:`dpqlab.kernels.norms.gate_add_norm_modulate`, for C up to 4096.

    Raises
    ------
    ShapeError
        If C is larger or a shape does not fit.
    """
    residual, y, gate = _gated(residual, y, gate)
    shift, scale = _modulation(shift, residual), _modulation(scale, residual)
    added, normed = torch.empty_like(residual), torch.empty_like(residual)
    grid, width, block = _grid(residual)
    with torch.cuda.device(residual.device if residual.is_cuda else -1):
        _norm_kernel[grid](
            residual, y, gate, shift, scale, added, normed,
            residual.shape[1], width, gate.stride(0), shift.stride(0), scale.stride(0), eps,
            GATED=True, NORMED=True, BLOCK=block, num_warps=_warps(block),
        )  # fmt: skip
    return added, normed


def _gated(residual: Tensor, y: Tensor, gate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if y.shape != residual.shape:
        raise ShapeError(
            f"y must have the shape of residual, {tuple(residual.shape)}: got {tuple(y.shape)}"
        )
    residual = residual.contiguous()
    return residual, y.contiguous(), _modulation(gate, residual)


def _modulation(values: Tensor, x: Tensor) -> Tensor:
    """Check a modulation; a chunk of a wider tensor stays where it is."""
    if x.ndim != 3 or values.shape != (x.shape[0], x.shape[2]):
        raise ShapeError(
            "expected activations (batch, tokens, C) and modulations (batch, C): got "
            f"{tuple(x.shape)} and {tuple(values.shape)}"
        )
    return values if values.stride(1) == 1 else values.contiguous()


def _grid(x: Tensor) -> tuple[tuple[int], int, int]:
    """Return the grid, C, and C rounded up to a power of two."""
    width = x.shape[-1]
    if width > MAX_WIDTH:
        raise ShapeError(
            f"the last dimension is at most {MAX_WIDTH}: got {width}; use dpqlab.kernels.norms"
        )
    return (x.numel() // max(width, 1),), width, triton.next_power_of_2(width)


def _warps(block: int) -> int:
    """Return the warps of a program: up to 16 values a thread, 4 warps at least for one row."""
    return 4 if block <= 2048 else 8
