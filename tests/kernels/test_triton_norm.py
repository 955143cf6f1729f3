"""Norms and gates in Triton: interpreted against PyTorch, their machine code, and on a GPU."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.triton_cases import compiled, run_interpreted

pytest.importorskip("triton", reason="Triton comes with PyTorch's CUDA builds")

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def check(shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> None:
    """Compare all three with PyTorch, the modulations being chunks of a wider float32 tensor."""
    from dpqlab.kernels import norms, triton_norm

    images, _, width = shape
    shift, scale, gate = torch.randn(images, 3 * width, device=device).chunk(3, dim=1)
    x = (3 * torch.randn(shape, device=device) + 1).to(dtype)
    y = torch.randn(shape, device=device).to(dtype)
    near = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    torch.testing.assert_close(
        triton_norm.norm_modulate(x, shift, scale, 1e-5),
        norms.norm_modulate(x, shift, scale, 1e-5),
        **near,
    )
    kept = x.clone()
    torch.testing.assert_close(triton_norm.gate_add(x, y, gate), norms.gate_add(x, y, gate), **near)
    got = triton_norm.gate_add_norm_modulate(x, y, gate, shift, scale)
    expected = norms.gate_add_norm_modulate(x, y, gate, shift, scale)
    torch.testing.assert_close(got, expected, **near)
    assert torch.equal(x, kept)  # the results are new tensors


def test_they_do_what_pytorch_does_interpreted() -> None:
    run_interpreted("""
import torch
from tests.kernels.test_triton_norm import check
torch.manual_seed(0)
check((2, 5, 48), torch.float32, "cpu")
check((3, 4, 100), torch.float16, "cpu")
check((1, 2, 1152), torch.float32, "cpu")
check((2, 1, 4096), torch.float16, "cpu")
""")


def test_what_does_not_fit_is_refused() -> None:
    run_interpreted("""
import torch
from dpqlab.errors import ShapeError
from dpqlab.kernels import triton_norm
x, good = torch.zeros(2, 3, 8), torch.zeros(2, 8)
wide, for_wide = torch.zeros(1, 1, 5000), torch.zeros(1, 5000)
wrong = [
    lambda: triton_norm.norm_modulate(x, good, good[:1]),
    lambda: triton_norm.norm_modulate(x[0], good, good),
    lambda: triton_norm.gate_add(x, x[:, :2], good),
    lambda: triton_norm.gate_add(wide, wide, for_wide),
]
for call in wrong:
    try:
        call()
    except ShapeError as error:
        assert "got" in str(error)
    else:
        raise AssertionError("accepted")
""")


@pytest.mark.parametrize(("block", "warps"), [(2048, 4), (4096, 8)])
def test_a_token_stays_in_registers(block: int, warps: int) -> None:
    from dpqlab.kernels import triton_norm

    names = ("residual", "y", "gate", "shift", "scale", "added", "normed")
    constants = {"GATED": True, "NORMED": True, "BLOCK": block}
    # eps is the one float; compiled in, so that every other number is an int32
    machine = compiled(
        triton_norm._norm_kernel,
        dict.fromkeys(names, "*bf16"),
        constants | {"eps": 1e-6},
        num_warps=warps,
    )
    values = block // (32 * warps)
    assert machine.of("LDG.E.128") == 5 * values // 8
    assert machine.of("STG.E.128") == 2 * values // 8
    assert machine.of("LDL") == machine.of("STL") == 0


# --- on a GPU -----------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("shape", [(2, 256, 1152), (3, 49, 384), (1, 7, 4096), (2, 5, 100)])
def test_they_do_what_pytorch_does(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    check(shape, dtype, "cuda")
