"""The compiled products on the CPU against the definition, one bit of a code at a time."""

from __future__ import annotations

import gc
import mmap
import subprocess
import sys
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dpqlab.kernels.coded import CodedWeight

numba_linear = pytest.importorskip("dpqlab.kernels.numba_linear", exc_type=ImportError)
team = pytest.importorskip("dpqlab.kernels.team", exc_type=ImportError)

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
LENGTHS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 16]


def coded(
    shape: tuple[int, int], d: int, k: int, bits: int, extras: str = "", seed: int = 0
) -> CodedWeight:
    """A weight with random bytes as codes: with k < 2**bits, many lie beyond their codebook.

    ``extras`` may name "table", "scale" and "shared" (one codebook), else codebooks are ragged.
    """
    draw, (out, columns) = np.random.default_rng(seed), shape
    m = -(-columns // d)
    size = np.full(m, k) if "shared" in extras else draw.integers(max(1, k // 2), k + 1, m)
    first = np.zeros(m, int) if "shared" in extras else np.cumsum(size) - size
    used = int((first + size).max())
    pool = used // 2 + 1 if "table" in extras else used
    table = torch.from_numpy(draw.integers(0, pool, used, np.int32)) if "table" in extras else None
    scale = torch.from_numpy(draw.uniform(0.5, 2.0, out)).half() if "scale" in extras else None
    return CodedWeight(
        codes=torch.from_numpy(draw.integers(0, 256, -(-out * m * bits // 8), np.uint8)),
        pool=torch.from_numpy(draw.standard_normal((pool, d))).half(),
        first=torch.from_numpy(first.astype(np.int32)),
        size=torch.from_numpy(size.astype(np.int32)),
        table=table,
        scale=scale,
        shape=shape,
        code_bits=bits,
    )


def by_definition(weight: CodedWeight) -> Tensor:
    """The weight (out, in): codeword times scale in float32, which is rounded once."""
    (out, columns), bits = weight.shape, weight.code_bits
    stream = np.unpackbits(weight.codes.numpy(), bitorder="little")[: out * weight.positions * bits]
    codes = (stream.reshape(out, weight.positions, bits) * (1 << np.arange(bits))).sum(-1)
    entry = weight.first.numpy() + np.minimum(codes, weight.size.numpy() - 1)
    entry = entry if weight.table is None else weight.table.numpy()[entry]
    rows = weight.pool.float().numpy()[entry].reshape(out, -1)[:, :columns]
    return torch.from_numpy(
        rows if weight.scale is None else rows * weight.scale.float().numpy()[:, None]
    )


def assert_product(found: Tensor, x: Tensor, weight: CodedWeight, bias: Tensor | None) -> None:
    """Compare with float64, at the tolerance that :func:`table_linear` states."""
    exact, x = by_definition(weight).double(), x.double()
    offset = torch.zeros(1) if bias is None else bias.double()
    size = x.abs() @ exact.abs().T + offset.abs()
    expected = x @ exact.T + offset
    rounding = torch.finfo(found.dtype).eps / 2 * expected.abs()
    assert ((found.double() - expected).abs() <= 2e-6 * size + rounding).all()


@pytest.fixture
def threads() -> Iterator[Any]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@st.composite
def weights(draw: Any, lengths: list[int]) -> CodedWeight:
    bits = draw(st.integers(1, 16))
    return coded(
        (draw(st.integers(1, 40)), draw(st.integers(1, 70))),
        draw(st.sampled_from(lengths)),
        draw(st.integers(1 + (bits > 1), min(1 << bits, 600))),
        bits,
        draw(st.sampled_from(["", "table", "scale", "shared", "table scale", "shared scale"])),
        draw(st.integers(0, 1 << 30)),
    )


@given(weight=weights(LENGTHS), dtype=st.sampled_from(DTYPES))
@settings(max_examples=200, deadline=None)
def test_decoding_gives_the_bits_of_the_definition(weight: CodedWeight, dtype: torch.dtype) -> None:
    expected = by_definition(weight).to(dtype)
    assert torch.equal(numba_linear.decode(weight, dtype), expected)
    wide = torch.zeros(weight.shape[0], weight.shape[1] + 1, dtype=dtype)
    for there in (torch.zeros_like(expected), wide[:, 1:]):
        assert numba_linear.decode(weight, dtype, there) is there
        assert torch.equal(there, expected)


# a length with vectors, one without, and one that divides no power of two: each is compiled anew
@given(weight=weights([3, 5, 8]), rows=st.sampled_from([1, 2, 3, 9, 21]), seed=st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_products_follow_the_definition(weight: CodedWeight, rows: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, weight.shape[1], generator=generator)
    bias = torch.randn(weight.shape[0], generator=generator) if seed % 2 else None
    assert_product(numba_linear.table_linear(x, weight, bias), x, weight, bias)
    assert_product(numba_linear.decoded_linear(x, weight, bias), x, weight, bias)


@pytest.mark.parametrize("d", [2, 4, 6, 16])
def test_other_lengths_of_codewords(d: int) -> None:
    weight, x = coded((33, 100), d, 37, 6, "scale"), torch.randn(1, 100)
    assert_product(numba_linear.table_linear(x, weight, None), x, weight, None)
    assert_product(numba_linear.decoded_linear(x, weight, None), x, weight, None)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_result_has_the_dtype_of_x(dtype: torch.dtype) -> None:
    weight, bias = coded((70, 96), 8, 200, 8, "scale"), torch.randn(70).half()
    x = torch.randn(96, 3).to(dtype).T  # not contiguous
    assert_product(numba_linear.table_linear(x, weight, bias), x, weight, bias)
    found = numba_linear.decoded_linear(x, weight, bias)
    assert found.dtype == dtype
    expected = torch.nn.functional.linear(x, by_definition(weight).to(dtype), bias.to(dtype))
    torch.testing.assert_close(
        found, expected, rtol=4e-3, atol=0.05 if dtype != torch.float32 else 1e-4
    )


def test_no_code_reads_beyond_its_codebook_or_the_stream() -> None:
    """What lies before and behind in memory is NaN, or codes that would be seen."""
    weight = coded((9, 40), 8, 5, 3, "shared")
    around = torch.full((5 + 6, 8), torch.nan)
    around[3:8] = weight.pool.float()
    for fill in (0, 255):
        codes = torch.full((len(weight.codes) + 7,), fill, dtype=torch.uint8)
        codes[3:-4] = weight.codes  # at an odd address
        bare = replace(weight, pool=around[3:8], codes=codes[3:-4])
        assert torch.equal(numba_linear.decode(bare, torch.float32), by_definition(weight))
        assert_product(
            numba_linear.table_linear(torch.ones(2, 40), bare, None),
            torch.ones(2, 40),
            weight,
            None,
        )


GUARDED = """
import ctypes, mmap
from dataclasses import replace
import numpy as np, torch
from dpqlab.kernels import numba_linear, reference
from tests.kernels.test_numba_linear import coded

memory = mmap.mmap(-1, 2 * mmap.PAGESIZE)
address = np.frombuffer(memory, np.uint8).ctypes.data
protect = ctypes.CDLL(None).mprotect
protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
assert protect(address + mmap.PAGESIZE, mmap.PAGESIZE, 0) == 0
for bits in range(1, 17):
    for columns in (8, 40, 64, 72, 128):
        weight = coded((3, columns), 4, 2, bits)
        n = len(weight.codes)
        last = np.frombuffer(memory, np.uint8, n, mmap.PAGESIZE - n)
        last[:] = weight.codes.numpy()
        there = replace(weight, codes=torch.from_numpy(last))
        found = numba_linear.decode(there, torch.float32)
        assert torch.equal(found, reference.decode(weight, torch.float32))
print("read")
"""


@pytest.mark.skipif(not hasattr(mmap, "PROT_READ"), reason="needs protected pages of memory")
def test_the_page_behind_the_codes_is_not_read() -> None:
    """A read there would end the process, so another one does it."""
    command, root = [sys.executable, "-c", GUARDED], Path(__file__).parents[2]
    ran = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.strip()) == (0, "read"), ran.stderr


def test_threads_change_nothing(threads: Any) -> None:
    weight, x = coded((131, 290), 8, 200, 8, "scale"), torch.randn(3, 290)
    threads(1)
    whole = numba_linear.decode(weight, torch.bfloat16), numba_linear.table_linear(x, weight, None)
    product = numba_linear.decoded_linear(x, weight, None)
    threads(2)
    for _ in range(200):
        assert torch.equal(numba_linear.decode(weight, torch.bfloat16), whole[0])
        assert torch.equal(numba_linear.table_linear(x, weight, None), whole[1])
        torch.testing.assert_close(numba_linear.decoded_linear(x, weight, None), product)


def test_without_openmp_other_threads_work(threads: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = coded((131, 290), 8, 200, 8, "scale"), torch.randn(3, 290)
    threads(3)
    monkeypatch.setattr(team, "_openmp", lambda: None)
    for _ in range(20):
        assert_product(numba_linear.decoded_linear(x, weight, None), x, weight, None)
        assert_product(numba_linear.table_linear(x, weight, None), x, weight, None)


@pytest.mark.parametrize("bias", [None, torch.linspace(-1, 1, 700)])
def test_without_a_blas_pytorch_multiplies(
    bias: Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, x = coded((700, 512), 8, 200, 8), torch.randn(20, 512)  # two tiles
    monkeypatch.setattr(team, "blas_address", lambda: 0)
    assert_product(numba_linear.decoded_linear(x, weight, bias), x, weight, bias)


def test_a_changed_tensor_is_seen() -> None:
    weight = coded((8, 32), 4, 16, 4, "scale")
    assert weight.scale is not None
    for tensor in (weight.pool, weight.scale, weight.codes):
        numba_linear.decode(weight, torch.float32)
        tensor.add_(1)
        assert torch.equal(numba_linear.decode(weight, torch.float32), by_definition(weight))
    other = replace(weight, pool=weight.pool + 1)
    assert torch.equal(numba_linear.decode(other, torch.float32), by_definition(other))
    weight.pool.data = weight.pool * 2
    assert torch.equal(numba_linear.decode(weight, torch.float32), by_definition(weight))


def test_tensors_of_inference_mode_can_change_too() -> None:
    with torch.inference_mode():
        weight = coded((8, 32), 4, 16, 4)
        weight = replace(weight, pool=weight.pool.clone())
        numba_linear.decode(weight, torch.float32)
        weight.pool.add_(1)
        assert torch.equal(numba_linear.decode(weight, torch.float32), by_definition(weight))


def test_nothing_is_kept_of_a_weight_that_is_gone() -> None:
    weight = coded((8, 32), 4, 16, 4)
    numba_linear.decode(weight, torch.float32)
    gone = [weakref.ref(weight.codes), weakref.ref(weight.pool)]
    kept = [weakref.ref(numba_linear.prepare(weight).words)]
    del weight
    gc.collect()
    assert [reference() for reference in gone + kept] == [None, None, None]


def test_no_rows() -> None:
    weight = coded((8, 32), 4, 16, 4)
    assert numba_linear.decoded_linear(torch.empty(0, 32), weight, None).shape == (0, 8)
    assert numba_linear.table_linear(torch.empty(0, 32), weight, None).shape == (0, 8)
