"""The operations that PyTorch knows by name: schema, gradients, and what the definition says."""

# torch's testing helpers are untyped
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dpqlab.core import pack
from dpqlab.errors import ShapeError
from dpqlab.kernels import ops, reference
from dpqlab.kernels.coded import CodedWeight, runs_of_positions

CASES = ["plain", "scaled", "indexed", "ragged"]


def coded(case: str, *, dtype: torch.dtype = torch.float64, d: int = 3) -> CodedWeight:
    """A weight of 5 x 7 (so that d=3 does not divide it), its codes drawn within bounds."""
    out, columns, generator = 5, 7, torch.Generator().manual_seed(3)
    m = -(-columns // d)
    sizes = torch.tensor([4, 2, 5][:m] if case == "ragged" else [5] * m)
    base = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    first, size = runs_of_positions(base, torch.arange(m))
    entries = 6 if case == "indexed" else int(base[-1])
    codes = torch.stack([torch.randint(int(k), (out,), generator=generator) for k in sizes], 1)
    table = torch.randint(entries, (int(base[-1]),), generator=generator, dtype=torch.int32)
    return CodedWeight(
        codes=pack(codes.flatten(), 3),
        pool=torch.randn(entries, d, generator=generator, dtype=dtype),
        first=first,
        size=size,
        table=table if case == "indexed" else None,
        scale=torch.rand(out, generator=generator, dtype=dtype) if case == "scaled" else None,
        shape=(out, columns),
        code_bits=3,
    )


def by_definition(weight: CodedWeight) -> Tensor:
    """The weight, one value at a time, from the bits of the stream."""
    (out, columns), d, bits = weight.shape, weight.d, weight.code_bits
    result = torch.zeros(out, columns, dtype=weight.pool.dtype)
    stream = "".join(f"{int(byte):08b}"[::-1] for byte in weight.codes)
    for r in range(out):
        for c in range(columns):
            g = c // d
            at = (r * weight.positions + g) * bits
            code = int(stream[at : at + bits][::-1], 2)
            entry = int(weight.first[g]) + min(code, int(weight.size[g]) - 1)
            entry = entry if weight.table is None else int(weight.table[entry])
            scale = 1.0 if weight.scale is None else weight.scale[r]
            result[r, c] = weight.pool[entry, c % d] * scale
    return result


@pytest.mark.parametrize("case", CASES)
def test_decode_follows_the_definition(case: str) -> None:
    weight = coded(case)
    assert torch.equal(ops.decode(weight, torch.float64), by_definition(weight))


@pytest.mark.parametrize("case", CASES)
def test_linear_follows_the_definition(case: str) -> None:
    weight, x, bias = coded(case), torch.randn(2, 4, 7).double(), torch.randn(5).double()
    expected = x @ by_definition(weight).T + bias
    torch.testing.assert_close(ops.linear(x, weight, bias), expected)


def test_a_code_beyond_its_codebook_is_the_last_one() -> None:
    weight = coded("ragged")
    wild = replace(weight, codes=torch.full_like(weight.codes, 255))
    assert torch.equal(ops.decode(wild, torch.float64), by_definition(wild))


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_finite_differences(case: str) -> None:
    weight = coded(case)
    x = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(5, dtype=torch.float64, requires_grad=True)
    pool = weight.pool.clone().requires_grad_()
    scale = None if weight.scale is None else weight.scale.clone().requires_grad_()

    def product(x: Tensor, pool: Tensor, scale: Tensor | None, bias: Tensor) -> Tensor:
        return ops.linear(x, replace(weight, pool=pool, scale=scale), bias)

    def matrix(pool: Tensor, scale: Tensor | None) -> Tensor:
        return ops.decode(replace(weight, pool=pool, scale=scale), torch.float64)

    assert torch.autograd.gradcheck(product, (x, pool, scale, bias))
    assert torch.autograd.gradcheck(matrix, (pool, scale))


@pytest.mark.parametrize("case", CASES)
def test_the_operators_keep_pytorchs_contract(case: str) -> None:
    weight = coded(case, dtype=torch.float32)
    parts = (weight.codes, weight.pool.clone().requires_grad_(), weight.first, weight.size)
    tail = (weight.table, None if weight.scale is None else weight.scale.clone().requires_grad_())
    x = torch.randn(3, 7, requires_grad=True)
    bias = torch.randn(5, requires_grad=True)
    torch.library.opcheck(
        torch.ops.dpqlab.linear.default, (x, *parts, *tail, bias, 5, weight.code_bits)
    )
    for dtype in (torch.float32, torch.bfloat16):
        arguments = (*parts, *tail, 5, 7, weight.code_bits, dtype)
        torch.library.opcheck(torch.ops.dpqlab.decode.default, arguments)


def test_a_compiled_function_gives_the_same() -> None:
    weight, x = coded("scaled", dtype=torch.float32), torch.randn(3, 7)

    def twice(x: Tensor) -> Tensor:
        return ops.linear(x * 2, weight, None) + 1

    compiled = torch.compile(twice, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), twice(x))


def test_no_rows_give_no_rows() -> None:
    assert ops.linear(torch.empty(0, 7), coded("plain", dtype=torch.float32)).shape == (0, 5)


def test_a_wrong_input_is_refused() -> None:
    with pytest.raises(ShapeError, match="compressed Linear 5 x 7"):
        ops.linear(torch.randn(3, 6), coded("plain"))


def test_the_reference_writes_where_it_is_told() -> None:
    weight, there = coded("scaled", dtype=torch.float32), torch.full((5, 7), torch.nan)
    assert reference.decode(weight, torch.float32, there) is there
    assert torch.equal(there, reference.decode(weight, torch.float32))
