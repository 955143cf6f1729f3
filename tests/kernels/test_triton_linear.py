"""Products that decode on the way: interpreted against the definition, machine code, on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.kernels.random_weights import random_weight
from tests.kernels.triton_cases import RAGGED, Machine, compiled, run_interpreted, weight_of

pytest.importorskip("triton", reason="Triton comes with PyTorch's CUDA builds")

SMALL = range(7)  # cases; the others only make the interpreter slower
SHAPES = [(1152, 1152), (4608, 1152), (1152, 4608)]  # of DiT-XL/2's tokens


def check(x: Any, weight: Any, bias: Any, config: Any = None) -> None:
    """Compare with float64 within the stated tolerance, and with itself bit by bit."""
    from dpqlab.kernels.triton_linear import fused_linear
    from tests.kernels.triton_cases import by_definition

    exact = by_definition(weight).double().to(x.device)
    expected = x.double() @ exact.T
    size = x.double().abs() @ exact.abs().T
    if bias is not None:
        expected, size = expected + bias.double(), size + bias.double().abs()
    got = fused_linear(x, weight, bias, config)
    assert got.dtype == x.dtype
    share = {torch.float32: 2**-18, torch.float16: 2**-11, torch.bfloat16: 2**-8}[x.dtype]
    rounding = share * (size + expected.abs()) + 1e-6
    assert bool(((got.double() - expected).abs() <= rounding).all())
    assert torch.equal(got, fused_linear(x, weight, bias, config))


def test_every_layout_interpreted() -> None:
    run_interpreted(f"""
import torch
from dpqlab.kernels.triton_linear import LinearConfig, fused_linear
from tests.kernels.test_triton_linear import check
from tests.kernels.triton_cases import weight_of
torch.manual_seed(0)
split = LinearConfig(rows=16, outputs=32, inner=32, splits=2)
for case in {list(SMALL)}:
    for dtype, rows, config in ((torch.float32, 17, split), (torch.float16, 9, None)):
        weight = weight_of(case)
        out, columns = weight.shape
        x = torch.randn(rows, 2 * columns).to(dtype)[:, :columns]  # rows apart
        check(x, weight, torch.randn(out) if case % 2 else None, config)
assert fused_linear(torch.empty(0, columns), weight, None).shape == (0, out)
""")


def test_an_input_that_does_not_fit_is_refused() -> None:
    run_interpreted("""
import torch
from dpqlab.errors import ShapeError
from dpqlab.kernels.triton_linear import fused_linear
from tests.kernels.triton_cases import weight_of
for x in (torch.zeros(9, 95), torch.zeros(2, 9, 96)):
    try:
        fused_linear(x, weight_of(0), None)
    except ShapeError as error:
        assert "expected" in str(error) or "must have" in str(error)
    else:
        raise AssertionError("accepted")
""")


@pytest.mark.parametrize("shape", [*SHAPES, (7, 9), (48, 384)])
@pytest.mark.parametrize("rows", [9, 16, 64, 100, 256, 512, 1000])
def test_the_tiles_cover_the_product(rows: int, shape: tuple[int, int]) -> None:
    from dpqlab.kernels.triton_linear import choose_linear_config

    config = choose_linear_config(rows, shape, 4)
    steps = -(-shape[1] // config.inner)
    each = -(-steps // config.splits)
    assert config.splits * each >= steps > (config.splits - 1) * each  # and no part is empty
    assert config.rows >= min(rows, 256)  # one tile of rows: a weight is decoded once


def built(rows: int, shape: tuple[int, int], d: int, bits: int, **dtypes: str) -> Machine:
    from dpqlab.kernels import triton_linear
    from dpqlab.kernels.triton_codes import unit_of

    x = dtypes.get("x", "*bf16")
    itemsize = 4 if x == "*fp32" else 2
    config = triton_linear.choose_linear_config(rows, shape, d, itemsize)
    flags = {"EVEN": True, "INDEXED": False, "SCALED": True, "WIDE": False, "BIASED": True}
    constants: dict[str, Any] = flags | {"D": d, "UNIT": unit_of(d), "BITS": bits}
    constants |= {"PARTIAL": config.splits > 1, "STEPS": 6}
    constants |= {"BM": config.rows, "BN": config.outputs, "BK": config.inner}
    pointers = {"x": x, "codes": "*u8", "pool": dtypes.get("pool", x)}
    pointers |= {"first": "*i32", "size": "*i32", "table": "*i32", "scale": "*fp16"}
    pointers |= {"bias": "*fp16", "out": "*fp32" if config.splits > 1 else x}
    options = {"num_warps": config.warps, "num_stages": config.stages}
    return compiled(triton_linear._fused_kernel, pointers, constants, **options)


@pytest.mark.parametrize(("d", "bits"), [(4, 8), (4, 9), (8, 9)])
@pytest.mark.parametrize("rows", [16, 256])
def test_codewords_go_straight_to_the_tensor_cores(rows: int, d: int, bits: int) -> None:
    machine = built(rows, (1152, 1152), d, bits)
    assert machine.of("HGMMA" if rows >= 64 else "HMMA") > 0
    copies = "LDGSTS.E.64" if d == 4 else "LDGSTS.E.BYPASS.128"
    assert machine.of(copies) > 0  # without passing through registers
    assert machine.of("SHFL") == machine.of("LDL") == machine.of("STL") == 0


@pytest.mark.parametrize(
    ("d", "dtypes"),
    [(4, {"pool": "*fp16"}), (8, {"pool": "*fp16"}), (4, {"x": "*fp32"}), (6, {}), (1, {})],
)
def test_other_codecs_do_not_spill(d: int, dtypes: dict[str, str]) -> None:
    machine = built(256, (1152, 1152), d, 9, **dtypes)
    assert machine.of("HGMMA") > 0
    assert machine.of("SHFL") == machine.of("LDL") == machine.of("STL") == 0


# --- on a GPU -----------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("case", range(len(RAGGED)))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_layout(case: int, dtype: torch.dtype) -> None:
    for pool in (torch.float16, dtype):
        weight = weight_of(case, pool).to("cuda")
        out, columns = weight.shape
        for rows in (9, 70):
            x = torch.randn(rows, columns, device="cuda").to(dtype)
            check(x, weight, torch.randn(out, device="cuda").to(dtype))


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [9, 49, 256, 300, 512])
@pytest.mark.parametrize(("d", "k", "scopes"), [(4, 256, "position"), (8, 1000, "layer")])
def test_layers_of_dit_xl(shape: tuple[int, int], rows: int, d: int, k: int, scopes: str) -> None:
    weight = random_weight(shape, d, k, scopes=scopes, extras=("scale",)).to("cuda")
    x = torch.randn(rows, shape[1], device="cuda").bfloat16()
    check(x, weight, torch.randn(shape[0], device="cuda").bfloat16())


@pytest.mark.gpu
def test_tuning_times_what_fits() -> None:
    from dpqlab.kernels.triton_linear import LinearConfig, tune

    weight = random_weight((1152, 1152), 4, 512, scopes="layer").to("cuda")
    x = torch.randn(256, 1152, device="cuda").bfloat16()
    fits, too_large = LinearConfig(rows=128), LinearConfig(rows=512, inner=256, stages=5)
    timed = tune(x, weight, None, [too_large, fits])
    assert [config for _, config in timed] == [fits]
    assert 0 < timed[0][0] < 1e4
