"""The two operations on compressed weights that PyTorch knows by name, with their gradients.

``torch.ops.dpqlab.decode`` and ``torch.ops.dpqlab.linear`` are opaque to compilers and graphs:
which backend computes them is decided inside, by :func:`dpqlab.kernels.linears.choose_linear`, from
the number of rows at hand. They take what a checkpoint stores (the fields of
:class:`dpqlab.kernels.coded.CodedWeight`), and are differentiable in x, pool, scale and bias.
"""

# torch leaves custom operators and their contexts untyped
# pyright: reportUnknownMemberType=false, reportFunctionMemberAccess=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dpqlab.errors import ShapeError
from dpqlab.kernels import reference
from dpqlab.kernels.coded import CodedWeight
from dpqlab.kernels.linears import chosen_decode, chosen_linear


def decode(weight: CodedWeight, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the decoded weight (out, in), differentiable in pool and scale.

    Parameters
    ----------
    weight
        What is stored.
    dtype
        Of the result; the arithmetic is float32.
    """
    out, columns = weight.shape
    return _decode(*weight.tensors, out, columns, weight.code_bits, dtype)


def linear(x: Tensor, weight: CodedWeight, bias: Tensor | None = None) -> Tensor:
    """Return ``x @ W.T + bias``, differentiable in x, pool, scale and bias.

    Parameters
    ----------
    x
        (..., in), float.
    weight
        What is stored.
    bias
        (out,) or None; it is cast to the dtype of ``x``.

    Returns
    -------
    Tensor of shape (..., out), in the dtype of ``x``.

    Raises
    ------
    ShapeError
        If the last dimension of ``x`` is not ``in``.
    """
    out, columns = weight.shape
    if x.shape[-1] != columns:
        raise ShapeError(
            f"the input of a compressed Linear {out} x {columns} has shape {tuple(x.shape)}: "
            f"expected (..., {columns})"
        )
    rows = x.reshape(-1, columns)
    flat = _linear(rows, *weight.tensors, bias, out, weight.code_bits)
    return flat.reshape(*x.shape[:-1], out)


@torch.library.custom_op("dpqlab::decode", mutates_args=())
def _decode(
    codes: Tensor,
    pool: Tensor,
    first: Tensor,
    size: Tensor,
    table: Tensor | None,
    scale: Tensor | None,
    out: int,
    columns: int,
    code_bits: int,
    dtype: torch.dtype,
) -> Tensor:
    shape = (out, columns)
    return chosen_decode(_weight(codes, pool, first, size, table, scale, shape, code_bits), dtype)


@torch.library.custom_op("dpqlab::linear", mutates_args=())
def _linear(
    x: Tensor,
    codes: Tensor,
    pool: Tensor,
    first: Tensor,
    size: Tensor,
    table: Tensor | None,
    scale: Tensor | None,
    bias: Tensor | None,
    out: int,
    code_bits: int,
) -> Tensor:
    shape = (out, x.shape[1])
    weight = _weight(codes, pool, first, size, table, scale, shape, code_bits)
    return chosen_linear(x, weight, bias)


def _weight(
    codes: Tensor,
    pool: Tensor,
    first: Tensor,
    size: Tensor,
    table: Tensor | None,
    scale: Tensor | None,
    shape: tuple[int, int],
    code_bits: int,
) -> CodedWeight:
    return CodedWeight(
        codes=codes,
        pool=pool,
        first=first,
        size=size,
        table=table,
        scale=scale,
        shape=shape,
        code_bits=code_bits,
    )


@_decode.register_fake
def _decode_fake(*inputs: Any) -> Tensor:
    pool, out, columns, dtype = inputs[1], inputs[6], inputs[7], inputs[9]
    return pool.new_empty(out, columns, dtype=dtype)


@_linear.register_fake
def _linear_fake(*inputs: Any) -> Tensor:
    x, out = inputs[0], inputs[8]
    return x.new_empty(x.shape[0], out)


def _keep_decode(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:6])
    ctx.rest = inputs[6:9]


def _decode_backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    out, columns, code_bits = ctx.rest
    codes, pool, first, size, table, scale = ctx.saved_tensors
    weight = _weight(codes, pool, first, size, table, scale, (out, columns), code_bits)
    needed = ctx.needs_input_grad
    to_pool = reference.pool_gradient(weight, gradient) if needed[1] else None
    to_scale = reference.scale_gradient(weight, gradient) if needed[5] else None
    return None, to_pool, None, None, None, to_scale, None, None, None, None


def _keep_linear(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:8])
    ctx.rest = inputs[8:]


def _linear_backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    x, codes, pool, first, size, table, scale, bias = ctx.saved_tensors
    out, code_bits = ctx.rest
    weight = _weight(codes, pool, first, size, table, scale, (out, x.shape[1]), code_bits)
    needed = ctx.needs_input_grad
    # decoded anew: kept from the forward pass it would take the memory of the dense weight
    to_x = gradient @ decode(weight, gradient.dtype).detach() if needed[0] else None
    to_pool = to_scale = None
    if needed[2] or needed[6]:
        wide = reference.wide_dtype(weight.pool, x.dtype)
        to_weight = gradient.to(wide).T @ x.to(wide)
        to_pool = reference.pool_gradient(weight, to_weight) if needed[2] else None
        to_scale = reference.scale_gradient(weight, to_weight) if needed[6] else None
    to_bias = gradient.sum(0).to(bias.dtype) if bias is not None and needed[7] else None
    return to_x, None, to_pool, None, None, None, to_scale, to_bias, None, None


_decode.register_autograd(_decode_backward, setup_context=_keep_decode)
_linear.register_autograd(_linear_backward, setup_context=_keep_linear)
