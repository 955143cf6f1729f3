from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpqlab.core import ScalarCodec, relative_error, scalar_decode, scalar_encode
from dpqlab.errors import ConfigError, ShapeError


def error(weight: torch.Tensor, bits: int, group_size: int) -> float:
    codec = ScalarCodec(bits=bits, group_size=group_size)
    return relative_error(weight, scalar_decode(scalar_encode(weight, codec)))


@given(
    rows=st.integers(1, 6), columns=st.integers(1, 30), bits=st.integers(1, 8),
    group_size=st.integers(1, 40),
)  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_any_shape_goes_through(rows: int, columns: int, bits: int, group_size: int) -> None:
    weight = torch.randn(rows, columns)
    encoded = scalar_encode(weight, ScalarCodec(bits=bits, group_size=group_size))
    assert encoded.codes.shape == weight.shape
    assert encoded.scale.shape == (rows, -(-columns // group_size))
    assert encoded.scale.dtype == torch.float16
    assert int(encoded.codes.min()) >= 0
    assert int(encoded.codes.max()) < 2**bits
    decoded = scalar_decode(encoded)
    column = columns - 1
    level = 2 * int(encoded.codes[0, column]) + 1 - 2**bits
    assert decoded[0, column] == level * encoded.scale[0, column // group_size].float()


def test_one_bit_is_sign_times_mean() -> None:
    weight = torch.randn(8, 32)
    decoded = scalar_decode(scalar_encode(weight, ScalarCodec(bits=1, group_size=32)))
    expected = weight.abs().mean(1, keepdim=True).half().float() * weight.sign()
    torch.testing.assert_close(decoded, expected, rtol=1e-3, atol=0)


def test_codes_are_the_nearest_levels() -> None:
    weight = torch.randn(4, 64)
    encoded = scalar_encode(weight, ScalarCodec(bits=3, group_size=64))
    grid = (2 * torch.arange(8) - 7) * encoded.scale.float()
    nearest = (weight[..., None] - grid[:, None]).abs().argmin(-1)
    assert encoded.codes.equal(nearest)


@pytest.mark.parametrize(("bits", "best"), [(1, 0.3634), (2, 0.1188), (3, 0.03744), (4, 0.01154)])
def test_gaussian_error_is_that_of_the_best_uniform_grid(bits: int, best: float) -> None:
    # Max (1960), "Quantizing for minimum distortion", table II
    weight = torch.randn(16, 4096, generator=torch.Generator().manual_seed(0))
    assert error(weight, bits, 4096) == pytest.approx(best, rel=0.02)


def test_smaller_groups_and_more_bits_are_better() -> None:
    weight = torch.randn(16, 256) * torch.logspace(-1, 1, 256)
    by_group = [error(weight, 2, size) for size in (8, 32, 256)]
    by_bits = [error(weight, bits, 32) for bits in (8, 6, 4, 3, 2, 1)]
    assert by_group == sorted(by_group)
    assert by_bits == sorted(by_bits)


def test_zero_and_tiny_weights_stay_finite() -> None:
    for weight in (torch.zeros(2, 8), torch.full((2, 8), 1e-12)):
        decoded = scalar_decode(scalar_encode(weight, ScalarCodec(bits=2, group_size=4)))
        assert bool((decoded == 0).all())


@pytest.mark.parametrize("settings", [{"bits": 0}, {"bits": 9}, {"group_size": 0}])
def test_impossible_codecs(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ScalarCodec(**{"bits": 2, "group_size": 64} | settings)


def test_impossible_weights() -> None:
    codec = ScalarCodec(bits=2, group_size=4)
    with pytest.raises(ShapeError, match=r"\(out, in\)"):
        scalar_encode(torch.zeros(4), codec)
    with pytest.raises(ConfigError, match="NaN"):
        scalar_encode(torch.full((2, 2), torch.nan), codec)
